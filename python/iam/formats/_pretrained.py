"""Coders from the hub: by the release and sae_id that SAELens users know, or by repository and folder."""

from __future__ import annotations

import functools
import gzip
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from iam.core.config import nearest
from iam.core.errors import ArgumentError, FormatError, MissingDependencyError
from iam.formats._build import build
from iam.formats._detect import FORMATS, detect, load_raw
from iam.formats._raw import RawCoder

__all__ = ["Release", "from_pretrained", "releases", "resolve"]

_DATA = Path(__file__).resolve().parents[1] / "data"
_INDEX = _DATA / "releases.json.gz"
_SHIPPED = "iam"
"""The release of the coders in the package."""

# What is fetched of each format, relative to the path in the repository; "?" marks what may be absent.
_FILES = {
    "dictionary_learning": ("ae.pt", "config.json"),
    "gemma_scope": ("params.npz",),
    "gemma_scope_2": ("params.safetensors", "config.json?"),
    "iam": ("coder.json",),
    "llama_scope": ("hyperparams.json", "checkpoints/final.safetensors"),
    "llama_scope_r1": ("config.json", "sae_weights.safetensors"),
    "saelens": ("cfg.json", "sae_weights.safetensors"),
    "sparsify": ("cfg.json", "sae.safetensors"),
}

