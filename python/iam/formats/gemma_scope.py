"""Gemma Scope (Lieberum et al. 2024, arXiv:2408.05147): ``params.npz``, SAEs and transcoders.

Stored as float32, in IAM's own orientation: ``W_enc [d_in, f]``, ``W_dec [f, d_out]``, ``b_enc [f]``, ``b_dec [d_out]``,
``threshold [f]``; some files spell ``w_enc`` and ``w_dec``. JumpReLU; ``b_dec`` is **not** subtracted from the input. There is no
config: an SAE and a transcoder of one width have the same tensors, so the kind comes from the path (``...-transcoders``,
``...-res``), from ``iam.json`` beside the file, or from the caller. SAEs of the embedding are scaled by ``√d_in`` as
the release intends (``W_enc/√d``, ``W_dec·√d``).

IAM writes ``params.npz`` and ``iam.json`` with kind and metadata, which other tools do not look at.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from iam.core.errors import FormatError
from iam.formats._npz import NpzFile, write_npz
from iam.formats._raw import (
    SIDECAR,
    Kind,
    RawCoder,
    as_jumprelu,
    fold_b_dec,
    fold_norm_scale,
    read_sidecar,
    take,
    write_sidecar,
)

__all__ = ["FILE_NAME", "NAME", "kind_from_path", "read", "read_raw", "write", "write_raw"]

NAME = "gemma_scope"
FILE_NAME = "params.npz"
_SPELLINGS = {"W_enc": ("W_enc", "w_enc"), "W_dec": ("W_dec", "w_dec")}
_MODELS = ("27b-it", "27b-pt", "9b-it", "9b-pt", "2b-it", "2b-pt", "27b", "9b", "2b")


def kind_from_path(path: Path) -> Kind | None:
    """What the names of the folders say: a transcoder, an SAE, or nothing.

    >>> kind_from_path(Path("gemma-scope-2b-pt-transcoders/layer_3/width_16k/average_l0_54/params.npz"))
    'transcoder'
    >>> kind_from_path(Path("gemma-scope-2b-pt-res/layer_3/width_16k/average_l0_54/params.npz"))
    'sae'
    """
    for part in reversed(path.absolute().parts):
        if re.search(r"gemma-scope.*-transcoders?$", part):
            return "transcoder"
        if re.search(r"gemma-scope.*-(res|mlp|att)(-canonical)?$", part):
            return "sae"
    return None


def read(path: str | Path, *, kind: Kind | None = None) -> Any:
    """The coder in ``params.npz``, or in the folder that holds it.

    Args:
        path: File or folder.
        kind: ``sae`` or ``transcoder``, where neither the path nor ``iam.json`` says it.

    Raises:
        FormatError: as :func:`iam.formats.saelens.read`; a kind that is not known (``format``).
    """
    from iam.formats._build import build

    return build(read_raw(path, kind=kind))


def read_raw(path: str | Path, *, kind: Kind | None = None) -> RawCoder:
    """The record of a coder; see :func:`read`."""
    path = Path(path)
    file = NpzFile(path / FILE_NAME if path.is_dir() else path)
    sidecar = read_sidecar(file.path.parent, NAME)
    said = sidecar.get("kind") or kind_from_path(file.path)
    if kind is not None and said is not None and kind != said:
        raise FormatError(f"{file.path}: asked for a {kind}, but path or {SIDECAR} say {said}", code="format")
    kind = kind or said
    names = {name: next((s for s in spellings if s in file.tensors), name) for name, spellings in _SPELLINGS.items()}
    shape = file.tensors[names["W_enc"]].shape if names["W_enc"] in file.tensors else ()
    out = file.tensors["b_dec"].shape if "b_dec" in file.tensors else ()
    if len(shape) != 2 or len(out) != 1:
        raise FormatError(
            f"{file.path}: expected matrices W_enc, W_dec and vectors b_enc, b_dec, threshold, got {_seen(file)}",
            code="tensor-shape" if shape else "tensor-missing",
        )
    if kind is None and shape[0] != out[0]:
        kind = "transcoder"
    if kind not in ("sae", "transcoder"):
        raise FormatError(
            f"{file.path}: an SAE and a transcoder look the same in this format, and neither the path nor {SIDECAR} says "
            f'which this is; give kind="sae" or kind="transcoder" (iam convert: --kind). Seen: {_seen(file)}',
            code="format",
        )
    d_in, d_sae = shape
    of = f"{names['W_enc']} (d_in={d_in}, d_sae={d_sae}) and b_dec (d_out={out[0]})"
    scaling = {"scaling_factor"} & set(file.tensors)
    if scaling and not np.all(file.read("scaling_factor") == 1):
        raise FormatError(
            f'{file.path}: tensor "scaling_factor" is not all ones; this version does not run it', code="format"
        )
    if unknown := sorted(set(file.tensors) - {*names.values(), "b_enc", "b_dec", "threshold"} - scaling):
        raise FormatError(f"{file.path}: tensors {unknown} do not belong to this format", code="tensor-missing")
    tensors = {
        "W_enc": take(file, names["W_enc"], (d_in, d_sae), of=of),
        "W_dec": take(file, names["W_dec"], (d_sae, out[0]), of=of),
        "b_enc": take(file, "b_enc", (d_sae,), of=of),
        "b_dec": take(file, "b_dec", out, of=of),
        "threshold": take(file, "threshold", (d_sae,), of=of),
    }
    if "embedding" in file.path.parts and not sidecar:
        tensors["W_enc"] /= np.float32(np.sqrt(d_in))
        tensors["W_dec"] *= np.float32(np.sqrt(d_in))
    metadata = sidecar["metadata"] if sidecar else _metadata(file.path, kind)
    return RawCoder(
        source=str(file.path), kind=kind, architecture="jumprelu", d_in=d_in, d_out=out[0], d_sae=d_sae, metadata=metadata,
        reshape_activations="hook_z" if "hook_z" in str(metadata.get("hook_name", "")) else "none", tensors=tensors,
    )  # fmt: skip


def _seen(file: NpzFile) -> str:
    return ", ".join(f"{name} {info.shape}" for name, info in sorted(file.tensors.items())) or "no tensors"


def _metadata(path: Path, kind: Kind) -> dict[str, Any]:
    """Model and site, where the folders are named as in the release."""
    text = str(path.absolute())
    metadata: dict[str, Any] = {}
    repo = re.search(r"gemma-scope-(\w+?-\w+?)-(\w+)", text)
    if repo and repo[1] in _MODELS:
        metadata["model_name"] = "gemma-2-" + repo[1].removesuffix("-pt")
    layer = re.search(r"layer_(\d+)", text)
    if "embedding" in path.parts:
        metadata["hook_name"] = "hook_embed"
    elif layer and kind == "transcoder":
        metadata["hook_name"] = f"blocks.{layer[1]}.ln2.hook_normalized"
        metadata["hook_name_out"] = f"blocks.{layer[1]}.hook_mlp_out"
    elif layer and repo:
        hooks = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}
        if repo[2] in hooks:
            metadata["hook_name"] = f"blocks.{layer[1]}.{hooks[repo[2]]}"
    metadata["prepend_bos"] = True
    return metadata


def write(coder: Any, path: str | Path) -> Path:
    """Write ``params.npz`` and ``iam.json`` into folder ``path``; returns the weights' path.

    A ``standard`` coder becomes a JumpReLU with thresholds of 0, and a subtracted ``b_dec`` is folded into ``b_enc``: the same
    function, in the form that this format has.

    Raises:
        FormatError: an architecture or convention that this format cannot hold (``architecture``, ``normalization``).
    """
    from iam.formats._build import raw_of

    return write_raw(raw_of(coder), path)


def write_raw(raw: RawCoder, path: str | Path) -> Path:
    """Write a record; see :func:`write`."""
    folder = Path(path)
    raw = prepare(raw, folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_npz(folder / FILE_NAME, {name: np.asarray(tensor) for name, tensor in raw.tensors.items()})
    write_sidecar(folder, NAME, raw)
    return folder / FILE_NAME


def prepare(raw: RawCoder, path: Path) -> RawCoder:
    """The record in the form that this format has; errors as :func:`write`."""
    if raw.kind in ("cross_layer", "crosscoder") or "W_skip" in raw.tensors:
        what = raw.kind if raw.kind in ("cross_layer", "crosscoder") else "skip connection"
        raise FormatError(f"{path}: Gemma Scope has no {what}; see gemma_scope_2", code="architecture")
    return replace(as_jumprelu(fold_b_dec(fold_norm_scale(raw)), path), dtype="float32")
