"""circuit-tracer's per-layer transcoders: ``config.yaml`` and ``layer_{i}.safetensors``, i = 0..L-1.

Stored per layer: ``W_enc [f, d_in]``, the **transpose** of IAM's; ``W_dec [f, d_out]``, IAM's own orientation; ``b_enc``, ``b_dec``; JumpReLU has
``activation_function.threshold [f]``, and without it the activation is ReLU, or TopK where ``config.yaml`` says ``activation: topk`` (with
``k`` there, or as a tensor of one integer). ``W_skip [d_out, d_in]`` is applied as ``x @ W_skip.T``. ``b_dec`` is not subtracted.

A folder with one layer is one transcoder; of one with more, :func:`read` takes ``layer``, and :func:`read_all` gives all of them. IAM's
TopK keeps only positive activations, as SAELens's does; circuit-tracer's also keeps negative ones that are among the k largest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from iam.core.config import take_int, take_str
from iam.core.errors import FormatError
from iam.formats._raw import RawCoder, fold_rescaling, read_sidecar, take, write_sidecar
from iam.formats._safetensors import SafetensorsFile, check_storage, write_safetensors
from iam.formats._yaml import read_yaml, write_yaml
from iam.formats.gemma_scope_2 import layer_files, storage

__all__ = ["CONFIG_NAME", "NAME", "layers", "read", "read_all", "read_raw", "write", "write_all", "write_raw"]

NAME = "circuit_tracer"
CONFIG_NAME = "config.yaml"
LAYER_FILE = re.compile(r"layer_(\d+)\.safetensors$")
_THRESHOLD = "activation_function.threshold"


def layers(path: str | Path) -> list[int]:
    """The layers that a folder has, 0..L-1; of a file, its own.

    Raises:
        FormatError: a layer is missing between 0 and the last (``file-missing``), no layer at all (``format``).
    """
    path = Path(path)
    if path.is_file():
        match = LAYER_FILE.search(path.name)
        if match is None:
            raise FormatError(f"{path}: expected a name like layer_3.safetensors", code="format")
        return [int(match[1])]
    if not path.is_dir():
        raise FormatError(f"{path}: expected a folder with layer_0.safetensors...", code="file-missing")
    found = sorted(layer_files(path, LAYER_FILE))
    if not found:
        raise FormatError(f"{path}: expected layer_0.safetensors, layer_1.safetensors...", code="format")
    return found


def read(path: str | Path, *, layer: int | None = None) -> Any:
    """One transcoder.

    Args:
        path: A folder, or one ``layer_{i}.safetensors`` (then ``config.yaml`` beside it is read).
        layer: Which, where the folder has several.

    Raises:
        FormatError: as :func:`iam.formats.saelens.read`; several layers and none asked for (``format``).
        MissingDependencyError: there is a ``config.yaml``, and PyYAML is not installed.
    """
    from iam.formats._build import build

    return build(read_raw(path, layer=layer))


def read_all(path: str | Path) -> list[Any]:
    """All transcoders of a folder, by layer; see :func:`read`."""
    return [read(path, layer=layer) for layer in layers(path)]


def read_raw(path: str | Path, *, layer: int | None = None) -> RawCoder:
    """The record of one transcoder; see :func:`read`."""
    path = Path(path)
    there = layers(path)
    if layer is None and len(there) > 1:
        raise FormatError(
            f"{path}: has transcoders of {len(there)} layers, {there[0]}..{there[-1]}; say which with layer=..., or read "
            "all with iam.formats.circuit_tracer.read_all",
            code="format",
        )
    layer = there[0] if layer is None else layer
    if layer not in there:
        raise FormatError(f"{path}: expected layer {there[0]}..{there[-1]}, got {layer}", code="file-missing")
    folder = path if path.is_dir() else path.parent
    config = read_yaml(folder / CONFIG_NAME) if (folder / CONFIG_NAME).is_file() else {}
    if (kind := config.get("model_kind")) not in (None, "transcoder_set"):
        raise FormatError(
            f'{folder / CONFIG_NAME}: model_kind: expected "transcoder_set", got {kind!r}, but the files are layer_*.safetensors',
            code="format",
        )
    file = SafetensorsFile(layer_files(folder, LAYER_FILE)[layer] if path.is_dir() else path)
    return _layer(file, layer, config, folder)


def _layer(file: SafetensorsFile, layer: int, config: Mapping[str, Any], folder: Path) -> RawCoder:
    if unknown := sorted(set(file.tensors) - {"W_enc", "W_dec", "b_enc", "b_dec", _THRESHOLD, "W_skip", "k"}):
        raise FormatError(f"{file.path}: tensors {unknown} do not belong to this format", code="tensor-missing")
    sizes = {}
    for name in ("b_enc", "b_dec"):
        if name not in file.tensors or len(file.tensors[name].shape) != 1:
            seen = ", ".join(f"{n} {info.shape}" for n, info in sorted(file.tensors.items())) or "no tensors"
            code: Any = "tensor-shape" if name in file.tensors else "tensor-missing"
            raise FormatError(f"{file.path}: expected a vector {name}, got {seen}", code=code)
        sizes[name] = file.tensors[name].shape[0]
    d_sae, d_out = sizes["b_enc"], sizes["b_dec"]
    d_in = d_out
    if "W_enc" in file.tensors and len(file.tensors["W_enc"].shape) == 2:
        d_in = file.tensors["W_enc"].shape[1]
    of = f"b_enc (d_sae={d_sae}), b_dec (d_out={d_out}) and W_enc (d_in={d_in})"
    tensors = {
        "W_enc": take(file, "W_enc", (d_sae, d_in), of=of, transpose=True),
        "b_enc": take(file, "b_enc", (d_sae,), of=of),
        "W_dec": take(file, "W_dec", (d_sae, d_out), of=of),
        "b_dec": take(file, "b_dec", (d_out,), of=of),
    }
    if "W_skip" in file.tensors:
        tensors["W_skip"] = take(file, "W_skip", (d_out, d_in), of=of)
    activation = config.get("activation")
    if activation is not None:
        activation = take_str(
            activation, what=f"{folder / CONFIG_NAME}: activation", options=("topk", "relu", "jump_relu"),
            error=FormatError, code="architecture",
        )  # fmt: skip
    has_threshold = _THRESHOLD in file.tensors
    if activation is not None and has_threshold != (activation == "jump_relu"):
        raise FormatError(
            f"{file.path}: {CONFIG_NAME} says activation {activation}, but there is {'a' if has_threshold else 'no'} {_THRESHOLD}",
            code="format",
        )
    k = None
    if has_threshold:
        tensors["threshold"] = take(file, _THRESHOLD, (d_sae,), of=of)
        architecture = "jumprelu"
    elif activation == "topk" or (activation is None and "k" in file.tensors):
        architecture = "topk"
        value = file.read_int("k") if "k" in file.tensors else config.get("k")
        k = take_int(value, what=f"{file.path}: k", low=1, high=d_sae, error=FormatError, code="k-range")
        if "k" in file.tensors and config.get("k") not in (None, k):
            raise FormatError(f"{file.path}: k is {k} here and {config['k']} in {CONFIG_NAME}", code="format")
    else:
        architecture = "standard"
    return RawCoder(
        source=str(file.path), kind="transcoder", architecture=architecture, d_in=d_in, d_out=d_out, d_sae=d_sae, k=k,
        metadata=_metadata(config, layer, folder), dtype=storage(file), tensors=tensors,
    )  # fmt: skip


def _metadata(config: Mapping[str, Any], layer: int, folder: Path) -> dict[str, Any]:
    sidecar = read_sidecar(folder, NAME)
    if sidecar and isinstance(per_layer := sidecar.get("layers"), list) and layer < len(per_layer):
        if not isinstance(per_layer[layer], dict):
            raise FormatError(f"{folder}: iam.json: layers: expected objects", code="format")
        return dict(per_layer[layer])
    metadata: dict[str, Any] = {}
    if isinstance(config.get("model_name"), str):
        metadata["model_name"] = config["model_name"]
    for ours, theirs in (("hook_name", "feature_input_hook"), ("hook_name_out", "feature_output_hook")):
        if isinstance(config.get(theirs), str):
            metadata[ours] = f"blocks.{layer}.{config[theirs]}"
    if config.get("scan") is not None:
        metadata["scan"] = config["scan"]
    return metadata


def write(coder: Any, path: str | Path) -> Path:
    """Write one transcoder as layer 0 of a folder; see :func:`write_all`."""
    return write_all([coder], path)


def write_all(coders: Sequence[Any], path: str | Path) -> Path:
    """Write transcoders, layer 0 first, into folder ``path``: a file each, ``config.yaml``, ``iam.json``.

    Raises:
        FormatError: what this format cannot hold (``architecture``, ``normalization``), or layers of unequal width, which
            circuit-tracer does not load (``config-value``).
        MissingDependencyError: PyYAML is not installed.
    """
    from iam.formats._build import raw_of

    return write_raw([raw_of(coder) for coder in coders], path)


def write_raw(raws: RawCoder | Sequence[RawCoder], path: str | Path) -> Path:
    """Write records; see :func:`write_all`."""
    folder = Path(path)
    raws = [prepare(raw, folder) for raw in ([raws] if isinstance(raws, RawCoder) else raws)]
    if len({(raw.d_sae, raw.architecture, raw.k) for raw in raws}) != 1:
        raise FormatError(
            f"{folder}: circuit-tracer needs layers of one width, activation and k, got "
            f"{[(raw.d_sae, raw.architecture, raw.k) for raw in raws]}",
            code="config-value",
        )
    folder.mkdir(parents=True, exist_ok=True)
    for i, raw in enumerate(raws):
        stored: dict[str, Any] = {
            _THRESHOLD if name == "threshold" else name: tensor.T if name == "W_enc" else tensor
            for name, tensor in raw.tensors.items()
        }
        write_safetensors(folder / f"layer_{i}.safetensors", stored, dtype=raw.dtype)
    first = raws[0]
    record: dict[str, Any] = {
        "model_name": first.metadata.get("model_name"),
        "model_kind": "transcoder_set",
        "feature_input_hook": hook_of(first.metadata.get("hook_name")),
        "feature_output_hook": hook_of(first.metadata.get("hook_name_out")),
        "scan": first.metadata.get("scan"),
    }
    if first.architecture == "topk":
        record["activation"], record["k"] = "topk", first.k
    write_yaml(folder / CONFIG_NAME, {key: value for key, value in record.items() if value is not None})
    write_sidecar(folder, NAME, first, layers=[dict(raw.metadata) for raw in raws])
    return folder


def hook_of(name: Any) -> str | None:
    """What follows ``blocks.N.``.

    >>> hook_of("blocks.3.ln2.hook_normalized")
    'ln2.hook_normalized'
    """
    match = re.fullmatch(r"blocks\.\d+\.(.+)", str(name))
    return match[1] if match else None


def prepare(raw: RawCoder, path: Path) -> RawCoder:
    """The record in the form that this format has; errors as :func:`write_all`."""
    if raw.kind != "transcoder" or raw.architecture not in ("jumprelu", "standard", "topk"):
        raise FormatError(
            f"{path}: circuit-tracer holds transcoders: jumprelu, standard, topk; got {raw.kind} {raw.architecture}",
            code="architecture",
        )
    if raw.normalize_activations != "none":
        raise FormatError(f"{path}: circuit-tracer does not normalise inputs", code="normalization")
    check_storage(path, raw.dtype)
    return replace(fold_rescaling(raw))
