"""Gemma Scope 2 (for Gemma 3): ``params.safetensors`` with ``config.json``; cross-layer transcoders as one file per layer.

Stored in IAM's own orientation under lower-case names: ``w_enc [d_in, f]``, ``w_dec [f, d_out]``, ``b_enc``, ``b_dec``, ``threshold [f]``, and
for affine transcoders ``affine_skip_connection [d_in, d_out]``, which is applied as ``x @ A``: it is the **transpose** of IAM's
``W_skip``. JumpReLU; ``b_dec`` is not subtracted from the input.

A cross-layer transcoder of L layers is a folder of ``params_layer_{i}.safetensors``, i = 0..L-1, all of them; there ``w_dec`` is
``[f, L, d_out]``, whose slices below i must be zero (a layer does not write backwards) and are left out of ``W_dec.i``.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from iam.core.errors import FormatError
from iam.formats._lazy import LazyTensor
from iam.formats._raw import (
    Kind,
    RawCoder,
    Tensor,
    TensorFile,
    as_jumprelu,
    fold_b_dec,
    fold_norm_scale,
    read_json,
    read_sidecar,
    take,
    write_json,
    write_sidecar,
)
from iam.formats._safetensors import SafetensorsFile, check_storage, write_safetensors

__all__ = ["CONFIG_NAME", "FILE_NAME", "NAME", "read", "read_raw", "write", "write_raw"]

NAME = "gemma_scope_2"
FILE_NAME = "params.safetensors"
CONFIG_NAME = "config.json"
LAYER_FILE = re.compile(r"params_layer_(\d+)\.safetensors$")
_SKIP = "affine_skip_connection"
_HOOKS = {
    "output": "hook_resid_post",
    "self_attn.o_proj.input": "attn.hook_z",
    "post_feedforward_layernorm.output": "hook_mlp_out",
}


def read(path: str | Path) -> Any:
    """The coder in a folder: an SAE, a transcoder or a cross-layer transcoder, as ``config.json`` and the shapes say.

    Args:
        path: The folder, or its ``params.safetensors``.

    Raises:
        FormatError: as :func:`iam.formats.saelens.read`; a missing layer (``file-missing``); a decoder that writes backwards
            (``format``).
    """
    from iam.formats._build import build

    return build(read_raw(path))


def read_raw(path: str | Path) -> RawCoder:
    """The record of a coder; see :func:`read`."""
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    layers = layer_files(folder, LAYER_FILE) if path.is_dir() else {}
    if layers and not (folder / FILE_NAME).exists():
        return _read_clt(folder, layers)
    file = SafetensorsFile(folder / FILE_NAME if path.is_dir() else path)
    config = read_json(folder / CONFIG_NAME) if (folder / CONFIG_NAME).exists() else {}
    sidecar = read_sidecar(folder, NAME)
    _check_config(config, folder / CONFIG_NAME)
    d_in, d_sae, d_out = _sizes(file)
    kind = _kind(config, folder, file, d_in, d_out)
    of = f"w_enc (d_in={d_in}, d_sae={d_sae}) and b_dec (d_out={d_out})"
    tensors = _layer(file, (d_in, d_sae, d_out), of)
    tensors["W_dec"] = take(file, "w_dec", (d_sae, d_out), of=of)
    affine = config.get("affine_connection")
    if affine is not None and bool(affine) != ("W_skip" in tensors):
        raise FormatError(
            f"{folder}: {CONFIG_NAME} says affine_connection={affine}, but {file.path.name} has "
            f"{'an' if 'W_skip' in tensors else 'no'} {_SKIP}",
            code="format",
        )
    metadata = sidecar["metadata"] if sidecar else _metadata(config, folder, kind)
    hook = str(metadata.get("hook_name", ""))
    return RawCoder(
        source=str(file.path), kind=kind, architecture="jumprelu", d_in=d_in, d_out=d_out, d_sae=d_sae, metadata=metadata,
        reshape_activations="hook_z" if "hook_z" in hook else "none", dtype=storage(file), tensors=tensors,
    )  # fmt: skip


def storage(file: TensorFile) -> str:
    """What most of a file is stored in; float64 counts as float32."""
    sizes: dict[str, int] = {}
    for info in file.tensors.values():
        sizes[info.dtype] = sizes.get(info.dtype, 0) + info.nbytes
    largest = max(sizes, key=lambda name: sizes[name], default="F32")
    return {"BF16": "bfloat16", "F16": "float16"}.get(largest, "float32")


def layer_files(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    """The files of a folder that are one layer each, by layer.

    Raises:
        FormatError: a layer is missing between 0 and the last (``file-missing``), or there twice (``format``).
    """
    found: dict[int, Path] = {}
    for item in sorted(folder.iterdir()):
        if (match := pattern.search(item.name)) and match.start() == 0:
            layer = int(match[1])
            if layer in found:
                raise FormatError(
                    f"{folder}: two files for layer {layer}: {found[layer].name}, {item.name}", code="format"
                )
            found[layer] = item
    if found and (missing := sorted(set(range(max(found) + 1)) - set(found))):
        raise FormatError(
            f"{folder}: expected files for layers 0..{max(found)}, layer {missing[0]} is missing", code="file-missing"
        )
    return found


def _check_config(config: dict[str, Any], file: Path) -> None:
    if config and config.get("architecture") != "jump_relu":
        raise FormatError(
            f'{file}: architecture: expected "jump_relu", got {config.get("architecture")!r}', code="architecture"
        )


def _sizes(file: SafetensorsFile) -> tuple[int, int, int]:
    shapes = {name: file.tensors[name].shape if name in file.tensors else None for name in ("w_enc", "b_dec")}
    if shapes["w_enc"] is None or len(shapes["w_enc"]) != 2 or shapes["b_dec"] is None or len(shapes["b_dec"]) != 1:
        seen = ", ".join(f"{name} {info.shape}" for name, info in sorted(file.tensors.items())) or "no tensors"
        missing = None in shapes.values()
        raise FormatError(
            f"{file.path}: expected a matrix w_enc and a vector b_dec, got {seen}",
            code="tensor-missing" if missing else "tensor-shape",
        )
    return (*shapes["w_enc"], shapes["b_dec"][0])  # type: ignore[return-value]


def _layer(file: SafetensorsFile, sizes: tuple[int, int, int], of: str, *, lazy: bool = False) -> dict[str, Tensor]:
    """The tensors of one file but for the decoder, whose shape depends on the kind."""
    d_in, d_sae, d_out = sizes
    if unknown := sorted(set(file.tensors) - {"w_enc", "w_dec", "b_enc", "b_dec", "threshold", _SKIP}):
        raise FormatError(f"{file.path}: tensors {unknown} do not belong to this format", code="tensor-missing")
    tensors: dict[str, Tensor] = {
        "W_enc": take(file, "w_enc", (d_in, d_sae), of=of, lazy=lazy),
        "b_enc": take(file, "b_enc", (d_sae,), of=of),
        "b_dec": take(file, "b_dec", (d_out,), of=of),
        "threshold": take(file, "threshold", (d_sae,), of=of),
    }
    if _SKIP in file.tensors:  # [d_in, d_out], applied as x @ A
        tensors["W_skip"] = take(file, _SKIP, (d_in, d_out), of=of, transpose=True)
    return tensors


def _kind(config: dict[str, Any], folder: Path, file: SafetensorsFile, d_in: int, d_out: int) -> Kind:
    has_out = bool(config.get("hf_hook_point_out"))
    if has_out or config.get("affine_connection") is not None or _SKIP in file.tensors or d_in != d_out:
        return "transcoder"
    if config.get("hf_hook_point_in"):
        return "sae"
    parts = [*folder.absolute().parts]
    if any("transcoder" in part for part in parts):
        return "transcoder"
    if any(re.match(r"(resid_post|mlp_out|attn_out)(_all)?$", part) for part in parts):
        return "sae"
    raise FormatError(
        f"{folder}: an SAE and a transcoder look the same in this format; expected {CONFIG_NAME} with hf_hook_point_in "
        "(and hf_hook_point_out for a transcoder), or folders named as in the release",
        code="format",
    )


def _metadata(config: dict[str, Any], folder: Path, kind: Kind) -> dict[str, Any]:
    metadata: dict[str, Any] = {"prepend_bos": True}
    if isinstance(config.get("model_name"), str) and config["model_name"] != "unknown":
        metadata["model_name"] = config["model_name"]
    for ours, theirs in (("hf_hook_name", "hf_hook_point_in"), ("hf_hook_name_out", "hf_hook_point_out")):
        if isinstance(config.get(theirs), str):
            metadata[ours] = config[theirs]
    match = re.match(r"model\.layers\.(\d+)\.(.*)$", str(metadata.get("hf_hook_name", "")))
    layer = match[1] if match else None
    if layer is None and (found := re.search(r"layer_(\d+)", str(folder.absolute()))):
        layer = found[1]
    if kind == "sae" and match and match[2] in _HOOKS:
        metadata["hook_name"] = f"blocks.{layer}.{_HOOKS[match[2]]}"
    if kind == "transcoder" and layer is not None:
        # after the gain of the norm: not hook_mlp_in, which is the residual stream before it
        metadata["hook_name"] = f"blocks.{layer}.mlp.hook_in"
        metadata["hook_name_out"] = f"blocks.{layer}.hook_mlp_out"
    return metadata


def _read_clt(folder: Path, layers: dict[int, Path]) -> RawCoder:
    config = read_json(folder / CONFIG_NAME) if (folder / CONFIG_NAME).exists() else {}
    sidecar = read_sidecar(folder, NAME)
    _check_config(config, folder / CONFIG_NAME)
    files = [SafetensorsFile(layers[i]) for i in range(len(layers))]
    sizes = _sizes(files[0])
    n = len(files)
    of = f"{files[0].path.name} (d_in={sizes[0]}, d_sae={sizes[1]}, d_out={sizes[2]}) and {n} layers"
    tensors: dict[str, Tensor] = {}
    for i, file in enumerate(files):
        if ("threshold" in file.tensors, _SKIP in file.tensors) != (True, _SKIP in files[0].tensors):
            raise FormatError(f"{file.path}: has other tensors than {files[0].path.name}", code="tensor-missing")
        layer = _layer(file, sizes, of, lazy=True)
        whole: LazyTensor = take(file, "w_dec", (sizes[1], n, sizes[2]), of=of, lazy=True)
        _check_forward(whole, i, file.path)
        layer["W_dec"] = whole.from_layer(i)
        tensors.update({f"{name}.{i}": tensor for name, tensor in layer.items()})
    metadata = sidecar["metadata"] if sidecar else _metadata(config, folder, "cross_layer")
    if not sidecar:
        metadata["hook_names"] = [f"blocks.{i}.mlp.hook_in" for i in range(n)]
        metadata["hook_names_out"] = [f"blocks.{i}.hook_mlp_out" for i in range(n)]
    return RawCoder(
        source=str(folder), kind="cross_layer", architecture="jumprelu", d_in=sizes[0], d_out=sizes[2], d_sae=sizes[1],
        n_layers=n, metadata=metadata, dtype=storage(files[0]), tensors=tensors,
    )  # fmt: skip


def _check_forward(w_dec: LazyTensor, layer: int, path: Path) -> None:
    """Some rows must be zero below ``layer``: where they are not, the order of layers is not what we take it for."""
    if layer == 0:
        return
    some = w_dec.rows(np.unique(np.linspace(0, len(w_dec) - 1, 16).astype(np.int64)))
    if np.any(some[:, :layer]):
        raise FormatError(
            f'{path}: tensor "w_dec" of layer {layer} writes to layers before it; expected zeros there', code="format"
        )


def write(coder: Any, path: str | Path) -> Path:
    """Write a coder into folder ``path``: ``params.safetensors`` or one file per layer, ``config.json``, ``iam.json``.

    A ``standard`` coder becomes JumpReLU with thresholds of 0, a subtracted ``b_dec`` is folded into ``b_enc``: the same function.

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
    if raw.kind == "cross_layer":
        for i in range(raw.n_layers):
            write_safetensors(folder / f"params_layer_{i}.safetensors", _stored(raw, i), dtype=raw.dtype)
    else:
        write_safetensors(folder / FILE_NAME, _stored(raw, None), dtype=raw.dtype)
    config: dict[str, Any] = {"architecture": "jump_relu", "model_name": raw.metadata.get("model_name") or "unknown"}
    for ours, theirs in (("hf_hook_name", "hf_hook_point_in"), ("hf_hook_name_out", "hf_hook_point_out")):
        config[theirs] = raw.metadata.get(ours) or raw.metadata.get(ours.removeprefix("hf_"))
    if raw.kind == "sae":
        del config["hf_hook_point_out"]
        config["hf_hook_point_in"] = config["hf_hook_point_in"] or "unknown"
    else:
        config["affine_connection"] = any(name.startswith("W_skip") for name in raw.tensors)
    write_json(folder / CONFIG_NAME, config)
    write_sidecar(folder, NAME, raw)
    return folder


def _stored(raw: RawCoder, layer: int | None) -> dict[str, Any]:
    end = "" if layer is None else f".{layer}"
    stored: dict[str, Any] = {}
    for name in ("W_enc", "b_enc", "b_dec", "threshold", "W_dec", "W_skip"):
        if name + end not in raw.tensors:
            continue
        tensor = raw.tensors[name + end]
        if name == "W_skip":
            stored[_SKIP] = tensor.T
        elif name == "W_dec" and layer is not None:
            whole = np.zeros((raw.d_sae, raw.n_layers, raw.d_out), np.float32)
            whole[:, layer:] = np.asarray(tensor)
            stored["w_dec"] = whole
        else:
            stored[name.lower() if name.startswith("W_") else name] = tensor
    return stored


def prepare(raw: RawCoder, path: Path) -> RawCoder:
    """The record in the form that this format has; errors as :func:`write`."""
    check_storage(path, raw.dtype)
    if raw.kind == "crosscoder":
        raise FormatError(f"{path}: Gemma Scope 2 is not written with crosscoders", code="architecture")
    return replace(as_jumprelu(fold_b_dec(fold_norm_scale(raw)), path))
