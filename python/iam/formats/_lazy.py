"""Tensors that stay in their file until their rows are asked for."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from iam.core.errors import FormatError

__all__ = ["NUMPY_DTYPES", "LazyTensor", "as_float32", "check_finite", "map_file", "widen"]

NUMPY_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""How the float types of files lie in memory; a bfloat16 is the upper half of a float32."""

_CHUNK = 1 << 22  # elements that are converted at a time


def widen(stored: npt.NDArray[Any], dtype: str) -> npt.NDArray[np.float32]:
    """``stored`` as C-contiguous float32; float32 that is contiguous and writable is returned as it is.

    Allocates the result and nothing else of its size, whatever the strides of ``stored``.
    """
    if dtype == "BF16":
        wide = np.empty(stored.shape, dtype=np.uint32)
        wide[...] = stored
        np.left_shift(wide, 16, out=wide)
        return wide.view(np.float32)
    if dtype == "F32" and stored.flags.c_contiguous and stored.flags.writeable and stored.dtype == np.float32:
        return stored
    result = np.empty(stored.shape, dtype=np.float32)
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # a float64 beyond float32 becomes inf; who reads it refuses that
        result[...] = stored
    return result


def map_file(path: Path) -> npt.NDArray[np.uint8]:
    """The bytes of a file, mapped into memory, not read."""
    return np.memmap(path, dtype=np.uint8, mode="r") if path.stat().st_size else np.empty(0, np.uint8)


