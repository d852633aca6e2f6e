"""Coders from the hub: by the release and sae_id that SAELens users know, or by repository and folder."""

from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from iam.core.config import nearest
from iam.core.errors import ArgumentError, FormatError, MissingDependencyError
from iam.formats._build import build
from iam.formats._detect import FORMATS, detect, load_raw

__all__ = ["Release", "from_pretrained", "releases", "resolve"]

_INDEX = Path(__file__).resolve().parents[1] / "data" / "releases.json.gz"

# What is fetched of each format, relative to the path in the repository; "?" marks what may be absent.
_FILES = {
    "dictionary_learning": ("ae.pt", "config.json"),
    "gemma_scope": ("params.npz",),
    "gemma_scope_2": ("params.safetensors", "config.json?"),
    "llama_scope": ("hyperparams.json", "checkpoints/final.safetensors"),
    "saelens": ("cfg.json", "sae_weights.safetensors"),
    "sparsify": ("cfg.json", "sae.safetensors"),
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
    """Every release in the index and its sae_ids; nothing is fetched."""
    return {name: list(item["coders"]) for name, item in _index().items()}


def resolve(release: str, sae_id: str | None = None) -> Release:
    """Find out where a coder is, offline.

    Args:
        release: A name of :func:`releases`, or a hub repository ``owner/name``.
        sae_id: The coder in it; for a repository, the folder or file.

    Raises:
        ArgumentError: no such release or sae_id; the nearest are named.
        FormatError: a release whose format IAM does not read (``format``).
    """
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
    if sae_id not in item["coders"]:
        near = nearest(str(sae_id), item["coders"]) if sae_id else None
        some = ", ".join(list(item["coders"])[:3])
        raise ArgumentError(
            f'from_pretrained: release "{release}" has no sae_id {sae_id!r}'
            + (f'; did you mean "{near}"?' if near else "")
            + f" It has {len(item['coders'])}: {some}..."
        )
    if item["format"] is None:
        raise FormatError(
            f"from_pretrained: {release} is in the format that SAELens reads with {item['loader']}; IAM reads "
            f"{', '.join(sorted(FORMATS))}. Load it with SAELens and save_model it",
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
    revision: str | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Any:
    """A coder from the hub, or from its cache.

    Args:
        release: A name that SAELens users know (:func:`iam.formats.releases`), or a hub repository ``owner/name``.
        sae_id: The coder in the release; the folder or file in a repository.
        format: What the repository's files are, where it cannot be found out.
        kind: ``sae`` or ``transcoder``, for Gemma Scope files of a repository whose name does not say it.
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
    format = format or found.format
    fetch = _Fetch(found.repo, revision, force_download, local_files_only)
    if format is None:
        at = fetch.folder(found.path)
        seen = detect(at)
        format, at = seen.format, seen.path
    elif format in ("circuit_tracer", "circuit_tracer_clt"):
        if format == "circuit_tracer" and found.path.endswith(".safetensors"):
            at = fetch.file(found.path)
            fetch.optional(f"{found.path.rpartition('/')[0]}/config.yaml".lstrip("/"))
        else:
            at = fetch.folder(found.path)
    else:
        at = fetch.files(found.path, _FILES[format])
    raw = load_raw(at, format, **({"kind": kind} | dict(found.options)))
    if found.normalize_activations is not None:
        raw = replace(raw, normalize_activations=found.normalize_activations)
    if raw.normalize_activations == "expected_average_only_in" and raw.norm_scale is None and found.scale is not None:
        raw = replace(raw, norm_scale=found.scale)
    known = {"model_name": found.model, "hook_name": found.hook_name, "release": release, "sae_id": sae_id}
    metadata = {name: value for name, value in known.items() if value is not None} | dict(raw.metadata)
    return build(replace(raw, metadata=metadata))


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
        self._repo = repo
        self._options = {"revision": revision, "force_download": force, "local_files_only": local}

    def file(self, name: str) -> Path:
        try:
            return Path(self._hub.hf_hub_download(self._repo, name, **self._options))
        except Exception as error:  # the hub, the network and the cache each have errors of their own
            raise self._failed(name, error) from error

    def optional(self, name: str) -> None:
        try:
            self.file(name)
        except FormatError as error:
            if not isinstance(error.__cause__, self._hub.errors.EntryNotFoundError):
                raise

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
