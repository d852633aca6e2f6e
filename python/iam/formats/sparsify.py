"""sparsify (EleutherAI): ``cfg.json`` and ``sae.safetensors`` in a folder named after the hook point.

Stored: ``encoder.weight [f, d_in]``, the **transpose** of IAM's ``W_enc``; ``encoder.bias [f]``; ``W_dec [f, d_out]``, IAM's own orientation;
``b_dec [d_out]``; optional ``W_skip [d_out, d_in]``, applied as ``x @ W_skip.T``. TopK or GroupMax of ``k``. ``b_dec`` is subtracted from the
input unless ``transcode`` is set, whatever ``normalize_decoder`` says. Configs of old versions may say ``signed`` (AbsTopK); they are read and
not written, because version 1.3 would run such a coder as plain TopK.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from iam.core.config import take_bool, take_int, take_str
from iam.core.errors import FormatError
from iam.formats._raw import (
    RawCoder,
    fold_norm_scale,
    fold_rescaling,
    read_json,
    read_sidecar,
    take,
    unfold_b_dec,
    write_json,
    write_sidecar,
)
from iam.formats._safetensors import SafetensorsFile, check_storage, write_safetensors
from iam.formats.gemma_scope_2 import storage

__all__ = ["CONFIG_NAME", "FILE_NAME", "NAME", "read", "read_raw", "write", "write_raw"]

NAME = "sparsify"
CONFIG_NAME = "cfg.json"
FILE_NAME = "sae.safetensors"
_KEYS = (
    "activation", "d_in", "expansion_factor", "k", "multi_topk", "normalize_decoder", "num_latents", "signed",
    "skip_connection", "transcode",
)  # fmt: skip


def read(path: str | Path) -> Any:
    """The coder in a folder.

    Raises:
        FormatError: as :func:`iam.formats.saelens.read`; ``cfg.json`` and tensors that disagree about a skip connection
            (``format``).
    """
    from iam.formats._build import build

    return build(read_raw(path))


def read_raw(path: str | Path) -> RawCoder:
    """The record of a coder; see :func:`read`."""
    folder = Path(path)
    cfg_file = folder / CONFIG_NAME
    cfg = read_json(cfg_file)
    if unknown := sorted(set(cfg) - set(_KEYS)):
        raise FormatError(f'{cfg_file}: unknown key "{unknown[0]}"; known: {", ".join(_KEYS)}', code="config-key")
    for key in ("d_in", "k"):
        if key not in cfg:
            raise FormatError(f'{cfg_file}: expected a key "{key}", got {", ".join(sorted(cfg))}', code="config-key")
    size = 2**31 - 1
    d_in = take_int(cfg["d_in"], what=f"{cfg_file}: d_in", low=1, high=size, error=FormatError, code="config-value")
    latents = cfg.get("num_latents") or 0
    if latents == 0:
        factor = cfg.get("expansion_factor")
        latents = d_in * take_int(
            factor, what=f"{cfg_file}: expansion_factor", low=1, high=size, error=FormatError, code="config-value"
        )
    d_sae = take_int(latents, what=f"{cfg_file}: num_latents", low=1, high=size, error=FormatError, code="config-value")
    k = take_int(cfg["k"], what=f"{cfg_file}: k", low=1, high=d_sae, error=FormatError, code="k-range")
    architecture = take_str(
        cfg.get("activation", "topk"), what=f"{cfg_file}: activation", options=("topk", "groupmax"), error=FormatError,
        code="architecture",
    )  # fmt: skip
    flags = {
        key: take_bool(cfg.get(key, False), what=f"{cfg_file}: {key}", error=FormatError, code="config-value")
        for key in ("signed", "skip_connection", "transcode")
    }
    if flags["signed"]:
        architecture = "abstopk"  # the largest by magnitude, sign kept
    file = SafetensorsFile(folder / FILE_NAME)
    skip = "W_skip" in file.tensors
    if skip != flags["skip_connection"]:
        raise FormatError(
            f"{folder}: {CONFIG_NAME} says skip_connection={flags['skip_connection']}, but {FILE_NAME} has "
            f"{'a' if skip else 'no'} W_skip",
            code="format",
        )
    transcoder = flags["transcode"] or skip
    if unknown := sorted(set(file.tensors) - {"encoder.weight", "encoder.bias", "W_dec", "b_dec", "W_skip"}):
        raise FormatError(f"{file.path}: tensors {unknown} do not belong to this format", code="tensor-missing")
    d_out = d_in
    if transcoder and "b_dec" in file.tensors and len(file.tensors["b_dec"].shape) == 1:
        d_out = file.tensors["b_dec"].shape[0]
    of = f"{CONFIG_NAME} (d_in={d_in}, {d_sae} latents)"
    tensors = {
        "W_enc": take(file, "encoder.weight", (d_sae, d_in), of=of, transpose=True),
        "b_enc": take(file, "encoder.bias", (d_sae,), of=of),
        "W_dec": take(file, "W_dec", (d_sae, d_out), of=of),
        "b_dec": take(file, "b_dec", (d_out,), of=of),
    }
    if skip:
        tensors["W_skip"] = take(file, "W_skip", (d_out, d_in), of=of)
    sidecar = read_sidecar(folder, NAME)
    subtract = not flags["transcode"]
    raw = RawCoder(
        source=str(file.path), kind="transcoder" if transcoder else "sae", architecture=architecture, d_in=d_in, d_out=d_out,
        d_sae=d_sae, k=k, apply_b_dec_to_input=subtract and not transcoder, dtype=storage(file), tensors=tensors,
        metadata=sidecar["metadata"] if sidecar else _metadata(folder),
    )  # fmt: skip
    if (
        subtract and transcoder
    ):  # an SAE with a skip connection: b_dec is subtracted before the encoder, the skip sees raw x
        shift = tensors["b_dec"].astype("float64") @ tensors["W_enc"].astype("float64")
        raw = replace(raw, tensors={**tensors, "b_enc": (tensors["b_enc"] - shift).astype("float32")})
    return raw


def _metadata(folder: Path) -> dict[str, Any]:
    """The hook point is the folder's name; the model is in the run's ``config.json`` above it."""
    metadata: dict[str, Any] = {"hookpoint": folder.name}
    match = re.fullmatch(r"(?:model\.)?layers[._](\d+)(\.mlp|\.self_attn)?", folder.name)
    if match:
        # sparsify hooks the module's output; a whole layer's is the residual stream after it
        metadata["hook_name"] = f"blocks.{match[1]}." + {
            None: "hook_resid_post", ".mlp": "hook_mlp_out", ".self_attn": "hook_attn_out",
        }[match[2]]  # fmt: skip
    elif folder.name.removeprefix("model.") == "embed_tokens":
        metadata["hook_name"] = "hook_embed"
    run = folder.parent / "config.json"
    if run.is_file():
        model = read_json(run).get("model")
        if isinstance(model, str):
            metadata["model_name"] = model
    return metadata


def write(coder: Any, path: str | Path) -> Path:
    """Write ``cfg.json``, ``sae.safetensors`` and ``iam.json`` into folder ``path``.

    Raises:
        FormatError: an architecture or convention that this format cannot hold (``architecture``, ``config-value``,
            ``normalization``).
    """
    from iam.formats._build import raw_of

    return write_raw(raw_of(coder), path)


def write_raw(raw: RawCoder, path: str | Path) -> Path:
    """Write a record; see :func:`write`."""
    folder = Path(path)
    raw = prepare(raw, folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = {"W_enc": "encoder.weight", "b_enc": "encoder.bias"}
    stored: dict[str, Any] = {
        names.get(name, name): tensor.T if name == "W_enc" else tensor for name, tensor in raw.tensors.items()
    }
    write_safetensors(folder / FILE_NAME, stored, dtype=raw.dtype)
    record = {
        "activation": "groupmax" if raw.architecture == "groupmax" else "topk",
        "d_in": raw.d_in,
        "expansion_factor": max(1, raw.d_sae // raw.d_in),
        "k": raw.k,
        "multi_topk": False,
        "normalize_decoder": True,
        "num_latents": raw.d_sae,
        "skip_connection": "W_skip" in raw.tensors,
        "transcode": raw.kind == "transcoder",
    }
    write_json(folder / CONFIG_NAME, record)
    write_sidecar(folder, NAME, raw)
    return folder


def prepare(raw: RawCoder, path: Path) -> RawCoder:
    """The record in the form that this format has; errors as :func:`write`."""
    check_storage(path, raw.dtype)
    if raw.kind not in ("sae", "transcoder") or raw.architecture not in ("groupmax", "topk"):
        raise FormatError(
            f"{path}: sparsify holds topk and groupmax of one layer, got {raw.kind} {raw.architecture}"
            + ("; version 1.3 reads a signed coder as plain topk" if raw.architecture == "abstopk" else ""),
            code="architecture",
        )
    raw = fold_norm_scale(fold_rescaling(raw))
    if raw.kind == "sae" and not raw.apply_b_dec_to_input:
        raw = unfold_b_dec(raw)  # the encoder will subtract b_dec
    return raw
