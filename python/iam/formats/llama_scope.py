"""Llama Scope (He et al. 2024, arXiv:2410.20526): ``hyperparams.json`` and ``checkpoints/final.safetensors``.

Stored: ``encoder.weight [f, d_in]`` and ``decoder.weight [d_out, f]``, the **transposes** of IAM's, ``encoder.bias [f]``, ``decoder.bias [d_out]``. The
coder sees its input times ``s = √d_in / dataset_average_activation_norm.in``, and what it writes is divided by ``√d_out /
dataset_average_activation_norm.out``. ``jump_relu_threshold`` is one number for all features, in units of activations that are *not*
scaled: the features of the scaled encoder are compared with ``threshold·s`` (as SAELens does it). ``b_dec`` is not subtracted.

An SAE is read with ``normalize_activations="expected_average_only_in"`` and that scale; a transcoder's two scales are folded into its weights.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from iam.core.config import take_int
from iam.core.errors import FormatError
from iam.formats._lazy import as_float32
from iam.formats._raw import (
    Kind,
    RawCoder,
    as_jumprelu,
    fold_b_dec,
    read_json,
    read_sidecar,
    take,
    write_json,
    write_sidecar,
)
from iam.formats._safetensors import SafetensorsFile, check_storage, write_safetensors
from iam.formats.gemma_scope_2 import storage

__all__ = ["CONFIG_NAME", "FILE_NAME", "NAME", "read", "read_raw", "write", "write_raw"]

NAME = "llama_scope"
CONFIG_NAME = "hyperparams.json"
FILE_NAME = "checkpoints/final.safetensors"


def read(path: str | Path) -> Any:
    """The coder in a folder.

    Raises:
        FormatError: as :func:`iam.formats.saelens.read`.
    """
    from iam.formats._build import build

    return build(read_raw(path))


def read_raw(path: str | Path) -> RawCoder:
    """The record of a coder; see :func:`read`."""
    folder = Path(path)
    cfg_file = folder / CONFIG_NAME
    cfg = read_json(cfg_file)
    for key in ("d_model", "d_sae", "dataset_average_activation_norm", "hook_point_in", "jump_relu_threshold"):
        if key not in cfg:
            raise FormatError(f'{cfg_file}: expected a key "{key}", got {", ".join(sorted(cfg))}', code="config-key")
    d, f = (
        take_int(cfg[key], what=f"{cfg_file}: {key}", low=1, high=2**31 - 1, error=FormatError, code="config-value")
        for key in ("d_model", "d_sae")
    )
    norms = cfg["dataset_average_activation_norm"]
    if not isinstance(norms, dict):
        raise FormatError(f"{cfg_file}: dataset_average_activation_norm: expected in and out", code="config-value")
    threshold = _number(cfg["jump_relu_threshold"], f"{cfg_file}: jump_relu_threshold", low=0.0)
    norm_in = _number(norms.get("in"), f"{cfg_file}: dataset_average_activation_norm.in")
    scale = math.sqrt(d) / norm_in
    if not 1e-30 < scale < 1e30 or threshold * scale > 1e38:
        raise FormatError(f"{cfg_file}: an input scale of {scale} is beyond float32", code="config-value")
    hook_in, hook_out = cfg["hook_point_in"], cfg.get("hook_point_out") or cfg["hook_point_in"]
    kind: Kind = "sae" if hook_in == hook_out else "transcoder"
    file = SafetensorsFile(folder / FILE_NAME)
    names = {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"}
    if unknown := sorted(set(file.tensors) - names):
        raise FormatError(f"{file.path}: tensors {unknown} do not belong to this format", code="tensor-missing")
    of = f"{CONFIG_NAME} (d_model={d}, d_sae={f})"
    tensors = {
        "W_enc": take(file, "encoder.weight", (f, d), of=of, transpose=True),
        "b_enc": take(file, "encoder.bias", (f,), of=of),
        "W_dec": take(file, "decoder.weight", (d, f), of=of, transpose=True),
        "b_dec": take(file, "decoder.bias", (d,), of=of),
        "threshold": np.full(f, threshold * scale, np.float32),
    }
    normalize, norm_scale = "expected_average_only_in", float(scale)
    sidecar = read_sidecar(folder, NAME)
    if kind == "transcoder":
        norm_out = _number(norms.get("out"), f"{cfg_file}: dataset_average_activation_norm.out")
        tensors["W_enc"] *= np.float32(scale)
        for name in ("W_dec", "b_dec"):
            tensors[name] *= np.float32(norm_out / math.sqrt(d))
    if kind == "transcoder" or scale == 1.0:
        normalize, norm_scale = "none", None  # type: ignore[assignment]
    return RawCoder(
        source=str(file.path), kind=kind, architecture="jumprelu", d_in=d, d_out=d, d_sae=f,
        normalize_activations=normalize, norm_scale=norm_scale, dtype=storage(file), tensors=tensors,
        metadata=sidecar["metadata"] if sidecar else _metadata(cfg, hook_in, hook_out, kind),
    )  # fmt: skip


def _number(value: Any, what: str, *, low: float = 1e-30) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < 1e30:
        raise FormatError(f"{what}: expected a positive number, got {value!r}", code="config-value")
    return float(value)


def _metadata(cfg: dict[str, Any], hook_in: Any, hook_out: Any, kind: Kind) -> dict[str, Any]:
    metadata: dict[str, Any] = {"prepend_bos": True}
    if isinstance(hook_in, str):
        metadata["hook_name"] = hook_in
    if kind == "transcoder" and isinstance(hook_out, str):
        metadata["hook_name_out"] = hook_out
    if isinstance(cfg.get("model_name"), str):
        metadata["model_name"] = cfg["model_name"]
    return metadata


def write(coder: Any, path: str | Path) -> Path:
    """Write ``hyperparams.json``, ``checkpoints/final.safetensors`` and ``iam.json`` into folder ``path``.

    Raises:
        FormatError: an architecture that this format cannot hold (``architecture``), or thresholds that are not all the same
            (``config-value``).
    """
    from iam.formats._build import raw_of

    return write_raw(raw_of(coder), path)


def write_raw(raw: RawCoder, path: str | Path) -> Path:
    """Write a record; see :func:`write`."""
    folder = Path(path)
    raw = prepare(raw, folder)
    scale = raw.norm_scale or 1.0
    threshold = float(as_float32(raw.tensors["threshold"])[0]) / scale
    (folder / FILE_NAME).parent.mkdir(parents=True, exist_ok=True)
    stored = {
        "encoder.weight": raw.tensors["W_enc"].T,
        "encoder.bias": raw.tensors["b_enc"],
        "decoder.weight": raw.tensors["W_dec"].T,
        "decoder.bias": raw.tensors["b_dec"],
    }
    write_safetensors(folder / FILE_NAME, stored, dtype=raw.dtype)
    norm = math.sqrt(raw.d_in) / scale
    hook = raw.metadata.get("hook_name") or "in"
    out = raw.metadata.get("hook_name_out") or ("out" if raw.kind == "transcoder" else hook)
    record = {
        "d_model": raw.d_in, "d_sae": raw.d_sae, "jump_relu_threshold": threshold, "act_fn": "jumprelu",
        "dataset_average_activation_norm": {"in": norm, "out": norm}, "hook_point_in": hook, "hook_point_out": out,
        "model_name": raw.metadata.get("model_name"),
    }  # fmt: skip
    write_json(folder / CONFIG_NAME, record)
    write_sidecar(folder, NAME, raw)
    return folder


def prepare(raw: RawCoder, path: Path) -> RawCoder:
    """The record in the form that this format has; errors as :func:`write`."""
    check_storage(path, raw.dtype)
    if raw.kind not in ("sae", "transcoder") or "W_skip" in raw.tensors or raw.d_in != raw.d_out:
        raise FormatError(
            f"{path}: Llama Scope holds SAEs and plain transcoders of one width, got a {raw.kind} {raw.architecture}",
            code="architecture",
        )
    raw = fold_b_dec(as_jumprelu(raw, path))
    if raw.normalize_activations not in ("none", "expected_average_only_in") or (
        raw.normalize_activations != "none" and (raw.norm_scale is None or raw.kind == "transcoder")
    ):
        raise FormatError(f"{path}: Llama Scope does not hold {raw.normalize_activations}", code="normalization")
    thresholds = as_float32(raw.tensors["threshold"])
    if not np.all(thresholds == thresholds[0]):
        raise FormatError(
            f"{path}: Llama Scope has one threshold for all features, this coder has {len(np.unique(thresholds))}",
            code="config-value",
        )
    return replace(raw)
