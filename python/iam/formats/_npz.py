"""Reading and writing NumPy's ``.npz``: a zip archive of ``.npy`` arrays. Nothing is unpickled.

Every size is checked against the file before anything is allocated: a member must lie within the file, a stored member must
have the bytes that its header's shape and type take, and a compressed one must not unpack to more than it declares. All
arrays together may take :data:`MAX_RATIO` times the size of the file (at least :data:`FLOOR` bytes), so that no small
file makes a large allocation.
"""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from iam.core.errors import FormatError
from iam.formats._atomic import open_atomically
from iam.formats._lazy import LazyTensor, map_file, widen
from iam.formats._safetensors import TensorInfo

__all__ = ["FLOOR", "MAX_RATIO", "NpzFile", "open_zip", "write_npz"]

MAX_RATIO = 4
FLOOR = 1 << 20

_KINDS = {"<f8": "F64", "<f4": "F32", "<f2": "F16", "<i8": "I64", "<i4": "I32"}
_LOCAL_HEADER = 30
_HEADER_BYTES = 4096  # what is read to find an array's header; weights have short ones


def open_zip(path: Path) -> tuple[list[zipfile.ZipInfo], list[int]]:
    """The members of an archive and where the data of each begins, checked against the file's size.

    Raises:
        FormatError: missing (``file-missing``), no zip archive or one that contradicts itself (``file-header``), a member
            beyond the end (``file-truncated``), encrypted or compressed other than by deflate (``format``).
    """
    if not path.is_file():
        raise FormatError(
            f"{path}: expected a file, but {'this is a directory' if path.is_dir() else 'there is none'}",
            code="file-missing",
        )
    size = path.stat().st_size
    starts = []
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (
        zipfile.BadZipFile,
        ValueError,
        EOFError,
        OverflowError,
        NotImplementedError,
        OSError,
        struct.error,
    ) as error:
        raise FormatError(
            f"{path}: expected a zip archive: {error}; copy or download it again", code="file-header"
        ) from error
    twice = {member.filename for member in members}
    if len(twice) != len(members):
        raise FormatError(f"{path}: the archive has two members of one name", code="file-header")
    with path.open("rb") as file:
        for member in members:
            where = f"{path}: member {member.filename!r}"
            if member.flag_bits & 0x1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise FormatError(f"{where}: expected stored or deflated, unencrypted data", code="format")
            if member.compress_type == zipfile.ZIP_STORED and member.compress_size != member.file_size:
                raise FormatError(f"{where}: stored with two different sizes", code="file-header")
            if not 0 <= member.header_offset < size:
                raise FormatError(f"{where} begins at byte {member.header_offset} of {size}", code="file-header")
            file.seek(member.header_offset)
            local = file.read(_LOCAL_HEADER)
            if len(local) < _LOCAL_HEADER or local[:4] != b"PK\x03\x04":
                raise FormatError(f"{where}: no local header at byte {member.header_offset}", code="file-header")
            name_length, extra_length = struct.unpack("<HH", local[26:30])
            start = member.header_offset + _LOCAL_HEADER + name_length + extra_length
            if start + member.compress_size > size:
                raise FormatError(
                    f"{where} ends at byte {start + member.compress_size}, but the file has {size}; it is truncated",
                    code="file-truncated",
                )
            starts.append(start)
    return members, starts


