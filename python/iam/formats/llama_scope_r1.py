"""Llama Scope R1 and later SAEs of OpenMOSS: ``config.json`` and ``sae_weights.safetensors``; read, not written.

Stored: ``encoder.weight [f, d_in]`` and ``decoder.weight [d_out, f]``, the **transposes** of IAM's, their biases, and
``log_jumprelu_threshold``, one number or one for each feature, of which the exponential is taken. With ``norm_activation: dataset-wise`` the
coder sees its input times ``√d_in / n``, where n is the tensor ``dataset_average_activation_norm.<hook_point_in>``; the threshold is in these
units. With ``sparsity_include_decoder_norm`` it is compared with the pre-activation times the norm of the decoder row, which is the
threshold divided by that norm. ``b_dec`` is subtracted only if ``apply_decoder_bias_to_pre_encoder`` says so.

SAELens's loader takes neither the scale nor the decoder norm from these files.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from iam.core.config import take_bool, take_int, take_str
from iam.core.errors import FormatError
from iam.formats._lazy import as_float32
from iam.formats._raw import RawCoder, read_json, take
from iam.formats._safetensors import SafetensorsFile
from iam.formats.gemma_scope_2 import storage

__all__ = ["CONFIG_NAME", "FILE_NAME", "NAME", "read", "read_raw"]

NAME = "llama_scope_r1"
CONFIG_NAME = "config.json"
FILE_NAME = "sae_weights.safetensors"
_NORM = "dataset_average_activation_norm."


def read(path: str | Path) -> Any:
    """The SAE in a folder.

    Raises:
        FormatError: as :func:`iam.formats.saelens.read`.
    """
    from iam.formats._build import build

    return build(read_raw(path))


def read_raw(path: str | Path) -> RawCoder:
    """The record of an SAE; see :func:`read`."""
    folder = Path(path)
    cfg_file = folder / CONFIG_NAME
    cfg = read_json(cfg_file)
    for key in ("d_model", "hook_point_in", "norm_activation"):
        if key not in cfg:
            raise FormatError(f'{cfg_file}: expected a key "{key}", got {", ".join(sorted(cfg))}', code="config-key")
    d = take_int(
        cfg["d_model"], what=f"{cfg_file}: d_model", low=1, high=2**31 - 1, error=FormatError, code="config-value"
    )
    take_str(
        cfg.get("act_fn", "jumprelu"),
        what=f"{cfg_file}: act_fn",
        options=("jumprelu",),
        error=FormatError,
        code="architecture",
    )
    flags = {
        key: take_bool(cfg.get(key, default), what=f"{cfg_file}: {key}", error=FormatError, code="config-value")
        for key, default in (("sparsity_include_decoder_norm", True), ("apply_decoder_bias_to_pre_encoder", False),
                             ("use_glu_encoder", False))
    }  # fmt: skip
    hook, out = cfg["hook_point_in"], cfg.get("hook_point_out") or cfg["hook_point_in"]
    if not isinstance(hook, str) or hook != out or flags["use_glu_encoder"]:
        raise FormatError(
            f"{cfg_file}: expected an SAE without a gated linear encoder, got hook_point_in {hook!r}, hook_point_out {out!r}, "
            f"use_glu_encoder {flags['use_glu_encoder']}",
            code="architecture",
        )
    file = SafetensorsFile(folder / FILE_NAME)
    norms = {name for name in file.tensors if name.startswith(_NORM)}
    known = {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias", "log_jumprelu_threshold"}
    if unknown := sorted(set(file.tensors) - known - norms):
        raise FormatError(f"{file.path}: tensors {unknown} do not belong to this format", code="tensor-missing")
    f = (
        file.tensors["encoder.bias"].shape[0]
        if file.tensors.get("encoder.bias") and file.tensors["encoder.bias"].shape
        else 0
    )
    of = f"{CONFIG_NAME} (d_model={d}) and encoder.bias ({f} features)"
    tensors = {
        "W_enc": take(file, "encoder.weight", (f, d), of=of, transpose=True),
        "b_enc": take(file, "encoder.bias", (f,), of=of),
        "W_dec": take(file, "decoder.weight", (d, f), of=of, transpose=True),
        "b_dec": take(file, "decoder.bias", (d,), of=of),
        "threshold": _threshold(file, f, of),
    }
    if flags["sparsity_include_decoder_norm"]:
        lengths = np.linalg.norm(tensors["W_dec"].astype(np.float64), axis=1)
        with np.errstate(divide="ignore"):
            tensors["threshold"] = np.minimum(tensors["threshold"] / lengths, np.finfo(np.float32).max).astype(
                np.float32
            )
    normalize, scale = _scale(cfg, cfg_file, file, norms, hook, d)
    return RawCoder(
        source=str(file.path), kind="sae", architecture="jumprelu", d_in=d, d_out=d, d_sae=f, norm_scale=scale,
        normalize_activations=normalize, apply_b_dec_to_input=flags["apply_decoder_bias_to_pre_encoder"], dtype=storage(file),
        tensors=tensors, metadata={"hook_name": hook, "prepend_bos": True},
    )  # fmt: skip


def _threshold(file: SafetensorsFile, f: int, of: str) -> Any:
    name = "log_jumprelu_threshold"
    one = name in file.tensors and file.tensors[name].shape in ((), (1,))
    logs = as_float32(take(file, name, file.tensors[name].shape if one else (f,), of=of)).astype(np.float64)
    with np.errstate(over="ignore"):
        found = np.exp(logs)
    if not (found <= np.finfo(np.float32).max).all():
        raise FormatError(f'{file.path}: tensor "{name}" is beyond the logarithms of float32', code="non-finite")
    return np.broadcast_to(found.astype(np.float32), (f,)).copy()


def _scale(
    cfg: dict[str, Any], cfg_file: Path, file: SafetensorsFile, norms: set[str], hook: str, d: int
) -> tuple[str, float | None]:
    """How the input is normalised, and by what."""
    kind = take_str(
        cfg["norm_activation"], what=f"{cfg_file}: norm_activation", options=("dataset-wise", "inference"), error=FormatError,
        code="normalization",
    )  # fmt: skip
    if kind == "inference":
        return "none", None
    if _NORM + hook not in norms:
        raise FormatError(
            f"{file.path}: expected a tensor {_NORM + hook!r}, by which the input is scaled, got {sorted(norms) or 'none'}",
            code="tensor-missing",
        )
    value = as_float32(file.read(_NORM + hook)).reshape(-1)
    if value.size != 1 or not 1e-30 < value[0] < 1e30:
        raise FormatError(
            f"{file.path}: {_NORM + hook}: expected one positive number, got {value[:4]}", code="config-value"
        )
    return "expected_average_only_in", math.sqrt(d) / float(value[0])
