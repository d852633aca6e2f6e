#!/usr/bin/env python3
"""Make ``python/iam/data/releases.json.gz``: where the coders are that SAELens users know by release and sae_id.

Only facts are kept: names, hub repositories, paths in them, model, format, hook, and the scale of the input where there is one. They
come from ``pretrained_saes.yaml`` of an installed SAELens (MIT licence, github.com/decoderesearch/SAELens):

    python scripts/make_release_index.py /path/to/site-packages/sae_lens/pretrained_saes.yaml

The output depends on nothing but the input. ``tests/unit/test_formats_pretrained.py`` checks what it says.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from pathlib import Path
from typing import Any

import yaml

OUT = Path(__file__).resolve().parents[1] / "python" / "iam" / "data" / "releases.json.gz"

# SAELens's loader -> IAM's format and the options of its reader; a loader that is not here has no reader in IAM.
FORMATS: dict[str | None, tuple[str, dict[str, Any]]] = {
    None: ("saelens", {}),
    "connor_rob_hook_z": ("state_dict", {}),
    "deepseek_r1": ("state_dict", {}),
    "dictionary_learning_1": ("dictionary_learning", {}),
    "gemma_2": ("gemma_scope", {"kind": "sae"}),
    "gemma_2_transcoder": ("gemma_scope", {"kind": "transcoder"}),
    "gemma_3": ("gemma_scope_2", {}),
    "goodfire": ("state_dict", {}),
    "llama_scope": ("llama_scope", {}),
    "llama_scope_r1_distill": ("llama_scope_r1", {}),
    "mntss_clt_layer_transcoder": ("circuit_tracer_clt", {}),
    "mwhanna_transcoder": ("circuit_tracer", {}),
    "qwen_scope": ("state_dict", {}),
    "sparsify": ("sparsify", {}),
}


def hook(loader: str | None, repo: str, name: str, path: str) -> str | None:
    """Where a coder reads, from its names; None where they do not say it."""
    if re.fullmatch(r"blocks\.\d+\.[\w.]+", name):
        return name
    layer = re.search(r"layer_?(\d+)|-L(\d+)[RAM]|/L(\d+)R$|-l(\d+)\.pth?$", path)
    number = next((part for part in layer.groups() if part is not None), None) if layer else None
    if number is None:
        return "hook_embed" if "embedding" in path else None
    kinds: dict[str, str] = {}
    if loader == "gemma_2":
        kinds = {"-res": "hook_resid_post", "-mlp": "hook_mlp_out", "-att": "attn.hook_z"}
        found = next((value for key, value in kinds.items() if key in repo), None)
    elif loader == "gemma_2_transcoder":
        found = "ln2.hook_normalized"
    elif loader == "gemma_3":
        kinds = {"resid_post": "hook_resid_post", "mlp_out": "hook_mlp_out", "attn_out": "attn.hook_z"}
        kinds["transcoder"] = "mlp.hook_in"
        found = next((value for key, value in kinds.items() if path.startswith(key)), None)
    elif loader == "llama_scope":
        found = {"R": "hook_resid_post", "A": "hook_attn_out", "M": "hook_mlp_out"}[
            re.search(r"-L\d+([RAM])-", path)[1]
        ]  # type: ignore[index]
    elif loader in ("goodfire", "llama_scope_r1_distill", "qwen_scope"):
        found = "hook_resid_post"
    elif loader == "mwhanna_transcoder":
        found = "mlp.hook_in"
    elif loader == "dictionary_learning_1" and "resid_post" in path:
        found = "hook_resid_post"
    else:
        found = None
    return None if found is None else f"blocks.{number}.{found}"


def entries(item: dict[str, Any]) -> list[dict[str, Any]]:
    """The coders of a release; one release of the source has part of its own list nested in the first entry."""
    own = [entry for entry in item["saes"] if "saes" not in entry]
    nested = [entry for outer in item["saes"] if "saes" in outer for entry in [outer, *outer["saes"]]]
    unique = {entry["id"]: entry for entry in [*nested, *own]}
    return list(unique.values())


def build(source: Path) -> dict[str, Any]:
    raw = yaml.load(source.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    releases: dict[str, Any] = {}
    for release, item in sorted(raw.items()):
        loader = item.get("conversion_func")
        format_, options = FORMATS.get(loader, (None, {}))
        coders: dict[str, Any] = {}
        for entry in entries(item):
            path = str(entry["path"])
            record: dict[str, Any] = {"path": path}
            if (where := hook(loader, item["repo_id"], entry["id"], path)) is not None:
                record["hook"] = where
            if format_ == "saelens" and entry.get("norm_scaling_factor") is not None:
                record["scale"] = entry["norm_scaling_factor"]
            coders[entry["id"]] = record
        releases[release] = {"repo": item["repo_id"], "model": item["model"], "format": format_, "coders": coders}
        if format_ is None:
            releases[release]["loader"] = loader
        if options:
            releases[release]["options"] = options
        overrides = item.get("config_overrides") or {}
        if "normalize_activations" in overrides:
            releases[release]["normalize_activations"] = overrides["normalize_activations"]
    return {"schema": "iam.releases/1", "source": "pretrained_saes.yaml of SAELens (MIT)", "releases": releases}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    index = build(arguments.source)
    text = json.dumps(index, sort_keys=True, separators=(",", ":")).encode()
    arguments.out.write_bytes(gzip.compress(text, 9, mtime=0))
    number = sum(len(item["coders"]) for item in index["releases"].values())
    print(f"{len(index['releases'])} releases, {number} coders, {arguments.out.stat().st_size} bytes: {arguments.out}")


if __name__ == "__main__":
    main()