# SAELens's loaders that have no reader here, and why.
_UNREAD = {
    "temporal": "a temporal SAE predicts part of an activation by attention over the positions before it, so it is no function of "
    "one activation, which every coder of IAM is",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Where one coder is.

    Attributes:
        repo: The hub repository.
        path: The folder or file in it; empty for the whole repository.
        format: A key of ``iam.formats.FORMATS``; None if it is to be found out.
        model: The model that it was trained on, as the release names it.
        hook_name: Where it reads, by SAELens's name; None if names do not say it.
        scale: What its input is multiplied by, where the release says it and the files do not.
        options: What the format's reader is told.
        normalize_activations: What the release says in place of the config.
    """

    repo: str
    path: str
    format: str | None
    model: str | None = None
    hook_name: str | None = None
    scale: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    normalize_activations: str | None = None


@functools.cache
def _index() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(gzip.decompress(_INDEX.read_bytes()))
    return document["releases"]


def releases() -> dict[str, list[str]]:
    """Every release in the index and its sae_ids; nothing is fetched. Release ``iam`` is in the package."""
    return {_SHIPPED: _shipped()} | {name: list(item["coders"]) for name, item in _index().items()}


def _shipped() -> list[str]:
    return sorted(folder.name for folder in _DATA.iterdir() if (folder / "README.md").is_file())


def _check_id(release: str, sae_id: str | None, there: Collection[str]) -> str:
    if sae_id is not None and sae_id in there:
        return sae_id
    near = nearest(str(sae_id), there) if sae_id else None
    some = ", ".join(list(there)[:3])
    raise ArgumentError(
        f'from_pretrained: release "{release}" has no sae_id {sae_id!r}'
        + (f'; did you mean "{near}"?' if near else "")
        + f" It has {len(there)}: {some}{'...' if len(there) > 3 else ''}"
    )


def resolve(release: str, sae_id: str | None = None) -> Release:
    """Find out where a coder is, offline.

    Args:
        release: A name of :func:`releases`, or a hub repository ``owner/name``.
        sae_id: The coder in it; for a repository, the folder or file.

    Raises:
        ArgumentError: no such release or sae_id; the nearest are named.
        FormatError: a release whose format IAM does not read (``format``).
    """
    if release == _SHIPPED:
        folder = _check_id(release, sae_id, _shipped())
        return Release(repo=_SHIPPED, path=folder, format=detect(_DATA / folder).format)
    index = _index()
    if release not in index:
        if "/" in release:
            return Release(repo=release, path=(sae_id or "").strip("/"), format=None)
        near = nearest(release, index)
        raise ArgumentError(
            f'from_pretrained: unknown release "{release}"'
            + (f'; did you mean "{near}"?' if near else "")
            + " Give a name of iam.formats.releases(), or a hub repository owner/name"
        )
    item = index[release]
    sae_id = _check_id(release, sae_id, item["coders"])
    if item["format"] is None:
        raise FormatError(
            f"from_pretrained: {release} is not read: {_UNREAD.get(item['loader'], item['loader'])}. Read are "
            f"{', '.join(sorted(FORMATS))}",
            code="format",
        )
    coder = item["coders"][sae_id]
    return Release(
        repo=item["repo"], path="" if item["format"] == "circuit_tracer_clt" else coder["path"], format=item["format"],
        model=item["model"], hook_name=coder.get("hook"), scale=coder.get("scale"), options=item.get("options", {}),
        normalize_activations=item.get("normalize_activations"),
    )  # fmt: skip


def from_pretrained(
    release: str,
    sae_id: str | None = None,
    *,
    format: str | None = None,
    kind: str | None = None,
    layer: int | None = None,
    revision: str | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Any:
    """A coder from the hub, or from its cache.

    Args:
        release: A name that SAELens users know (:func:`iam.formats.releases`), a hub repository ``owner/name``, or ``iam`` for the
            coders in the package.
        sae_id: The coder in the release; the folder or file in a repository.
        format: What the repository's files are, where it cannot be found out.
        kind: ``sae`` or ``transcoder``, for Gemma Scope files of a repository whose name does not say it.
        layer: Which, of a repository with transcoders of several layers (circuit-tracer), also where its ``config.yaml`` lists files
            of other repositories (``transcoders: [hf://...]``).
        revision: A commit, branch or tag of the repository.
        force_download: Fetch again what is in the cache.
        local_files_only: Only the cache. ``HF_HUB_OFFLINE=1`` does the same for all calls.

    Returns:
        An :class:`iam.SAE`, ``iam.Transcoder`` or ``iam.CrossLayerTranscoder``. A release that SAELens reads as one layer of a
        cross-layer transcoder is the whole transcoder here.

    Raises:
        ArgumentError: an unknown release or sae_id.
        FormatError: not fetched, for want of a network, a file or permission (``file-missing``), or as ``iam.formats.load``.
        MissingDependencyError: huggingface_hub is not installed.
    """
    found = resolve(release, sae_id)
    if found.repo == _SHIPPED:
        return build(load_raw(_DATA / found.path))
    format = format or found.format
    fetch = _Fetch(found.repo, revision, force_download, local_files_only)
    listed = None
    if format in (None, "circuit_tracer"):
        listed = _listed(fetch, found.path, layer, kind)
    if listed is not None:
        return build(replace(listed, metadata={"release": release} | dict(listed.metadata)))
    if format is None:
        at = fetch.folder(found.path)
        seen = detect(at)
        format, at = seen.format, seen.path
    elif format == "state_dict":
        at = fetch.file(found.path)
        if "_Hcat_z_" in found.path:  # the one layout with a config
            fetch.file(f"{found.path.removesuffix('.pt')}_cfg.json")
    elif format == "iam":
        at = fetch.folder(found.path)
    elif format in ("circuit_tracer", "circuit_tracer_clt"):
        if format == "circuit_tracer" and found.path.endswith(".safetensors"):
            at = fetch.file(found.path)
            fetch.optional(f"{found.path.rpartition('/')[0]}/config.yaml".lstrip("/"))
        else:
            at = fetch.folder(found.path)
    else:
        at = fetch.files(found.path, _FILES[format])
    raw = load_raw(at, format, layer=layer, **({"kind": kind} | dict(found.options)))
    if found.normalize_activations is not None:
        raw = replace(raw, normalize_activations=found.normalize_activations)
    if raw.normalize_activations == "expected_average_only_in" and raw.norm_scale is None and found.scale is not None:
        raw = replace(raw, norm_scale=found.scale)
    known = {"model_name": found.model, "hook_name": found.hook_name, "release": release, "sae_id": sae_id}
    metadata = {name: value for name, value in known.items() if value is not None} | dict(raw.metadata)
    return build(replace(raw, metadata=metadata))


def _listed(fetch: _Fetch, path: str, layer: int | None, kind: str | None) -> RawCoder | None:
    """The transcoder that circuit-tracer's ``config.yaml`` of a repository names by its address; None if it names none.

    Raises:
        FormatError: a list without a layer asked for, an address that is none, or as :func:`from_pretrained`.
    """
    from iam.formats._yaml import read_yaml
    from iam.formats.circuit_tracer import CONFIG_NAME

    if Path(path).suffix:  # one file
        return None
    config_file = fetch.optional(f"{path}/{CONFIG_NAME}".lstrip("/"))
    if config_file is None or (listed := (config := read_yaml(config_file)).get("transcoders")) is None:
        return None
    if not isinstance(listed, list) or not listed or not all(isinstance(item, str) for item in listed):
        raise FormatError(
            f"{config_file}: transcoders: expected a list of addresses, got {listed!r:.200}", code="config-value"
        )
    if config.get("model_kind") == "cross_layer_transcoder":
        files = [_download(fetch, uri, config_file) for uri in listed]
        return load_raw(files[0].parent)
    if layer is None or not 0 <= layer < len(listed):
        raise FormatError(
            f"from_pretrained: {CONFIG_NAME} lists transcoders of {len(listed)} layers; say which with layer=0..{len(listed) - 1}, "
            f"got {layer}",
            code="format",
        )
    raw = load_raw(_download(fetch, listed[layer], config_file), kind=kind or "transcoder")
    known: dict[str, Any] = {}
    for ours, theirs in (("hook_name", "feature_input_hook"), ("hook_name_out", "feature_output_hook")):
        if isinstance(config.get(theirs), str):
            known[ours] = f"blocks.{layer}.{config[theirs]}"
    if isinstance(config.get("model_name"), str):
        known["model_name"] = config["model_name"]
    return replace(raw, metadata=known | dict(raw.metadata))


def _download(fetch: _Fetch, uri: str, config_file: Path) -> Path:
    """The file at ``hf://owner/repository/path?revision=...``, and the config beside it."""
    match = re.fullmatch(r"hf://([^/]+/[^/?]+)/([^?]+)(?:\?revision=([^&]+))?", uri)
    if match is None:
        raise FormatError(
            f"{config_file}: transcoders: expected hf://owner/repository/path, got {uri!r:.200}", code="config-value"
        )
    other = fetch.of(match[1], match[3])
    at = other.file(match[2])
    if at.suffix == ".safetensors":
        other.optional(f"{match[2].rpartition('/')[0]}/config.json".lstrip("/"))
    return at


class _Fetch:
    """Files of one repository; every failure is a FormatError that says what was wanted and what to do."""

    def __init__(self, repo: str, revision: str | None, force: bool, local: bool) -> None:
        try:
            import huggingface_hub
            import huggingface_hub.errors
        except ImportError as error:
            raise MissingDependencyError(
                'from_pretrained: needs huggingface_hub; install it with: pip install "iam[models]"'
            ) from error
        self._hub: Any = huggingface_hub
        self._repo, self._force, self._local = repo, force, local
        self._options = {"revision": revision, "force_download": force, "local_files_only": local}

    def file(self, name: str) -> Path:
        try:
            return Path(self._hub.hf_hub_download(self._repo, name, **self._options))
        except Exception as error:  # the hub, the network and the cache each have errors of their own
            raise self._failed(name, error) from error

    def of(self, repo: str, revision: str | None) -> _Fetch:
        """The same for another repository."""
        return _Fetch(repo, revision, self._force, self._local)

    def optional(self, name: str) -> Path | None:
        """The file, or None where the repository, as far as it can be asked, has none."""
        try:
            return self.file(name)
        except FormatError as error:
            if not isinstance(error.__cause__, self._hub.errors.EntryNotFoundError):
                raise
            return None

    def files(self, path: str, names: tuple[str, ...]) -> Path:
        at: Path | None = None
        for name in names:
            full = f"{path}/{name.rstrip('?')}".lstrip("/")
            if name.endswith("?"):
                self.optional(full)
            else:
                found = self.file(full)
                at = at or found.parents[name.count("/")]
        assert at is not None
        return at

    def folder(self, path: str) -> Path:
        """All weights and configs below ``path``, or a file."""
        if Path(path).suffix in (".safetensors", ".npz", ".pt"):
            return self.file(path)
        below = f"{path}/" if path else ""
        kinds = ("*.safetensors", "*.json", "*.yaml", "*.npz", "ae.pt")
        try:
            at = Path(
                self._hub.snapshot_download(
                    self._repo, allow_patterns=[below + kind for kind in kinds], **self._options
                )
            )
        except Exception as error:
            raise self._failed(path or "the repository", error) from error
        return at / path

    def _failed(self, name: str, error: Exception) -> FormatError:
        reason = str(error).strip().split("\n")[0][:300]
        return FormatError(
            f"from_pretrained: could not get {name} of https://huggingface.co/{self._repo}: {type(error).__name__}: {reason}. "
            "Without a network only what is in the cache loads (HF_HOME); a path on disk loads with iam.formats.load",
            code="file-missing",
        )
