"""Reading and writing safetensors files.

The layout (github.com/huggingface/safetensors, "Format"): 8 bytes, the length N of the header as an unsigned little-endian
integer; N bytes of JSON, ``{name: {"dtype", "shape", "data_offsets": [begin, end]}}``, offsets counted from the end of the
header; the data. Every size and offset is checked against the file before it is used, so that a truncated or malformed
file gives a message and not a crash.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from iam.core.errors import FormatError
from iam.formats._atomic import open_atomically
from iam.formats._lazy import NUMPY_DTYPES, LazyTensor, map_file, widen

__all__ = ["STORAGE_DTYPES", "LazyTensor", "SafetensorsFile", "TensorInfo", "write_safetensors"]

_SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip

STORAGE_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Element types that weights are stored in, and their names in safetensors files."""

_MAX_HEADER = 100_000_000  # the limit of the reference implementation


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file: its type (``F32``, ``BF16``...), shape, and place in the data section, in bytes."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.begin


class SafetensorsFile:
    """The checked header of a safetensors file; tensors are read one by one.

    Args:
        path: The file.

    Raises:
        FormatError: missing (``file-missing``), shorter than its header says (``file-truncated``), or a header that is not
            well formed (``file-header``).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FormatError(
                f"{self.path}: expected a safetensors file, but {'this is a directory' if self.path.is_dir() else 'there is none'}",
                code="file-missing",
            )
        self._mapped: npt.NDArray[np.uint8] | None = None
        self.tensors, self.metadata, self._data_start = self._read_header()

    def _read_header(self) -> tuple[dict[str, TensorInfo], dict[str, str], int]:
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            prefix = file.read(8)
            if len(prefix) < 8:
                raise self._truncated(f"expected at least 8 bytes for the header's length, got {len(prefix)}")
            length = int.from_bytes(prefix, "little")
            if length > _MAX_HEADER:
                raise self._malformed(
                    f"expected a header of at most {_MAX_HEADER} bytes, got {length}; this is no safetensors file"
                )
            if 8 + length > size:
                raise self._truncated(f"expected a header of {length} bytes, but only {size - 8} follow its length")
            raw = file.read(length)
        try:
            header = json.loads(raw.decode("utf-8"), object_pairs_hook=self._unique)
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise self._malformed(f"the header is not JSON: {error}") from error
        if not isinstance(header, dict):
            raise self._malformed(f"expected the header to be a JSON object, got {type(header).__name__}")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
            raise self._malformed("expected __metadata__ to map text to text")
        data_size = size - 8 - length
        tensors = {name: self._tensor_info(name, entry, data_size) for name, entry in header.items()}
        self._check_layout(tensors, data_size)
        return tensors, metadata, 8 + length

    def _unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            names = [name for name, _ in pairs]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise self._malformed(f"the header has {twice} more than once")
        return result

    def _tensor_info(self, name: str, entry: Any, data_size: int) -> TensorInfo:
        where = f'tensor "{name}"'
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            got = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
            raise self._malformed(f"{where}: expected dtype, shape and data_offsets, got {got}")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _SIZES:
            raise self._malformed(f"{where}: unknown dtype {dtype!r}; known: {', '.join(sorted(_SIZES))}")
        if not isinstance(shape, list) or not all(_is_size(n) for n in shape):
            raise self._malformed(f"{where}: expected shape to be a list of sizes, got {shape!r}")
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(n) for n in offsets):
            raise self._malformed(f"{where}: expected data_offsets to be [begin, end], got {offsets!r}")
        begin, end = offsets
        expected = math.prod(shape) * _SIZES[dtype]
        if begin > end or end - begin != expected:
            raise self._malformed(
                f"{where}: {dtype} of shape {tuple(shape)} takes {expected} bytes, but data_offsets [{begin}, {end}] "
                f"hold {end - begin}"
            )
        if end > data_size:
            raise self._truncated(f"{where} ends at byte {end} of the data, but only {data_size} bytes are there")
        return TensorInfo(dtype, tuple(shape), begin, end)

    def _check_layout(self, tensors: dict[str, TensorInfo], data_size: int) -> None:
        position = 0
        for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
            if info.begin != position:
                raise self._malformed(
                    f'tensor "{name}" begins at byte {info.begin}, expected {position}: tensors must not overlap or leave '
                    "holes"
                )
            position = info.end
        if position != data_size:
            raise self._malformed(f"the tensors take {position} bytes, but {data_size} bytes of data are there")

    def _malformed(self, what: str) -> FormatError:
        return FormatError(f"{self.path}: {what}", code="file-header")

    def _truncated(self, what: str) -> FormatError:
        return FormatError(
            f"{self.path}: the file is truncated: {what}; copy or download it again", code="file-truncated"
        )

    def read(self, name: str, *, transpose: bool = False) -> npt.NDArray[np.float32]:
        """One tensor as float32, whatever float type it is stored in.

        Args:
            name: Its name.
            transpose: Give it with its axes reversed.

        Raises:
            FormatError: no such tensor (``tensor-missing``), or not of a float type (``tensor-dtype``).
        """
        info, stored = self._float(name)
        with self.path.open("rb") as file:
            file.seek(self._data_start + info.begin)
            flat = np.fromfile(file, dtype=stored, count=math.prod(info.shape))
        if flat.size != math.prod(info.shape):  # the file shrank after its header was read
            raise self._truncated(f'tensor "{name}": expected {math.prod(info.shape)} elements, got {flat.size}')
        raw = flat.reshape(info.shape)
        return widen(raw.T if transpose else raw, info.dtype)

    def lazy(self, name: str) -> LazyTensor:
        """One tensor, mapped into memory: its rows are read when they are asked for.

        Raises:
            FormatError: as for :meth:`read`.
        """
        info, stored = self._float(name)
        return LazyTensor(self._map(name, info, stored), info.dtype, f'{self.path}: tensor "{name}"')

    def _map(self, name: str, info: TensorInfo, stored: str) -> npt.NDArray[Any]:
        if self._mapped is None:
            self._mapped = map_file(self.path)
        begin = self._data_start + info.begin
        if len(self._mapped) < begin + info.nbytes:
            raise self._truncated(f'tensor "{name}" ends at byte {begin + info.nbytes} of {len(self._mapped)}')
        return np.asarray(self._mapped[begin : begin + info.nbytes]).view(stored).reshape(info.shape)

    def quantised(self, name: str, scale: str) -> LazyTensor:
        """An int8 tensor times the float32 scales of its rows along the last axis, mapped into memory.

        Args:
            name: The int8 tensor ``[..., n]``.
            scale: The float32 tensor ``[...]``.

        Raises:
            FormatError: one of them is missing (``tensor-missing``), of another type (``tensor-dtype``), or the scales are
                not one for each row (``tensor-shape``).
        """
        info, scales = self._info(name), self._info(scale)
        for each, of, expected in ((name, info, "I8"), (scale, scales, "F32")):
            if of.dtype != expected:
                raise FormatError(
                    f'{self.path}: tensor "{each}": expected {expected}, got {of.dtype}', code="tensor-dtype"
                )
        if scales.shape != info.shape[:-1] or not info.shape:
            raise FormatError(
                f'{self.path}: tensor "{scale}": expected shape {info.shape[:-1]}, one scale for each row of "{name}", got '
                f"{scales.shape}",
                code="tensor-shape",
            )
        part, factors = self._map(name, info, "i1"), self._map(scale, scales, "<f4")
        return LazyTensor(part, "I8", f'{self.path}: tensor "{name}"', factors.reshape(*scales.shape, 1))

    def read_int(self, name: str) -> int:
        """A tensor of one element of an integer type.

        Raises:
            FormatError: no such tensor (``tensor-missing``), not one integer (``tensor-dtype``).
        """
        info = self._info(name)
        stored = {"I64": "<i8", "I32": "<i4", "U64": "<u8", "U32": "<u4", "I16": "<i2", "U8": "u1", "I8": "i1"}
        if info.dtype not in stored or math.prod(info.shape) != 1:
            raise FormatError(
                f'{self.path}: tensor "{name}": expected one integer, got {info.dtype} of shape {info.shape}',
                code="tensor-dtype",
            )
        with self.path.open("rb") as file:
            file.seek(self._data_start + info.begin)
            return int(np.frombuffer(file.read(info.nbytes), dtype=stored[info.dtype])[0])

    def _info(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise FormatError(
                f'{self.path}: expected a tensor "{name}", the file has: {", ".join(sorted(self.tensors)) or "none"}',
                code="tensor-missing",
            )
        return self.tensors[name]

    def _float(self, name: str) -> tuple[TensorInfo, str]:
        info = self._info(name)
        if info.dtype not in NUMPY_DTYPES:
            raise FormatError(
                f'{self.path}: tensor "{name}": expected F16, BF16, F32 or F64, got {info.dtype}', code="tensor-dtype"
            )
        return info, NUMPY_DTYPES[info.dtype]


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def to_bfloat16_bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The bit patterns of ``values`` rounded to bfloat16, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))
    rounded = np.where(np.isnan(values), bits | np.uint32(0x00400000), rounded)
    return (rounded >> 16).astype(np.uint16)


class Sink(Protocol):
    """What a file is written to."""

    def write(self, data: bytes, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as it is written: its type in the file, shape, and data in pieces."""

    dtype: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[bytes]]


