"""Sparse features: which features are active in each row, and how strongly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from iam.core.arrays import shape_of
from iam.core.errors import ArgumentError, DtypeError, ShapeError
from iam.core.lazy import is_torch, require, torch_if_loaded

if TYPE_CHECKING:
    from iam.core.typing import Array

__all__ = ["SparseFeatures"]


class SparseFeatures:
    """Features of shape ``[..., n_features]`` of which only the active ones are stored.

    Two forms. With ``offsets=None``, the *k-form*: every row has exactly k slots. With ``offsets``, the *CSR form*: row r
    owns entries ``offsets[r]:offsets[r + 1]``, ascending in index, only nonzero values. In both, the nonzero slots of a row
    have distinct indices; slots of value 0 are padding. The components are NumPy arrays or torch tensors.

    Args:
        values: ``[rows, k]`` or ``[*prefix, k]``; ``[nnz]`` with offsets.
        indices: The feature of each value: same shape, integers in ``0..n_features-1``.
        offsets: ``[rows + 1]``, from 0, never falling, to nnz; None for the k-form.
        n_features: Size of the dictionary.
        prefix: Leading dimensions; by default one, the rows.
        validate: Check indices, offsets and distinctness, which reads every component. Off for results of kernels.
        row_scale: What a coder that normalises each activation by its own statistics needs to decode: reconstructions are
            multiplied by it and ``row_shift`` is added. One number per row, ``[rows]`` or ``[*prefix, 1]``; or None.
        row_shift: As ``row_scale``; None adds nothing.

    Raises:
        ShapeError: components that do not fit each other.
        DtypeError: values that are no floats, indices or offsets that are no integers, NumPy mixed with torch.
        ArgumentError: an index out of range (``feature-range``) or twice in a row (``feature-duplicate``).

    >>> f = SparseFeatures(np.array([[2.0, 1.0], [3.0, 0.0]]), np.array([[4, 0], [1, 2]]), None, 6)
    >>> f
    SparseFeatures: 2 rows x 6 features, L0 1.5 (k = 2, float64, numpy)
      row 0: 4: 2, 0: 1
      row 1: 1: 3
    >>> f.to_dense()[0]
    array([1., 0., 0., 0., 2., 0.])
    >>> f.active(0)
    [(4, 2.0), (0, 1.0)]
    """

    __slots__ = ("_indices", "_offsets", "_prefix", "_row_scale", "_row_shift", "_values", "n_features")

    n_features: int

    def __init__(
        self,
        values: Array,
        indices: Array,
        offsets: Array | None,
        n_features: int,
        prefix: Sequence[int] | None = None,
        *,
        validate: bool = True,
        row_scale: Array | None = None,
        row_shift: Array | None = None,
    ) -> None:
        self.n_features = int(n_features)
        if offsets is None:
            if values.ndim < 1 or values.shape != indices.shape:
                raise ShapeError(
                    "SparseFeatures: expected values [rows, k] and indices of the same shape, "
                    f"got values {shape_of(values)}, indices {shape_of(indices)}"
                )
            if prefix is None:
                prefix = shape_of(values)[:-1]
            if values.ndim != 2:
                rows = math.prod(shape_of(values)[:-1])
                values = values.reshape(rows, values.shape[-1])
                indices = indices.reshape(rows, indices.shape[-1])
            rows = int(values.shape[0])
        else:
            if values.ndim != 1 or indices.shape != values.shape or offsets.ndim != 1 or offsets.shape[0] < 1:
                raise ShapeError(
                    "SparseFeatures: expected values [nnz], indices [nnz], offsets [rows + 1], got values "
                    f"{shape_of(values)}, indices {shape_of(indices)}, offsets {shape_of(offsets)}"
                )
            rows = int(offsets.shape[0]) - 1
            if prefix is None:
                prefix = (rows,)
        self._values: Any = values
        self._indices: Any = indices
        self._offsets: Any = offsets
        self._prefix = tuple(int(n) for n in prefix)
        if math.prod(self._prefix) != rows:
            raise ShapeError(f"SparseFeatures: expected leading dimensions for {rows} rows, got {self._prefix}")
        self._row_scale: Any = self._one_per_row(row_scale, "row_scale")
        self._row_shift: Any = self._one_per_row(row_shift, "row_shift")
        if validate:
            self._validate()

    def _one_per_row(self, numbers: Any, name: str) -> Any:
        if numbers is None:
            return None
        if math.prod(shape_of(numbers)) != self.rows:
            raise ShapeError(f"SparseFeatures: expected {name} for {self.rows} rows, got {shape_of(numbers)}")
        return numbers.reshape(self.rows, 1)

    @classmethod
    def from_dense(cls, dense: Array, k: int | None = None) -> SparseFeatures:
        """The nonzero entries of ``dense [..., n_features]``, in CSR form; with ``k``, in k-form.

        Raises:
            DtypeError: not an array of floats.
            ArgumentError: a row has more than ``k`` nonzero entries (code ``k-range``).

        >>> SparseFeatures.from_dense(np.array([[0.0, 2.0], [0.0, 0.0]])).offsets
        array([0, 1, 1])
        """
        from iam.core.arrays import check_float, check_width

        check_float(dense, op="SparseFeatures.from_dense", name="dense")
        check_width(dense, op="SparseFeatures.from_dense", name="dense", width=None, width_name="features")
        prefix = shape_of(dense)[:-1]
        n_features = int(dense.shape[-1])
        flat: Any = dense.reshape(math.prod(prefix), n_features)
        if is_torch(dense):
            torch = torch_if_loaded()
            rows, indices = flat.nonzero(as_tuple=True)
            values = flat[rows, indices]
            counts = torch.bincount(rows, minlength=flat.shape[0])
            offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
            csr = cls(values, indices.to(torch.int32), offsets, n_features, prefix, validate=False)
        else:
            rows, indices = np.nonzero(flat)
            offsets = np.zeros(len(flat) + 1, np.int64)
            np.cumsum(np.bincount(rows, minlength=len(flat)), out=offsets[1:])
            csr = cls(flat[rows, indices], indices.astype(np.int32), offsets, n_features, prefix, validate=False)
        return csr if k is None else csr._to_k_form(k)

    def _to_k_form(self, k: int) -> SparseFeatures:
        """Slots ordered by descending value, ties to the lowest index, like topk's."""
        assert self._offsets is not None
        if not 1 <= k <= self.n_features:
            raise ArgumentError(
                f"SparseFeatures.from_dense: expected k in 1..{self.n_features} (features), got k={k}", code="k-range"
            )
        offsets = _numpy(self._offsets)
        counts = np.diff(offsets)
        if counts.size and counts.max() > k:
            row = int(counts.argmax())
            raise ArgumentError(
                f"SparseFeatures.from_dense: row {row} has {counts[row]} nonzero features, more than k={k} slots hold",
                code="k-range",
            )
        rows = np.repeat(np.arange(len(counts)), counts)
        key = self._values.detach().float().cpu().numpy() if self.is_torch else self._values
        order = np.lexsort((_numpy(self._indices), -key, rows))
        slots = np.arange(len(order)) - np.repeat(offsets[:-1], counts)
        shape = (len(counts), k)
        if self.is_torch:
            torch = torch_if_loaded()
            device = self._values.device
            at = (torch.from_numpy(rows).to(device), torch.from_numpy(slots).to(device))
            taken = torch.from_numpy(order).to(device)
            values = self._values.new_zeros(shape).index_put(at, self._values[taken])
            indices = self._indices.new_zeros(shape).index_put(at, self._indices[taken])
        else:
            values = np.zeros(shape, self._values.dtype)
            indices = np.zeros(shape, np.int32)
            values[rows, slots] = self._values[order]
            indices[rows, slots] = self._indices[order]
        return SparseFeatures(values, indices, None, self.n_features, self._prefix, validate=False)

    # What it holds.

    @property
    def values(self) -> Any:
        """``[*prefix, k]`` in k-form, ``[nnz]`` in CSR form."""
        return self._restored(self._values)

    @property
    def indices(self) -> Any:
        """The feature of each value, int32; same shape as ``values``."""
        return self._restored(self._indices)

    @property
    def offsets(self) -> Any:
        """``[rows + 1]`` int64 in CSR form, None in k-form."""
        return self._offsets

    def _restored(self, component: Any) -> Any:
        if self._offsets is not None or len(self._prefix) == 1:
            return component
        return component.reshape(*self._prefix, component.shape[-1])

    @property
    def components(self) -> tuple[Any, Any, Any]:
        """``(values, indices, offsets)`` with rows flattened: ``[rows, k]``, or ``[nnz]`` and offsets. What kernels take."""
        return self._values, self._indices, self._offsets

    @property
    def row_scale(self) -> Any:
        """What reconstructions of each row are multiplied by, ``[*prefix, 1]``; None for most coders."""
        return None if self._row_scale is None else self._row_scale.reshape(*self._prefix, 1)

    @property
    def row_shift(self) -> Any:
        """What is added to reconstructions of each row after that, ``[*prefix, 1]``; None for most coders."""
        return None if self._row_shift is None else self._row_shift.reshape(*self._prefix, 1)

    def with_rows_of(self, other: SparseFeatures) -> SparseFeatures:
        """These features with ``row_scale`` and ``row_shift`` of ``other``, which has the same rows."""
        if (
            other._row_scale is None
            and other._row_shift is None
            and self._row_scale is None
            and self._row_shift is None
        ):
            return self
        parts = (self._values, self._indices, self._offsets)
        scale, shift = other._row_scale, other._row_shift
        return SparseFeatures(*parts, self.n_features, self._prefix, validate=False, row_scale=scale, row_shift=shift)

    @property
    def k(self) -> int | None:
        """Slots per row in k-form, None in CSR form."""
        return None if self._offsets is not None else int(self._values.shape[1])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the dense array: ``(*prefix, n_features)``."""
        return (*self._prefix, self.n_features)

    @property
    def prefix(self) -> tuple[int, ...]:
        """The leading dimensions."""
        return self._prefix

    @property
    def rows(self) -> int:
        """Number of rows: the product of the leading dimensions."""
        return math.prod(self._prefix)

    @property
    def ndim(self) -> int:
        return len(self._prefix) + 1

    @property
    def dtype(self) -> Any:
        return self._values.dtype

    @property
    def is_torch(self) -> bool:
        """Whether the components are torch tensors."""
        return is_torch(self._values)

    @property
    def nnz(self) -> int:
        """Number of nonzero values."""
        return int((self._values != 0).sum())

    @property
    def l0(self) -> float:
        """Mean number of active features per row; 0 when there are no rows."""
        return self.nnz / self.rows if self.rows else 0.0

    # Rows.

    def __len__(self) -> int:
        if not self._prefix:
            raise TypeError("SparseFeatures of a single row have no length; their shape is " + str(self.shape))
        return self._prefix[0]

    def __iter__(self) -> Iterator[SparseFeatures]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> SparseFeatures:
        """Rows by their leading dimensions: ``f[3]``, ``f[2:5]``, ``f[0, -1]``, ``f[mask]``.

        Raises:
            IndexError: out of range, or more indices than leading dimensions; for a feature's column use
                ``to_dense()[..., j]``.
        """
        if is_torch(key):
            key = key.detach().cpu().numpy()
        elif isinstance(key, tuple):
            key = tuple(part.detach().cpu().numpy() if is_torch(part) else part for part in key)
        try:
            picked = np.arange(self.rows).reshape(self._prefix)[key]
        except IndexError as error:
            raise IndexError(
                f"SparseFeatures of shape {self.shape} are indexed by their leading dimensions {self._prefix}: {error}"
            ) from None
        picked = np.asarray(picked)
        return self._take(picked.reshape(-1), picked.shape)

    def _take(self, rows: np.ndarray[Any, Any], prefix: tuple[int, ...]) -> SparseFeatures:
        at = self._like(rows)
        scale, shift = (None if n is None else n[at] for n in (self._row_scale, self._row_shift))
        if self._offsets is None:
            parts = (self._values[at], self._indices[at], None)
            return SparseFeatures(*parts, self.n_features, prefix, validate=False, row_scale=scale, row_shift=shift)
        offsets = _numpy(self._offsets)
        counts = offsets[rows + 1] - offsets[rows]
        new = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(counts, out=new[1:])
        entries = self._like(np.repeat(offsets[rows] - new[:-1], counts) + np.arange(new[-1]))
        parts = (self._values[entries], self._indices[entries], self._like(new))
        return SparseFeatures(*parts, self.n_features, prefix, validate=False, row_scale=scale, row_shift=shift)

    def _like(self, array: np.ndarray[Any, Any]) -> Any:
        return torch_if_loaded().from_numpy(array).to(self._values.device) if self.is_torch else array

    def active(self, row: int | tuple[int, ...] = 0) -> list[tuple[int, float]]:
        """The active features of one row as ``(index, value)``, strongest first, ties by index.

        Args:
            row: Index into the leading dimensions, or into the flattened rows if there are several of them.
        """
        values, indices = self._row(row)
        keep = values != 0
        order = np.lexsort((indices[keep], -np.abs(values[keep])))
        return [(int(i), float(v)) for i, v in zip(indices[keep][order], values[keep][order], strict=True)]

    def _row(self, row: int | tuple[int, ...]) -> tuple[Any, Any]:
        if isinstance(row, tuple):
            if len(row) != len(self._prefix):
                raise IndexError(f"SparseFeatures.active: expected {len(self._prefix)} indices, got {row}")
            row = int(np.arange(self.rows).reshape(self._prefix)[row])
        if not -self.rows <= row < self.rows:
            raise IndexError(f"SparseFeatures.active: row {row} is out of range for {self.rows} rows")
        row %= self.rows
        if self._offsets is None:
            return _floats(self._values[row]), _numpy(self._indices[row])
        begin, end = int(self._offsets[row]), int(self._offsets[row + 1])
        return _floats(self._values[begin:end]), _numpy(self._indices[begin:end])

    def __repr__(self) -> str:
        rows = "x".join(str(n) for n in self._prefix) or "1"
        noun = "row" if self.rows == 1 else "rows"
        form = "CSR" if self.k is None else f"k = {self.k}"
        kind = f"torch, {self._values.device}" if self.is_torch else "numpy"
        dtype = str(self.dtype).removeprefix("torch.")
        lines = [
            f"SparseFeatures: {rows} {noun} x {self.n_features} features, L0 {self.l0:.3g} ({form}, {dtype}, {kind})"
        ]
        for row in range(min(self.rows, 4)):
            active = self.active(row)
            shown = ", ".join(f"{index}: {value:.3g}" for index, value in active[:6])
            more = f", ... {len(active) - 6} more" if len(active) > 6 else ""
            at = row if len(self._prefix) <= 1 else tuple(int(n) for n in np.unravel_index(row, self._prefix))
            lines.append(f"  row {at}: {shown or 'none'}{more}")
        if self.rows > 4:
            lines.append(f"  ... {self.rows - 4} more rows")
        return "\n".join(lines)

    # Other containers.

    def to_dense(self) -> Any:
        """``[*prefix, n_features]``, in the container and float type of the values."""
        from iam import ops

        return ops.densify(self)

    def to_torch_sparse(self) -> Any:
        """A coalesced ``torch.sparse_coo`` tensor of ``shape``; only nonzero values.

        Raises:
            MissingDependencyError: torch is not installed.
        """
        torch: Any = require("torch", extra="models", purpose="SparseFeatures.to_torch_sparse")
        tensors = self.to_torch()
        rows = tensors._row_ids()
        values, indices = tensors._values.reshape(-1), tensors._indices.reshape(-1).to(torch.int64)
        keep = values != 0
        flat = rows[keep]
        where = [*torch.unravel_index(flat, self._prefix)] if self._prefix else []
        coordinates = torch.stack([*where, indices[keep]])
        return torch.sparse_coo_tensor(coordinates, values[keep], self.shape, check_invariants=False).coalesce()

    def _row_ids(self) -> Any:
        """The row of every slot, for torch components."""
        torch = torch_if_loaded()
        device = self._values.device
        if self._offsets is None:
            return torch.arange(self.rows, device=device).repeat_interleave(self._values.shape[1])
        return torch.arange(self.rows, device=device).repeat_interleave(self._offsets.diff())

    def to_numpy(self) -> SparseFeatures:
        """The same features with NumPy components (bfloat16 becomes float32); shares memory where it can."""
        if not self.is_torch:
            return self
        offsets = None if self._offsets is None else _numpy(self._offsets)
        values = self._values.detach().cpu()
        if values.dtype == torch_if_loaded().bfloat16:
            values = values.float()
        scale, shift = (None if n is None else _numpy(n) for n in (self._row_scale, self._row_shift))
        parts = (values.numpy(), _numpy(self._indices), offsets)
        return SparseFeatures(*parts, self.n_features, self._prefix, validate=False, row_scale=scale, row_shift=shift)

    def to_torch(self) -> SparseFeatures:
        """The same features with torch components; shares memory.

        Raises:
            MissingDependencyError: torch is not installed.
        """
        if self.is_torch:
            return self
        torch: Any = require("torch", extra="models", purpose="SparseFeatures.to_torch")
        return SparseFeatures(
            torch.from_numpy(self._values),
            torch.from_numpy(self._indices),
            None if self._offsets is None else torch.from_numpy(self._offsets),
            self.n_features,
            self._prefix,
            validate=False,
            row_scale=None if self._row_scale is None else torch.from_numpy(self._row_scale),
            row_shift=None if self._row_shift is None else torch.from_numpy(self._row_shift),
        )

    # Edits. Each returns new features and leaves these as they are.

    def set(self, features: int | Sequence[int], value: float | Sequence[float] | Array) -> SparseFeatures:
        """Features with ``f[j] = value`` in every row, active before or not.

        Args:
            features: One index or n distinct ones, in ``0..n_features-1``.
            value: One number, or n of them.

        Raises:
            ArgumentError: index out of range (``feature-range``) or repeated (``feature-duplicate``).

        In k-form the result has k + n slots.
        """
        return self._edit("set", features, value)

    def scale(self, features: int | Sequence[int], factor: float | Sequence[float] | Array) -> SparseFeatures:
        """Features with ``f[j] *= factor``; inactive features stay inactive. Arguments as in :meth:`set`."""
        return self._edit("scale", features, factor)

    def clamp(
        self,
        features: int | Sequence[int],
        low: float | Sequence[float] | Array,
        high: float | Sequence[float] | Array,
    ) -> SparseFeatures:
        """Features with ``f[j] = min(max(f[j], low), high)``; inactive ones count as 0. Arguments as in :meth:`set`."""
        return self._edit("clamp", features, low, high)

    def ablate(self, features: int | Sequence[int]) -> SparseFeatures:
        """Features with ``f[j] = 0``. Arguments as in :meth:`set`."""
        return self._edit("ablate", features)

    def _edit(self, mode: str, features: Any, a: Any = None, b: Any = None) -> SparseFeatures:
        from iam import ops

        return ops.edit(self, features, mode, a, b)

    def __sub__(self, other: SparseFeatures) -> SparseFeatures:
        if not isinstance(other, SparseFeatures):
            return NotImplemented
        from iam import ops

        return ops.sub(self, other)

    # Checks.

    def _validate(self) -> None:
        values, indices, offsets = self._values, self._indices, self._offsets
        kinds = {is_torch(c) for c in (values, indices, offsets) if c is not None}
        if len(kinds) != 1:
            raise DtypeError("SparseFeatures: expected all components from NumPy or all from torch, got a mixture")
        if self.n_features < 1:
            raise ShapeError(f"SparseFeatures: expected n_features >= 1, got {self.n_features}")
        if kinds == {True}:
            torch = torch_if_loaded()
            if not values.is_floating_point():
                raise DtypeError(f"SparseFeatures: expected values of a float type, got {values.dtype}")
            if indices.is_floating_point() or (offsets is not None and offsets.is_floating_point()):
                raise DtypeError("SparseFeatures: expected integer indices and offsets")
            as_int32, as_int64 = torch.int32, torch.int64
        else:
            if values.dtype.kind != "f":
                raise DtypeError(f"SparseFeatures: expected values of a float type, got {values.dtype}")
            if indices.dtype.kind not in "iu" or (offsets is not None and offsets.dtype.kind not in "iu"):
                raise DtypeError("SparseFeatures: expected integer indices and offsets")
            as_int32, as_int64 = np.int32, np.int64
        if math.prod(shape_of(indices)):
            low, high = int(indices.min()), int(indices.max())
            if low < 0 or high >= self.n_features:
                raise ArgumentError(
                    f"SparseFeatures: expected indices in 0..{self.n_features - 1}, got {low if low < 0 else high}",
                    code="feature-range",
                )
        self._indices = _cast(indices, as_int32)
        if offsets is not None:
            steps = np.diff(_numpy(offsets).astype(np.int64))
            if int(offsets[0]) != 0 or int(offsets[-1]) != values.shape[0] or (steps < 0).any():
                raise ShapeError(
                    f"SparseFeatures: expected offsets that rise from 0 to nnz = {values.shape[0]}, "
                    f"got {_numpy(offsets)[:8].tolist()}{'...' if len(offsets) > 8 else ''}"
                )
            self._offsets = _cast(offsets, as_int64)
        self._check_distinct()

    def _check_distinct(self) -> None:
        values, indices = _floats(self._values).reshape(-1), _numpy(self._indices).reshape(-1)
        if self._offsets is None:
            rows = np.repeat(np.arange(self.rows), self._values.shape[1])
        else:
            rows = np.repeat(np.arange(self.rows), np.diff(_numpy(self._offsets)))
        active = values != 0
        rows, indices = rows[active], indices[active]
        order = np.lexsort((indices, rows))
        rows, indices = rows[order], indices[order]
        twice = np.flatnonzero((np.diff(rows) == 0) & (np.diff(indices) == 0))
        if twice.size:
            at = twice[0]
            raise ArgumentError(
                f"SparseFeatures: expected distinct features in each row, got feature {indices[at]} more than once in row "
                f"{rows[at]}",
                code="feature-duplicate",
            )


def _numpy(component: Any) -> Any:
    return component.detach().cpu().numpy() if is_torch(component) else component


def _floats(component: Any) -> Any:
    """Values for reading and printing, float64."""
    return component.detach().cpu().double().numpy() if is_torch(component) else component.astype(np.float64)


def _cast(component: Any, dtype: Any) -> Any:
    if is_torch(component):
        return component.to(dtype)
    return component.astype(dtype, copy=False)
