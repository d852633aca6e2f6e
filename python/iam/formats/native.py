"""IAM's own format: every coder that IAM has, with every convention, in one folder.

``coder.json`` says what the coder is; safetensors files beside it hold the weights::

    {"schema": "iam.weights/1", "kind": "sae" | "transcoder" | "cross_layer" | "crosscoder",
     "layers": n,                     layers of cross_layer, sites of crosscoder, else 1
     "config": {...},                 all fields of iam.CoderConfig, none left out
     "files": [{"name", "bytes", "sha256"}, ...],
     "written_by": "iam 0.1.0"}

One file ``coder-<digest>.safetensors``, or one ``layer_<i>-<digest>.safetensors`` for each layer of a cross-layer transcoder.
Files are named by the first 16 digits of their SHA-256, and ``coder.json`` is replaced last: a folder that is written over holds the
old coder or the new one at every moment, and never a part of each.

Tensors, one **row per feature**: ``W_enc [f, d_in]`` (the transpose of IAM's; of a crosscoder ``[f, S, d_in]``), ``W_dec [f, d_out]`` (``[f, L - i,
d_out]`` of layer i of L, ``[f, S, d_in]`` of a crosscoder) are stored as ``config.dtype`` says; all others as float32, whatever it says:
biases, thresholds, gates, ``W_skip [d_out, d_in]`` and the statistics of the normalisation.

``int8``: ``W.scale`` float32 holds one number for each row along the last axis of ``W``, and the weight is ``q · scale`` with q in -127..127.
``scale = max|row| / 127``, rounded up to 17 significant bits: then ``q · scale`` is exact in float32, storing again changes no bit, and
each weight is off by at most ``max|row| / 254 · (1 + 2⁻¹⁶)``. Rows below 1e-31 become zero.

Cross-layer transcoders stay in their files: encoders are read by blocks of features, decoders by rows of active features, and int8 is
multiplied out row by row as it is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from iam.core.config import nearest, take_bool, take_int, take_str
from iam.core.errors import FormatError
from iam.formats._atomic import open_atomically
from iam.formats._raw import ARCHITECTURES, NORMALIZATIONS, RawCoder, expected_shapes, read_json, take, write_json
from iam.formats._safetensors import STORAGE_DTYPES, SafetensorsFile, Stored, as_stored, pieces_of, write_stored

__all__ = [
    "CONFIG_NAME",
    "NAME",
    "VERSION",
    "error_bound",
    "files",
    "prepare",
    "read",
    "read_raw",
    "verify",
    "write",
    "write_raw",
]

NAME = "iam"
CONFIG_NAME = "coder.json"
VERSION = 1
_SCHEMA = "iam.weights"

_KINDS = ("cross_layer", "crosscoder", "sae", "transcoder")
_KEYS = ("config", "files", "kind", "layers", "schema", "written_by")
_CONFIG_KEYS = (
    "apply_b_dec_to_input", "architecture", "d_in", "d_out", "d_sae", "dtype", "k", "max_iterations", "metadata", "norm_scale",
    "normalize_activations", "rescale_acts_by_decoder_norm", "residual_threshold", "reshape_activations",
    "stop_on_duplicate_support",
)  # fmt: skip
_BY_FEATURE = ("W_dec", "W_enc")
_FILE = re.compile(r"(?:coder|layer_\d+)-[0-9a-f]{16}\.safetensors")
_SMALLEST = 2.0**-110
"""Scales below it are 0: their products would not be exact, or not normal numbers."""


def write(coder: Any, path: str | Path, dtype: str | None = None) -> Path:
    """Write a coder into folder ``path``, made if missing, in place of one that is there; returns the folder.

    Args:
        coder: An :class:`iam.SAE`, ``iam.Transcoder``, ``iam.CrossLayerTranscoder`` or ``iam.Crosscoder``.
        path: The folder.
        dtype: What encoder and decoder are stored as: ``float32``, ``float16``, ``bfloat16`` or ``int8``; by default ``cfg.dtype``.

    Raises:
        FormatError: metadata that are not JSON, an unknown ``dtype`` or a weight that it cannot hold (``config-value``).
        OSError: the folder cannot be written; what was there is still there.
    """
    from dataclasses import replace

    from iam.formats._build import raw_of

    raw = raw_of(coder)
    return write_raw(raw if dtype is None else replace(raw, dtype=dtype), path)


def write_raw(raw: RawCoder, path: str | Path) -> Path:
    """Write a record; see :func:`write`."""
    import iam

    folder = Path(path)
    config = {name: getattr(raw, name) for name in _CONFIG_KEYS} | {"metadata": dict(raw.metadata)}
    _take_dtype(raw.dtype, str(folder))
    try:
        json.dumps(config, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise FormatError(f"{folder / CONFIG_NAME}: metadata is not JSON: {error}", code="config-value") from error
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f"layer_{i}" for i in range(raw.n_layers)] if raw.kind == "cross_layer" else ["coder"]
    written = [_write_file(folder, part, _stored(raw, i, folder / part)) for i, part in enumerate(parts)]
    record = {
        "schema": f"{_SCHEMA}/{VERSION}", "kind": raw.kind, "layers": raw.n_layers, "config": config, "files": written,
        "written_by": f"iam {iam.__version__}",
    }  # fmt: skip
    write_json(folder / CONFIG_NAME, record)
    names = {entry["name"] for entry in written}
    for item in folder.iterdir():  # weights of the coder that was here
        if _FILE.fullmatch(item.name) and item.name not in names:
            item.unlink()
    return folder


def prepare(raw: RawCoder, path: Path) -> RawCoder:
    """The record in the form that this format has, which is its own."""
    return raw


def _write_file(folder: Path, part: str, entries: Mapping[str, Stored]) -> dict[str, Any]:
    """Write one file and name it by its content."""
    new = folder / f"{part}.new"
    with open_atomically(new) as file:
        counted = _Hashed(file)
        write_stored(counted, entries, {"format": "pt"})
    name = f"{part}-{counted.digest.hexdigest()[:16]}.safetensors"
    os.replace(new, folder / name)
    return {"name": name, "bytes": counted.bytes, "sha256": counted.digest.hexdigest()}


class _Hashed:
    """A file that is written and hashed."""

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self.bytes = 0
        self._file = file

    def write(self, data: bytes) -> None:
        self.digest.update(data)
        self.bytes += len(data)
        self._file.write(data)


def _stored(raw: RawCoder, layer: int, where: Path) -> dict[str, Stored]:
    """The tensors of one file, larger elements first, so that all are aligned."""
    end = f".{layer}" if raw.kind == "cross_layer" else ""
    wide: dict[str, Stored] = {}
    narrow: dict[str, Stored] = {}
    for full, tensor in raw.tensors.items():
        if end and not full.endswith(end):
            continue
        name = full.removesuffix(end)
        if name not in _BY_FEATURE:
            wide[name] = as_stored(where, name, tensor, "float32")
            continue
        rows = _rows_first(tensor) if name == "W_enc" else tensor
        if raw.dtype == "int8":
            scales = _scales(rows, where, name)
            wide[f"{name}.scale"] = as_stored(where, name, scales, "float32")
            narrow[name] = _quantised(rows, scales)
        else:
            (wide if raw.dtype == "float32" else narrow)[name] = as_stored(where, name, rows, raw.dtype)
    return wide | narrow


def _rows_first(tensor: Any) -> Any:
    """A tensor with its features, the last axis, first; nothing is copied."""
    return tensor.T if len(tensor.shape) == 2 else np.moveaxis(np.asarray(tensor), -1, 0)


def _scales(rows: Any, where: Path, name: str) -> npt.NDArray[np.float32]:
    """One scale for each row along the last axis: ``max|row| / 127``, rounded up to 17 bits."""
    largest = np.concatenate([np.abs(piece).max(axis=-1) for piece in pieces_of(rows)]).astype(np.float64)
    mantissa, exponent = np.frexp(largest / 127)
    scales = np.ldexp(np.ceil(mantissa * 2.0**17), exponent - 17)
    if (scales * 127 > np.finfo(np.float32).max).any():
        raise FormatError(
            f'{where}: tensor "{name}" holds {largest.max()}, more than int8 rows can', code="config-value"
        )
    return np.where(scales < _SMALLEST, 0.0, scales).astype(np.float32)


def error_bound(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """How far int8 may be off: for each row along the last axis half a step, ``max|row| / 254 · (1 + 2⁻¹⁶)``."""
    largest = np.abs(rows).max(axis=-1, keepdims=True).astype(np.float64)
    return largest / 254 * (1 + 2.0**-16) + np.where(largest / 127 < _SMALLEST, largest, 0.0)


def _quantised(rows: Any, scales: npt.NDArray[np.float32]) -> Stored:
    def pieces() -> Iterator[bytes]:
        start = 0
        for piece in pieces_of(rows):
            scale = scales[start : start + len(piece), ..., None].astype(np.float64)
            start += len(piece)
            with np.errstate(divide="ignore", invalid="ignore"):
                steps = np.where(scale == 0, 0.0, piece / scale)
            yield np.rint(steps).astype(np.int8).tobytes()

    return Stored("I8", tuple(rows.shape), pieces)


def read(path: str | Path) -> Any:
    """The coder in folder ``path``.

    Raises:
        FormatError: the folder or a file is missing (``file-missing``), truncated (``file-truncated``) or malformed
            (``file-header``, ``format``), of a later version of this format (``format``); a config key or value that is not known
            (``config-key``, ``config-value``, ``architecture``, ``normalization``, ``k-range``); a tensor missing
            (``tensor-missing``), of another shape (``tensor-shape``) or type (``tensor-dtype``), NaN or infinity (``non-finite``).
    """
    from iam.formats._build import build

    return build(read_raw(path))


def read_raw(path: str | Path) -> RawCoder:
    """The record; see :func:`read`. Encoders and decoders of cross-layer transcoders are lazy."""
    folder = _folder(path)
    kind, n, config, entries = _document(folder)
    shapes, optional = expected_shapes(_Sizes(kind, n, config))
    tensors: dict[str, Any] = {}
    for i, file in enumerate(_files(folder, entries)):
        end = f".{i}" if kind == "cross_layer" else ""
        there = {name: shape for name, shape in shapes.items() if name.endswith(end) or not end}
        tensors.update(_read_file(file, there, optional, end, config["dtype"], lazy=kind == "cross_layer"))
    return RawCoder(source=str(folder), kind=kind, n_layers=n, tensors=tensors, **config)


def _read_file(
    file: SafetensorsFile, shapes: Mapping[str, Any], optional: set[str], end: str, dtype: str, *, lazy: bool
) -> dict[str, Any]:
    """The tensors of one file by canonical name."""
    known: set[str] = set()
    tensors: dict[str, Any] = {}
    for full, shape in shapes.items():
        name = full.removesuffix(end)
        if name not in file.tensors and full in optional:
            continue
        known.add(name)
        if name not in _BY_FEATURE:
            _check_type(file, name, "F32")
            tensors[full] = take(file, name, shape, of=CONFIG_NAME)
            continue
        stored = (shape[-1], *shape[:-1]) if name == "W_enc" else shape
        if dtype == "int8":
            known.add(f"{name}.scale")
            _check_shape(file, name, stored)
            tensor = file.quantised(name, f"{name}.scale")
        else:
            _check_type(file, name, STORAGE_DTYPES[dtype])
            tensor = take(file, name, stored, of=CONFIG_NAME, lazy=True)
        if name == "W_enc":
            tensor = tensor.rows_last
        tensors[full] = tensor if lazy else tensor.read()
    if unknown := sorted(set(file.tensors) - known):
        raise FormatError(
            f"{file.path}: tensors {unknown} do not belong to this coder; expected {sorted(known)}",
            code="tensor-missing",
        )
    return tensors


def _check_type(file: SafetensorsFile, name: str, expected: str) -> None:
    if name in file.tensors and file.tensors[name].dtype != expected:
        raise FormatError(
            f'{file.path}: tensor "{name}": expected {expected}, got {file.tensors[name].dtype}', code="tensor-dtype"
        )


def _check_shape(file: SafetensorsFile, name: str, shape: tuple[int, ...]) -> None:
    if name in file.tensors and file.tensors[name].shape != shape:
        raise FormatError(
            f'{file.path}: tensor "{name}": expected shape {shape} from {CONFIG_NAME}, got {file.tensors[name].shape}',
            code="tensor-shape",
        )


def _folder(path: str | Path) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        raise FormatError(f"{folder}: expected a folder with {CONFIG_NAME}", code="file-missing")
    return folder


def _files(folder: Path, entries: list[dict[str, Any]]) -> Iterator[SafetensorsFile]:
    for entry in entries:
        file = SafetensorsFile(folder / entry["name"])
        if (size := file.path.stat().st_size) != entry["bytes"]:
            raise FormatError(
                f"{file.path}: expected {entry['bytes']} bytes, as {CONFIG_NAME} says, got {size}",
                code="file-truncated",
            )
        yield file


def files(path: str | Path) -> list[Path]:
    """The weight files of the coder in folder ``path``, by layer. Errors as :func:`read`."""
    folder = _folder(path)
    return [folder / entry["name"] for entry in _document(folder)[3]]


def verify(path: str | Path) -> None:
    """Read every weight file and compare its SHA-256 with what ``coder.json`` says.

    Raises:
        FormatError: a file is not what was written (``format``), or as :func:`read`.
    """
    folder = _folder(path)
    for entry in _document(folder)[3]:
        digest = hashlib.sha256()
        file = folder / entry["name"]
        if not file.is_file():
            raise FormatError(f"{file}: expected a weight file, but there is none", code="file-missing")
        with file.open("rb") as handle:
            while data := handle.read(1 << 20):
                digest.update(data)
        if digest.hexdigest() != entry["sha256"]:
            raise FormatError(
                f"{file}: expected SHA-256 {entry['sha256']}, got {digest.hexdigest()}; the file was changed after it was "
                "written",
                code="format",
            )


class _Sizes:
    """What :func:`expected_shapes` looks at, before there are tensors."""

    def __init__(self, kind: str, n_layers: int, config: Mapping[str, Any]) -> None:
        self.kind, self.n_layers = kind, n_layers
        self.architecture, self.normalize_activations = config["architecture"], config["normalize_activations"]
        self.d_in, self.d_out, self.d_sae = config["d_in"], config["d_out"], config["d_sae"]


def _document(folder: Path) -> tuple[Any, int, dict[str, Any], list[dict[str, Any]]]:
    """``coder.json``, checked: kind, layers, config, files."""
    file = folder / CONFIG_NAME
    raw = read_json(file)
    version = re.fullmatch(rf"{re.escape(_SCHEMA)}/(\d{{1,9}})", str(raw.get("schema")))
    if version is None:
        raise FormatError(f'{file}: expected schema "{_SCHEMA}/{VERSION}", got {raw.get("schema")!r}', code="format")
    if int(version[1]) != VERSION:
        raise FormatError(
            f"{file}: has version {version[1]} of this format, and this IAM reads version {VERSION}; install a later IAM",
            code="format",
        )
    _check_keys(raw, _KEYS, str(file))
    kind = take_str(raw["kind"], what=f"{file}: kind", options=_KINDS, error=FormatError, code="config-value")
    n = take_int(raw["layers"], what=f"{file}: layers", low=1, high=65_536, error=FormatError, code="config-value")
    if n != 1 and kind in ("sae", "transcoder"):
        raise FormatError(f"{file}: layers: expected 1 for kind {kind}, got {n}", code="config-value")
    config = _config(raw["config"], file)
    entries = raw["files"]
    if not isinstance(entries, list) or len(entries) != (n if kind == "cross_layer" else 1):
        raise FormatError(
            f"{file}: files: expected one entry for each weight file, got {_short(entries)}", code="format"
        )
    for entry in entries:
        good = isinstance(entry, dict) and set(entry) == {"name", "bytes", "sha256"} and isinstance(entry["name"], str)
        if not good or not _FILE.fullmatch(entry["name"]) or not isinstance(entry["sha256"], str):
            raise FormatError(f"{file}: files: expected name, bytes and sha256, got {_short(entry)}", code="format")
    return kind, n, config, entries


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 200 else text[:200] + "..."


def _check_keys(found: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in found:
        if key not in known:
            near = nearest(key, known)
            hint = f'did you mean "{near}"? ' if near else ""
            raise FormatError(f'{where}: unknown key "{key[:200]}"; {hint}Known: {", ".join(known)}', code="config-key")
    for key in known:
        if key not in found:
            raise FormatError(f'{where}: expected a key "{key}", got {", ".join(sorted(found))}', code="config-key")


def _config(raw: Any, file: Path) -> dict[str, Any]:
    where = f"{file}: config"
    if not isinstance(raw, dict):
        raise FormatError(f"{where}: expected an object, got {type(raw).__name__}", code="format")
    _check_keys(raw, _CONFIG_KEYS, where)
    config = dict(raw)
    for key in ("d_in", "d_sae", "d_out"):
        config[key] = _int(raw[key], f"{where}.{key}")
    for key in ("k", "max_iterations"):
        config[key] = None if raw[key] is None else _int(raw[key], f"{where}.{key}")
    for key in ("apply_b_dec_to_input", "rescale_acts_by_decoder_norm", "stop_on_duplicate_support"):
        take_bool(raw[key], what=f"{where}.{key}", error=FormatError, code="config-value")
    for key, options, code in (
        ("architecture", ARCHITECTURES, "architecture"),
        ("normalize_activations", NORMALIZATIONS, "normalization"),
        ("reshape_activations", ("hook_z", "none"), "config-value"),
    ):
        take_str(raw[key], what=f"{where}.{key}", options=options, error=FormatError, code=code)
    _take_dtype(raw["dtype"], f"{where}.dtype")
    for key in ("norm_scale", "residual_threshold"):
        if raw[key] is not None or key != "norm_scale":
            config[key] = _number(raw[key], f"{where}.{key}")
    if not isinstance(raw["metadata"], dict):
        raise FormatError(f"{where}.metadata: expected an object, got {_short(raw['metadata'])}", code="config-value")
    return config


def _take_dtype(value: Any, where: str) -> None:
    take_str(value, what=f"{where}: dtype", options=(*STORAGE_DTYPES, "int8"), error=FormatError, code="config-value")


def _int(value: Any, what: str) -> int:
    return take_int(value, what=what, low=1, high=2**31 - 1, error=FormatError, code="config-value")


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e300 or math.isnan(value):
        raise FormatError(f"{what}: expected a number, got {_short(value)}", code="config-value")
    return float(value)
