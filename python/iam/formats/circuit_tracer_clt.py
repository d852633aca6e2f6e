"""circuit-tracer's cross-layer transcoders: ``W_enc_{i}.safetensors`` and ``W_dec_{i}.safetensors``, i = 0..L-1.

Stored: ``W_enc_{i} [f, d_in]``, the **transpose** of IAM's, with ``b_enc_{i}``, ``b_dec_{i} [d_out]`` and for JumpReLU ``threshold_{i}`` beside it; and
``W_dec_{i} [f, L-i, d_out]``, IAM's own orientation: slice j writes to layer i+j. There is no skip connection on disk. Weights are mapped
into memory: rows of the decoder are read when they are asked for.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from iam.core.errors import FormatError
from iam.formats._raw import RawCoder, Tensor, read_sidecar, take, write_sidecar
from iam.formats._safetensors import SafetensorsFile, check_storage, write_safetensors
from iam.formats._yaml import read_yaml, write_yaml
from iam.formats.circuit_tracer import CONFIG_NAME, hook_of
from iam.formats.gemma_scope_2 import layer_files, storage

__all__ = ["NAME", "read", "read_raw", "write", "write_raw"]

NAME = "circuit_tracer_clt"
ENCODER_FILE = re.compile(r"W_enc_(\d+)\.safetensors$")
DECODER_FILE = re.compile(r"W_dec_(\d+)\.safetensors$")


def read(path: str | Path) -> Any:
    """The cross-layer transcoder in a folder.

    Raises:
        FormatError: as :func:`iam.formats.saelens.read`; a layer that lacks a file (``file-missing``).
        MissingDependencyError: there is a ``config.yaml``, and PyYAML is not installed.
    """
    from iam.formats._build import build

    return build(read_raw(path))


def read_raw(path: str | Path) -> RawCoder:
    """The record; see :func:`read`. Encoders and decoders are lazy."""
    folder = Path(path)
    if not folder.is_dir():
        raise FormatError(f"{folder}: expected a folder with W_enc_0.safetensors...", code="file-missing")
    encoders, decoders = layer_files(folder, ENCODER_FILE), layer_files(folder, DECODER_FILE)
    if not encoders or set(encoders) != set(decoders):
        raise FormatError(
            f"{folder}: expected W_enc_i.safetensors and W_dec_i.safetensors for the same layers, got layers "
            f"{sorted(encoders)} and {sorted(decoders)}",
            code="file-missing",
        )
    config = read_yaml(folder / CONFIG_NAME) if (folder / CONFIG_NAME).is_file() else {}
    if (kind := config.get("model_kind")) not in (None, "cross_layer_transcoder"):
        raise FormatError(
            f'{folder / CONFIG_NAME}: model_kind: expected "cross_layer_transcoder", got {kind!r}', code="format"
        )
    n = len(encoders)
    tensors: dict[str, Tensor] = {}
    first: SafetensorsFile | None = None
    sizes = (0, 0, 0)
    for i in range(n):
        file = SafetensorsFile(encoders[i])
        if first is None:
            first, sizes = file, _sizes(file)
        d_in, d_sae, d_out = sizes
        threshold = "threshold_0" in first.tensors
        names = {f"W_enc_{i}", f"b_enc_{i}", f"b_dec_{i}"} | ({f"threshold_{i}"} if threshold else set())
        if set(file.tensors) - names:
            raise FormatError(
                f"{file.path}: tensors {sorted(set(file.tensors) - names)} do not belong here; expected {sorted(names)}",
                code="tensor-missing",
            )
        of = f"{first.path.name} (d_in={d_in}, d_sae={d_sae}, d_out={d_out}) and {n} layers"
        tensors[f"W_enc.{i}"] = take(file, f"W_enc_{i}", (d_sae, d_in), of=of, transpose=True, lazy=True)
        tensors[f"b_enc.{i}"] = take(file, f"b_enc_{i}", (d_sae,), of=of)
        tensors[f"b_dec.{i}"] = take(file, f"b_dec_{i}", (d_out,), of=of)
        if threshold:
            tensors[f"threshold.{i}"] = take(file, f"threshold_{i}", (d_sae,), of=of)
        decoder = SafetensorsFile(decoders[i])
        if set(decoder.tensors) - {f"W_dec_{i}"}:
            raise FormatError(
                f"{decoder.path}: expected only W_dec_{i}, got {sorted(decoder.tensors)}", code="tensor-missing"
            )
        tensors[f"W_dec.{i}"] = take(decoder, f"W_dec_{i}", (d_sae, n - i, d_out), of=of, lazy=True)
    assert first is not None
    sidecar = read_sidecar(folder, NAME)
    return RawCoder(
        source=str(folder), kind="cross_layer", architecture="jumprelu" if "threshold_0" in first.tensors else "standard",
        d_in=sizes[0], d_out=sizes[2], d_sae=sizes[1], n_layers=n, dtype=storage(first), tensors=tensors,
        metadata=sidecar["metadata"] if sidecar else _metadata(config, n),
    )  # fmt: skip


def _sizes(file: SafetensorsFile) -> tuple[int, int, int]:
    shapes = {name: file.tensors[name].shape if name in file.tensors else () for name in ("W_enc_0", "b_dec_0")}
    if len(shapes["W_enc_0"]) != 2 or len(shapes["b_dec_0"]) != 1:
        seen = ", ".join(f"{name} {info.shape}" for name, info in sorted(file.tensors.items())) or "no tensors"
        code: Any = "tensor-missing" if () in shapes.values() else "tensor-shape"
        raise FormatError(f"{file.path}: expected a matrix W_enc_0 and a vector b_dec_0, got {seen}", code=code)
    return shapes["W_enc_0"][1], shapes["W_enc_0"][0], shapes["b_dec_0"][0]


def _metadata(config: dict[str, Any], n_layers: int) -> dict[str, Any]:
    metadata = {name: config[name] for name in ("model_name", "scan") if config.get(name) is not None}
    for ours, theirs in (("hook_names", "feature_input_hook"), ("hook_names_out", "feature_output_hook")):
        if isinstance(config.get(theirs), str):
            metadata[ours] = [f"blocks.{i}.{config[theirs]}" for i in range(n_layers)]
    return metadata


def write(coder: Any, path: str | Path) -> Path:
    """Write a cross-layer transcoder into folder ``path``.

    Raises:
        FormatError: anything but jumprelu and standard, or a skip connection, which this format has no place for
            (``architecture``).
        MissingDependencyError: PyYAML is not installed.
    """
    from iam.formats._build import raw_of

    return write_raw(raw_of(coder), path)


def write_raw(raw: RawCoder, path: str | Path) -> Path:
    """Write a record; see :func:`write`."""
    folder = Path(path)
    raw = prepare(raw, folder)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(raw.n_layers):
        stored: dict[str, Any] = {f"W_enc_{i}": raw.tensors[f"W_enc.{i}"].T}
        for name in ("b_enc", "b_dec", "threshold"):
            if f"{name}.{i}" in raw.tensors:
                stored[f"{name}_{i}"] = raw.tensors[f"{name}.{i}"]
        write_safetensors(folder / f"W_enc_{i}.safetensors", stored, dtype=raw.dtype)
        write_safetensors(folder / f"W_dec_{i}.safetensors", {f"W_dec_{i}": raw.tensors[f"W_dec.{i}"]}, dtype=raw.dtype)
    meta = raw.metadata
    record = {
        "model_name": meta.get("model_name"),
        "model_kind": "cross_layer_transcoder",
        "feature_input_hook": _hook(meta.get("hook_names")) or "hook_resid_mid",
        "feature_output_hook": _hook(meta.get("hook_names_out")) or "hook_mlp_out",
        "scan": meta.get("scan"),
    }
    write_yaml(folder / CONFIG_NAME, {key: value for key, value in record.items() if value is not None})
    write_sidecar(folder, NAME, raw)
    return folder


def _hook(names: Any) -> str | None:
    """The hook that all layers have in common, without its layer."""
    hooks = {hook_of(name) for name in names} if isinstance(names, (list, tuple)) else set()
    return hooks.pop() if len(hooks) == 1 else None


def prepare(raw: RawCoder, path: Path) -> RawCoder:
    """The record in the form that this format has; errors as :func:`write`."""
    skip = any(name.startswith("W_skip") for name in raw.tensors)
    if raw.kind != "cross_layer" or raw.architecture not in ("jumprelu", "standard") or skip:
        raise FormatError(
            f"{path}: this format holds cross-layer transcoders without skip connection: jumprelu, standard; got {raw.kind} "
            f"{raw.architecture}{' with skip connection' if skip else ''}",
            code="architecture",
        )
    if raw.normalize_activations != "none":
        raise FormatError(f"{path}: circuit-tracer does not normalise inputs", code="normalization")
    check_storage(path, raw.dtype)
    return replace(raw)