class LazyTensor:
    """A float tensor in a file, mapped into memory; pages are read when rows are asked for.

    Args:
        stored: The mapped elements, of the type they are stored in (bfloat16 as ``uint16``).
        dtype: ``F32``, ``F64``, ``F16`` or ``BF16``; ``I8`` with scales.
        source: Where it is, for messages: file and name.
        scales: What elements of type ``I8`` are multiplied by: float32 that broadcasts to ``stored``.

    What ``rows`` and ``read`` give is float32, finite or the call fails. The file must not be shortened while it is mapped.

    >>> t = LazyTensor(np.arange(6, dtype="<f4").reshape(3, 2), "F32", "an example")
    >>> t.shape, t.T.shape, t.rows([2, 0]).tolist()
    ((3, 2), (2, 3), [[4.0, 5.0], [0.0, 1.0]])
    """

    def __init__(
        self, stored: npt.NDArray[Any], dtype: str, source: str, scales: npt.NDArray[np.float32] | None = None
    ) -> None:
        self._stored = stored
        self._stored_dtype = dtype
        self._source = source
        self._scales = scales

    @property
    def shape(self) -> tuple[int, ...]:
        return self._stored.shape

    @property
    def ndim(self) -> int:
        return self._stored.ndim

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """float32: what ``rows`` gives."""
        return np.dtype(np.float32)

    @property
    def stored_dtype(self) -> str:
        """``F32``, ``F64``, ``F16``, ``BF16`` or ``I8``."""
        return self._stored_dtype

    @property
    def nbytes(self) -> int:
        """Bytes of :meth:`read`."""
        return 4 * self._stored.size

    @property
    def T(self) -> LazyTensor:
        """The axes reversed; nothing is read."""
        return self._view(lambda array: array.T)

    @property
    def rows_last(self) -> LazyTensor:
        """The first axis moved to the end; nothing is read. Of a matrix this is ``T``."""
        return self._view(lambda array: np.moveaxis(array, 0, -1))

    def from_layer(self, first: int) -> LazyTensor:
        """Slices ``first:`` of the second axis; nothing is read."""
        return self._view(lambda array: array[:, first:])

    def _view(self, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> LazyTensor:
        scales = None if self._scales is None else change(self._scales)
        return LazyTensor(change(self._stored), self._stored_dtype, self._source, scales)

    def __len__(self) -> int:
        return self._stored.shape[0]

    def __repr__(self) -> str:
        return f"LazyTensor({self._source}: {self._stored_dtype} {self.shape})"

    def rows(self, index: Any) -> npt.NDArray[np.float32]:
        """Rows ``index`` of the first axis as float32 ``[len(index), *shape[1:]]``.

        Args:
            index: Integers, a slice, or a boolean mask.

        Raises:
            FormatError: NaN or infinity in one of them (``non-finite``).
            IndexError: a row that is not there.
        """
        if not isinstance(index, slice):
            index = np.asarray(index)
            index = index if index.size else index.astype(np.int64)
            index = np.flatnonzero(index) if index.dtype == np.bool_ else index
            _read_only(self._stored, index)
        scales = self._scales
        if scales is not None and len(scales) == len(self):
            scales = scales[index]
        return self._finite(self._float(self._stored[index], scales))

    def read(self) -> npt.NDArray[np.float32]:
        """All of it as float32. Raises as :meth:`rows`."""
        return self._finite(self._float(self._stored, self._scales))

    def _float(self, stored: npt.NDArray[Any], scales: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32]:
        """``stored`` as float32 of its own; allocates that and nothing else of its size."""
        if scales is None:
            values = widen(stored, self._stored_dtype)
            return values.copy() if np.shares_memory(values, self._stored) else values
        if (scales < 0).any():
            raise FormatError(f"{self._source}: expected scales >= 0, got {scales.min()}", code="format")
        values = np.empty(stored.shape, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # scales that are not finite show in the values
            np.multiply(stored, scales, out=values, dtype=np.float32)
        return values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        values = self.read()
        return values if dtype is None else values.astype(dtype, copy=False)

    def _finite(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return check_finite(values, self._source)


def check_finite(values: npt.NDArray[np.float32], source: str) -> npt.NDArray[np.float32]:
    """``values``, which are contiguous; looked at in pieces, so that no mask of their size is held.

    Raises:
        FormatError: NaN or infinity in them (``non-finite``).
    """
    flat = values.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        good = np.isfinite(flat[start : start + _CHUNK])
        if not good.all():
            at = tuple(int(i) for i in np.unravel_index(start + int(np.argmin(good)), values.shape))
            raise FormatError(f"{source}: expected finite values, got {values[at]} at {at}", code="non-finite")
    return values


def _read_only(stored: npt.NDArray[Any], index: npt.NDArray[Any]) -> None:
    """Tell the system that these rows of a mapped array will be read, and nothing around them.

    Left alone it reads ahead at every row, which can be megabytes for a row of kilobytes. Only a hint: where it cannot be given
    nothing else changes.
    """
    mapping: Any = stored
    while mapping is not None and not isinstance(mapping, mmap.mmap):
        mapping = getattr(mapping, "base", None)
    extent = sum((n - 1) * s for n, s in zip(stored.shape[1:], stored.strides[1:], strict=True)) + stored.itemsize
    rows = index.astype(np.int64, copy=False).reshape(-1)
    apart = (
        min(stored.strides, default=0) > 0 and stored.strides[0] >= extent
    )  # not a view whose rows lie across each other
    if mapping is None or not hasattr(mmap, "MADV_RANDOM") or not apart or not rows.size:
        return
    if rows.min() < -len(stored) or rows.max() >= len(stored):
        return  # the indexing that follows says so
    begin = stored.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data
    page = mmap.PAGESIZE
    whole = begin // page * page
    mapping.madvise(mmap.MADV_RANDOM, whole, begin + (len(stored) - 1) * stored.strides[0] + extent - whole)
    starts = begin + np.unique(rows % len(stored)) * stored.strides[0]
    first, last = starts // page, (starts + extent - 1) // page + 1
    split = np.flatnonzero(first[1:] > last[:-1]) + 1
    for run in zip(first[np.r_[0, split]].tolist(), last[np.r_[split - 1, len(last) - 1]].tolist(), strict=True):
        mapping.madvise(mmap.MADV_WILLNEED, run[0] * page, (run[1] - run[0]) * page)


def as_float32(tensor: Any) -> npt.NDArray[np.float32]:
    """A tensor of a record, lazy or not, as a float32 array."""
    return tensor.read() if isinstance(tensor, LazyTensor) else np.asarray(tensor, dtype=np.float32)
