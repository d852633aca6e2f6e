"""Tensors that stay in their file until their rows are asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from iam.core.errors import FormatError

__all__ = ["NUMPY_DTYPES", "LazyTensor", "as_float32", "map_file", "widen"]

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
        flat = values.reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            if not np.isfinite(flat[start : start + _CHUNK]).all():
                at = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
                raise FormatError(
                    f"{self._source}: expected finite values, got {values[at]} at {at}", code="non-finite"
                )
        return values


def as_float32(tensor: Any) -> npt.NDArray[np.float32]:
    """A tensor of a record, lazy or not, as a float32 array."""
    return tensor.read() if isinstance(tensor, LazyTensor) else np.asarray(tensor, dtype=np.float32)