class NpzFile:
    """The checked directory of an ``.npz`` file; tensors are read one by one.

    Args:
        path: The file.

    Raises:
        FormatError: missing, truncated or malformed (as :func:`open_zip`), an array of objects or of a type that weights
            do not have (``tensor-dtype``), arrays that unpack to too much (``format``).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metadata: dict[str, str] = {}
        self.tensors: dict[str, TensorInfo] = {}
        self._where: dict[str, tuple[zipfile.ZipInfo, int, int, bool]] = {}
        self._mapped: npt.NDArray[np.uint8] | None = None
        members, starts = open_zip(self.path)
        total = 0
        for member, start in zip(members, starts, strict=True):
            name = member.filename.removesuffix(".npy")
            if name == member.filename:
                raise self._bad(f"member {member.filename!r}: expected only .npy arrays")
            shape, fortran, dtype, header = self._array_header(member, start)
            nbytes = math.prod(shape) * int(dtype[-1])
            if header + nbytes != member.file_size:
                raise self._bad(
                    f'tensor "{name}": {dtype} of shape {shape} takes {header + nbytes} bytes with its header, the archive '
                    f"declares {member.file_size}"
                )
            total += max(nbytes, 4 * math.prod(shape))
            self.tensors[name] = TensorInfo(_KINDS[dtype], shape, start, start + member.compress_size)
            self._where[name] = (member, start, header, fortran)
        size = self.path.stat().st_size
        if total > max(FLOOR, MAX_RATIO * size):
            raise FormatError(
                f"{self.path}: the arrays unpack to {total} bytes, more than {MAX_RATIO} times the {size} of the file; "
                "trained weights do not compress like that. If it is sound, store it without compression",
                code="format",
            )

    def _array_header(self, member: zipfile.ZipInfo, start: int) -> tuple[tuple[int, ...], bool, str, int]:
        with self.path.open("rb") as file:
            file.seek(start)
            raw = file.read(min(member.compress_size, _HEADER_BYTES))
        if member.compress_type == zipfile.ZIP_DEFLATED:
            try:
                raw = zlib.decompressobj(-15).decompress(raw, _HEADER_BYTES)
            except zlib.error as error:
                raise self._bad(f"member {member.filename!r}: {error}") from error
        buffer = io.BytesIO(raw)
        try:
            version = np.lib.format.read_magic(buffer)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"version {version} of the .npy format")
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = reader(buffer)
        except (
            ValueError,
            SyntaxError,
            tokenize.TokenError,
            TypeError,
            KeyError,
            RecursionError,
            MemoryError,
            OverflowError,
        ) as error:
            raise self._bad(f"member {member.filename!r}: no .npy header: {error}") from error
        if dtype.hasobject or dtype.str not in _KINDS:
            kind = "Python objects, which would have to be unpickled" if dtype.hasobject else str(dtype.str)
            raise FormatError(
                f"{self.path}: tensor {member.filename!r}: expected floats of 2, 4 or 8 bytes, got {kind}",
                code="tensor-dtype",
            )
        if any(not 0 <= n < 2**63 for n in shape):
            raise self._bad(f"member {member.filename!r}: impossible shape {shape}")
        return tuple(int(n) for n in shape), fortran, dtype.str, buffer.tell()

    def _bad(self, what: str) -> FormatError:
        return FormatError(f"{self.path}: {what}", code="file-header")

    def _float(self, name: str) -> tuple[TensorInfo, str]:
        if name not in self.tensors:
            raise FormatError(
                f'{self.path}: expected a tensor "{name}", the file has: {", ".join(sorted(self.tensors)) or "none"}',
                code="tensor-missing",
            )
        info = self.tensors[name]
        stored = {kind: text for text, kind in _KINDS.items()}[info.dtype]
        if stored[1] != "f":
            raise FormatError(f'{self.path}: tensor "{name}": expected floats, got {info.dtype}', code="tensor-dtype")
        return info, stored

    def read(self, name: str, *, transpose: bool = False) -> npt.NDArray[np.float32]:
        """One tensor as float32; with ``transpose`` its axes reversed. Its check sum is verified.

        Raises:
            FormatError: no such tensor (``tensor-missing``), not of a float type (``tensor-dtype``), data that do not fit
                their check sum (``file-header``).
        """
        info, stored = self._float(name)
        member, start, header, fortran = self._where[name]
        with self.path.open("rb") as file:
            file.seek(start)
            if member.compress_type == zipfile.ZIP_STORED:
                head = file.read(header)
                flat = np.fromfile(file, dtype=stored, count=math.prod(info.shape))
                crc = zlib.crc32(flat.data, zlib.crc32(head))
            else:
                flat, crc = self._inflate(file.read(member.compress_size), member, header, stored, name)
        if flat.size != math.prod(info.shape) or crc != member.CRC:
            raise self._bad(f'tensor "{name}": the data do not fit their check sum; copy or download the file again')
        raw = flat.reshape(info.shape[::-1]).T if fortran else flat.reshape(info.shape)
        return widen(raw.T if transpose else raw, info.dtype)

    def _inflate(
        self, packed: bytes, member: zipfile.ZipInfo, header: int, stored: str, name: str
    ) -> tuple[npt.NDArray[Any], int]:
        try:
            data = zlib.decompressobj(-15).decompress(packed, member.file_size + 1)
        except zlib.error as error:
            raise self._bad(f'tensor "{name}": {error}') from error
        if len(data) != member.file_size:
            raise self._bad(f'tensor "{name}": unpacks to other than the {member.file_size} bytes declared')
        return np.frombuffer(data, dtype=stored, offset=header), zlib.crc32(data)

    def lazy(self, name: str) -> LazyTensor:
        """One tensor, mapped into memory if it is stored (then without its check sum), read whole if it is compressed.

        Raises:
            FormatError: as for :meth:`read`.
        """
        info, stored = self._float(name)
        member, start, header, fortran = self._where[name]
        source = f'{self.path}: tensor "{name}"'
        if member.compress_type != zipfile.ZIP_STORED:
            return LazyTensor(self.read(name), "F32", source)
        if self._mapped is None:
            self._mapped = map_file(self.path)
        part = np.asarray(self._mapped[start + header : start + member.file_size]).view(stored)
        part = part.reshape(info.shape[::-1]).T if fortran else part.reshape(info.shape)
        return LazyTensor(part, info.dtype, source)


def write_npz(path: str | Path, tensors: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Write float32 arrays as an uncompressed ``.npz``, atomically; the bytes depend on nothing but the arrays."""
    with open_atomically(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, values in tensors.items():
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(member, "w", force_zip64=True) as part:
                np.lib.format.write_array(part, np.ascontiguousarray(values, dtype="<f4"), allow_pickle=False)