def write_stored(file: Sink, entries: Mapping[str, Stored], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file from tensors as they are stored, in the order given."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    begin = 0
    for name, entry in entries.items():
        end = begin + math.prod(entry.shape) * _SIZES[entry.dtype]
        header[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # the data starts at a multiple of 8 bytes
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for entry in entries.values():
        for piece in entry.pieces():
            file.write(piece)


def as_stored(path: str | Path, name: str, values: npt.NDArray[np.float32] | LazyTensor, dtype: str) -> Stored:
    """A float tensor in one of :data:`STORAGE_DTYPES`, converted in pieces, so that a lazy tensor is never held whole."""

    def pieces() -> Iterator[bytes]:
        return (_stored_bytes(path, name, piece, dtype) for piece in pieces_of(values))

    return Stored(STORAGE_DTYPES[dtype], tuple(values.shape), pieces)


def write_safetensors(
    path: str | Path, tensors: Mapping[str, npt.NDArray[np.float32] | LazyTensor], *, dtype: str = "float32"
) -> None:
    """Write float tensors, stored as ``dtype`` (``float32``, ``float16``, ``bfloat16``), atomically.

    The data are converted and written in pieces, so a lazy tensor is never held whole.

    Raises:
        FormatError: a value that the storage type cannot hold, or an unknown storage type (``config-value``).
    """
    check_storage(path, dtype)
    entries = {name: as_stored(path, name, values, dtype) for name, values in tensors.items()}
    with open_atomically(path) as file:
        write_stored(file, entries, {"format": "pt"})


def check_storage(path: str | Path, dtype: str) -> None:
    """Refuse what this file format has no type for.

    Raises:
        FormatError: an unknown storage type, or int8, which only IAM's own format has scales for (``config-value``).
    """
    if dtype not in STORAGE_DTYPES:
        hint = '; int8 is held by format "iam" (iam.formats.native)' if dtype == "int8" else ""
        raise FormatError(
            f'{path}: cannot store as "{dtype}"; expected one of {", ".join(STORAGE_DTYPES)}{hint}', code="config-value"
        )


def pieces_of(values: npt.NDArray[np.float32] | LazyTensor, size: int = 1 << 22) -> Iterator[npt.NDArray[np.float32]]:
    """``values`` in groups of rows of about ``size`` elements."""
    if not values.shape:
        yield np.asarray(values, dtype=np.float32)
        return
    rows = max(1, size // max(1, math.prod(values.shape[1:])))
    for start in range(0, values.shape[0], rows):
        part = slice(start, start + rows)
        piece = values[part] if isinstance(values, np.ndarray) else values.rows(part)
        yield np.ascontiguousarray(piece, dtype=np.float32)


def _stored_bytes(path: str | Path, name: str, values: npt.NDArray[np.float32], dtype: str) -> bytes:
    if dtype == "float32":
        return values.astype("<f4").tobytes()
    if dtype == "bfloat16":
        return to_bfloat16_bits(values).astype("<u2").tobytes()
    limit = float(np.finfo(np.float16).max)
    largest = float(np.max(np.abs(values), initial=0.0))
    if largest > limit:
        raise FormatError(
            f'{path}: tensor "{name}" holds {largest}, more than float16 can ({limit}); store it as bfloat16 or float32',
            code="config-value",
        )
    return values.astype("<f2").tobytes()
