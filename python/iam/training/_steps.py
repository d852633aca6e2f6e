"""The products of a training step on sparse codes, and the optimiser.

Codes are in CSR form: row ``r`` has the entries ``offsets[r] .. offsets[r + 1]``; entry ``e`` belongs to feature ``indices[e]``.
Encoder and decoder are both ``[features, width]``, so that all that belongs to a feature is one row; an encoder lies by columns
(``encoder.T`` is contiguous), as the kernels that encode want it.

float32 runs in the compiled kernels (docs/training-kernels.md), float64 in torch: the gradients' formulas are checked in
float64, and the kernels against them. Of the products of a textbook step one stays dense, the encoder's. Where more than one
code in 16 is not zero (JumpReLU and ReLU in their first steps) dense products are faster, and these functions use them; the sums
are the same.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from iam.core.lazy import native
from iam.training._config import OptimiserSettings

if TYPE_CHECKING:
    from iam._runtime import _Gradient, _Group

__all__ = [
    "Codes",
    "Gradient",
    "Optimiser",
    "Product",
    "above",
    "add",
    "batch_topk",
    "column_sums",
    "decode",
    "encode",
    "encode_above",
    "encode_batch_topk",
    "encode_largest",
    "encode_topk",
    "encode_window",
    "fired",
    "one_each",
    "product",
    "row_sum",
    "sampled",
    "squares",
    "stacked",
    "topk",
    "transposed",
    "variance",
]

_DENSE = 16
# A gradient's rows are used twice, for the norm and for the step. With more entries a feature than this it costs less to make
# them once than to sum the entries twice.
_ENTRIES_TO_MAKE_ROWS = 8


@functools.cache
def _csr_warned() -> None:
    """torch says once per process that CSR tensors are in beta; the gradients are checked against autograd."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.tensor([], dtype=torch.long), torch.tensor([]), size=(1, 1))


@dataclass
class Codes:
    """Where codes are not zero: `indices [entries]`, `offsets [rows + 1]` (int64), for `width` features."""

    indices: torch.Tensor
    offsets: torch.Tensor
    width: int
    _rows: torch.Tensor | None = field(default=None, repr=False)
    _group: _Group | None = field(default=None, repr=False)
    _indices32: npt.NDArray[np.int32] | None = field(default=None, repr=False)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    @property
    def row_of(self) -> torch.Tensor:
        """The row of each entry, `[entries]`."""
        if self._rows is None:
            self._rows = torch.repeat_interleave(torch.arange(self.rows), self.offsets.diff())
        return self._rows

    @property
    def is_dense(self) -> bool:
        """Whether dense products are the faster ones."""
        return len(self.indices) * _DENSE > self.rows * self.width

    @property
    def indices32(self) -> npt.NDArray[np.int32]:
        """The indices as the kernels take them."""
        if self._indices32 is None:
            self._indices32 = self.indices.to(torch.int32).numpy()
        return self._indices32

    def group(self) -> _Group:
        """The entries sorted by feature, as the kernels take them. Made once: all entries are in it, whatever their values."""
        if self._group is None:
            ones = np.ones(len(self.indices), np.float32)  # the kernel leaves out entries with value 0
            self._group = native().train_group(ones, self.indices32, self.offsets.numpy(), self.width)
        return self._group

    def by_feature(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The transposed pattern: the order of entries by feature, where each feature starts, and the row of each entry."""
        order = torch.argsort(self.indices, stable=True)
        return order, _offsets(torch.bincount(self.indices, minlength=self.width)), self.row_of[order]

    def dense(self, values: torch.Tensor) -> torch.Tensor:
        """The values as `[rows, width]`."""
        if values.dtype == torch.float32:
            return torch.from_numpy(native().densify(values.numpy(), self.indices32, self.offsets.numpy(), self.width))
        out = values.new_zeros(self.rows * self.width)
        out[self.row_of * self.width + self.indices] = values
        return out.view(self.rows, self.width)

    def at(self, dense: torch.Tensor) -> torch.Tensor:
        """The entries of `dense [rows, width]`, `[entries]`."""
        return dense.reshape(-1)[self.row_of * self.width + self.indices]

    def nested(self, widths: Sequence[int]) -> tuple[Codes, torch.Tensor]:
        """The codes level by level, and where each entry came from: the entries of row r whose features are from
        ``widths[j - 1]`` up to ``widths[j] - 1`` are row ``j * rows + r``."""
        level = torch.bucketize(self.indices, torch.tensor(widths), right=True)
        row = level * self.rows + self.row_of
        order = torch.argsort(row, stable=True)
        counts = torch.bincount(row, minlength=self.rows * len(widths))
        return Codes(self.indices[order], _offsets(counts), self.width), order


def _offsets(counts: torch.Tensor) -> torch.Tensor:
    offsets = torch.zeros(len(counts) + 1, dtype=torch.long)
    torch.cumsum(counts, 0, out=offsets[1:])
    return offsets


def stacked(a: Codes, b: Codes) -> Codes:
    """The rows of `a`, then those of `b`: a product with the bases stacked likewise is the sum of both products."""
    return Codes(torch.cat([a.indices, b.indices]), torch.cat([a.offsets, a.offsets[-1] + b.offsets[1:]]), a.width)


def one_each(features: torch.Tensor, width: int) -> Codes:
    """A row for each of the features, whose one entry it is: rows `[n, d]` that belong to these features are a product with
    values 1."""
    return Codes(features, torch.arange(len(features) + 1), width)


# --------------------------------------------------------------------------------------------------------- selections


def encode(x: torch.Tensor, encoder: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Pre-activations `x [rows, d_in] @ encoder [features, d_in].T + bias`, `[rows, features]`."""
    return x @ encoder.T if bias is None else torch.addmm(bias, x, encoder.T)


def _kernel_input(
    x: torch.Tensor, encoder: torch.Tensor, bias: torch.Tensor, norms: torch.Tensor | None
) -> tuple[Any, Any, Any]:
    """Arrays for a kernel that encodes; pre-activations times `norms [features]` if these are given."""
    if norms is not None:
        encoder, bias = encoder * norms[:, None], bias * norms
    return x.contiguous().numpy(), encoder.T.contiguous().numpy(), bias.numpy()


def _unscaled(codes: Codes, values: torch.Tensor, norms: torch.Tensor | None) -> torch.Tensor:
    # what was chosen has a score other than 0, and so has a norm other than 0
    return values if norms is None else values / norms[codes.indices]


def _found(values: npt.NDArray[np.float32], indices: npt.NDArray[np.int32], width: int) -> tuple[Codes, torch.Tensor]:
    """Codes of a kernel's slots `[rows, k]`; slots with value 0 are padding."""
    kept = values != 0
    if kept.all():
        offsets = torch.arange(0, values.size + 1, values.shape[1])
    else:
        offsets = _offsets(torch.from_numpy(kept.sum(1)))
        values, indices = values[kept], indices[kept]
    return _csr_found(values, indices, offsets, width)


def _csr_found(values: Any, indices: Any, offsets: Any, width: int) -> tuple[Codes, torch.Tensor]:
    indices = indices.reshape(-1)
    codes = Codes(torch.from_numpy(indices).long(), torch.as_tensor(offsets), width, _indices32=indices)
    return codes, torch.from_numpy(values.reshape(-1))


def encode_topk(
    x: torch.Tensor, encoder: torch.Tensor, bias: torch.Tensor, k: int, norms: torch.Tensor | None = None
) -> tuple[Codes, torch.Tensor]:
    """Codes and rectified values of the `k` largest pre-activations h of each row; of the k largest ``h * norms`` with
    `norms [features]`. `[rows, features]` is never held in float32, and entries that are not positive may be left out."""
    if x.dtype == torch.float32:
        slots, indices = native().encode_topk(*_kernel_input(x, encoder, bias, norms), None, k)
        codes, values = _found(slots, indices, len(encoder))
        return codes, _unscaled(codes, values, norms)
    pre = encode(x, encoder, bias)
    codes = topk(pre if norms is None else pre * norms, k)
    return codes, codes.at(pre).relu()


def encode_batch_topk(
    x: torch.Tensor, encoder: torch.Tensor, bias: torch.Tensor, count: int, norms: torch.Tensor | None = None
) -> tuple[Codes, torch.Tensor]:
    """Codes and values of the `count` largest pre-activations of the whole batch that are > 0, chosen by ``h * norms`` if these
    are given. In float32 from the largest of each row, twice as many as there are on average; rows of which all were chosen may
    have more, and are encoded again with twice as many, until there are none."""
    if x.dtype != torch.float32:
        pre = encode(x, encoder, bias)
        codes = batch_topk(pre if norms is None else pre * norms, count)
        return codes, codes.at(pre)
    width, (rows, weights, bias_of) = len(encoder), _kernel_input(x, encoder, bias, norms)
    slots = min(width, 2 * -(-count // len(x)))
    candidates, features = native().encode_topk(rows, weights, bias_of, None, slots)
    while True:
        values, indices, offsets, exact = native().train_batch_select(candidates, features, count)
        if exact or slots == width:
            break
        full = np.flatnonzero(np.diff(offsets) == slots)
        more = min(width, 2 * slots) - slots
        candidates, features = (np.pad(one, ((0, 0), (0, more))) for one in (candidates, features))  # 0 is padding
        slots += more
        candidates[full], features[full] = native().encode_topk(rows[full], weights, bias_of, None, slots)
    codes, found = _csr_found(values, indices, offsets, width)
    return codes, _unscaled(codes, found, norms)


def encode_largest(
    x: torch.Tensor, encoder: torch.Tensor, bias: torch.Tensor, k: int, norms: torch.Tensor | None = None
) -> tuple[Codes, torch.Tensor]:
    """As :func:`encode_topk`, sign kept: AuxK's codes, of an encoder `[features, d_in]` of dead features alone."""
    width = len(encoder)
    if x.dtype == torch.float32:
        among = np.arange(width, dtype=np.int32)
        values, indices = native().train_encode_among(*_kernel_input(x, encoder, bias, norms), None, among, k)
        codes, found = _csr_found(values, indices, torch.arange(0, values.size + 1, k), width)
        return codes, _unscaled(codes, found, norms)
    pre = encode(x, encoder, bias)
    codes = topk(pre if norms is None else pre * norms, k)
    return codes, codes.at(pre)


def encode_above(x: torch.Tensor, encoder: torch.Tensor, bias: torch.Tensor) -> tuple[Codes, torch.Tensor]:
    """Codes and values of the pre-activations that are > 0."""
    if x.dtype == torch.float32:
        values, indices, offsets = native().encode_threshold(*_kernel_input(x, encoder, bias, None), None, None)
        return _csr_found(values, indices, offsets, len(encoder))
    pre = encode(x, encoder, bias)
    codes = above(pre > 0)
    return codes, codes.at(pre)


def encode_window(
    x: torch.Tensor, encoder: torch.Tensor, bias: torch.Tensor, theta: torch.Tensor, bandwidth: float
) -> tuple[Codes, torch.Tensor]:
    """Codes and values of the pre-activations ``h > theta - bandwidth / 2``, and perhaps of some just below; ``theta >= 0``."""
    if x.dtype == torch.float32:
        given = _kernel_input(x, encoder, bias, None)
        values, indices, offsets = native().train_encode_window(*given, None, theta.numpy(), bandwidth)
        return _csr_found(values, indices, offsets, len(encoder))
    pre = encode(x, encoder, bias)
    codes = above(pre > theta - bandwidth / 2)
    return codes, codes.at(pre)


def topk(score: torch.Tensor, k: int) -> Codes:
    """The `k` largest of each row of `score [rows, features]`, whatever their sign."""
    rows, width = score.shape
    indices = score.topk(k, dim=1, sorted=False).indices
    return Codes(indices.flatten(), torch.arange(0, rows * k + 1, k), width)


def batch_topk(score: torch.Tensor, count: int) -> Codes:
    """The `count` largest of all of `score [rows, features]` that are > 0.

    Exact without a sort of everything: the largest of each row are candidates; a row that has none below the cut may have
    lost some, and then twice as many are taken.
    """
    rows, width = score.shape
    count = min(count, score.numel())
    each = min(width, max(1, 4 * -(-count // rows)))
    while True:
        values, indices = score.topk(each, dim=1, sorted=True)
        kept = values.flatten().topk(count, sorted=False).indices
        taken = torch.zeros(rows * each, dtype=torch.bool)
        taken[kept] = True
        taken = taken.view(rows, each)
        if each == width or not bool(taken[:, -1].any()):
            break
        each = min(width, 2 * each)
    taken &= values > 0
    return Codes(indices[taken], _offsets(taken.sum(1)), width)


def above(mask: torch.Tensor) -> Codes:
    """The entries that `mask [rows, features]` marks."""
    return Codes(mask.nonzero()[:, 1], _offsets(mask.sum(1)), mask.shape[1])


# ----------------------------------------------------------------------------------------------------------- products


def _csr(codes: Codes, values: torch.Tensor) -> torch.Tensor:
    _csr_warned()
    return torch.sparse_csr_tensor(codes.offsets, codes.indices, values, size=(codes.rows, codes.width))


def decode(codes: Codes, values: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """`F @ matrix [features, n]` for the codes `F` with these values: `[rows, n]`."""
    if codes.is_dense:
        return codes.dense(values) @ matrix
    if values.dtype == torch.float32:
        given = values.numpy(), codes.indices32, codes.offsets.numpy()
        return torch.from_numpy(native().decode(*given, matrix.numpy()))
    return _csr(codes, values) @ matrix


def sampled(codes: Codes, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`left[row of e] . right[feature of e]` for each entry e, `[entries]`; `left [rows, n]`, `right [features, n]`."""
    if codes.is_dense:
        return codes.at(left @ right.T)
    if left.dtype == torch.float32:
        like = np.empty(len(codes.indices), np.float32)  # its shape counts
        return torch.from_numpy(native().train_grad_values(codes.group(), left.numpy(), right.numpy(), like))
    zeros = left.new_zeros(len(codes.indices))
    return torch.sparse.sampled_addmm(_csr(codes, zeros), left, right.T).values()


def column_sums(codes: Codes, values: torch.Tensor) -> torch.Tensor:
    """The sum of the values of each feature, `[features]`."""
    if values.dtype == torch.float32:
        sums, group = np.zeros(codes.width, np.float32), codes.group()
        sums[group[0]] = native().train_grad_sums(group, values.numpy(), codes.rows)
        return torch.from_numpy(sums)
    return values.new_zeros(codes.width).index_add_(0, codes.indices, values)


def fired(codes: Codes, values: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Which features have a value > 0, `[features]`, and how many values are."""
    on = values.numpy() > 0
    found = np.zeros(codes.width, np.bool_)
    found[codes.indices32[on]] = True
    return torch.from_numpy(found), int(np.count_nonzero(on))


def squares(dense: torch.Tensor) -> torch.Tensor:
    """The sum of squares of all elements, as a tensor of one number; float32 is summed in float64."""
    if dense.dtype == torch.float32:
        return torch.tensor(native().train_sum_squares(dense.numpy()), dtype=torch.float32)
    return dense.square().sum()


def row_sum(dense: torch.Tensor) -> torch.Tensor:
    """The sum of the rows of `dense [rows, n]`: `[n]`; float32 is summed in float64."""
    if dense.dtype == torch.float32:
        return torch.from_numpy(native().train_column_sums(dense.numpy()))
    return dense.sum(0)


def variance(dense: torch.Tensor) -> float:
    """Sum of squared distances of the rows of `dense [rows, n]`, float32, from their mean. Of sums, ``S - |s|^2 / rows``, with an
    error of 1e-7 of what is subtracted."""
    array = dense.numpy()
    total = native().train_column_sums(array).astype(np.float64)
    return max(0.0, native().train_sum_squares(array) - float(total @ total) / len(array))


@dataclass
class Product:
    """`F.T @ basis [rows, n]` for the codes `F` with these values, not computed: a gradient `[features, n]` that has rows for
    active features only, and of which a kernel makes a row when it needs it. float32."""

    codes: Codes
    values: torch.Tensor
    basis: torch.Tensor

    def factors(self) -> _Gradient:
        """As the kernels take it."""
        return self.codes.group(), self.values.numpy(), self.basis.numpy()

    def add_to(self, dense: torch.Tensor) -> torch.Tensor:
        """`dense [features, n]` with the product added in place."""
        rows = native().train_grad_rows(self.factors())
        return dense.index_add_(0, torch.from_numpy(self.codes.group()[0]), torch.from_numpy(rows))

    def dense(self) -> torch.Tensor:
        """`[features, n]`."""
        return self.add_to(self.basis.new_zeros(self.codes.width, self.basis.shape[1]))


Gradient: TypeAlias = torch.Tensor | Product


def product(codes: Codes, values: torch.Tensor, basis: torch.Tensor) -> Gradient:
    """`F.T @ basis [rows, n]` for the codes `F` with these values: the gradient of a weight `[features, n]`. Computed if that is
    a dense product or in float64, else a :class:`Product`."""
    if not codes.is_dense and values.dtype == torch.float32:
        return Product(codes, values, basis)
    return transposed(codes, values, basis)


def add(a: Gradient, b: Gradient) -> Gradient:
    """The sum; `a` or `b` may be overwritten."""
    if isinstance(a, Product) and isinstance(b, Product):
        return Product(stacked(a.codes, b.codes), torch.cat([a.values, b.values]), torch.cat([a.basis, b.basis]))
    if isinstance(a, Product):
        a, b = b, a
    assert isinstance(a, torch.Tensor)
    return b.add_to(a) if isinstance(b, Product) else a.add_(b)


def transposed(codes: Codes, values: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
    """`F.T @ dense [rows, n]`: `[features, n]`, computed."""
    if codes.is_dense:
        return codes.dense(values).T @ dense
    if values.dtype == torch.float32:
        return Product(codes, values, dense).dense()
    _csr_warned()
    order, pointers, rows = codes.by_feature()
    return torch.sparse_csr_tensor(pointers, rows, values[order], size=(codes.width, codes.rows)) @ dense


# ---------------------------------------------------------------------------------------------------------- optimiser


class Optimiser:
    """Adam, or signum, on a dictionary of float32 weights, with what belongs to a step: the decoder's constraint and clipping.

    Adam (arXiv:1412.6980, algorithm 1): ``m <- b1 m + (1 - b1) g``, ``v <- b2 v + (1 - b2) g^2``,
    ``p <- p - lr m_hat / (sqrt(v_hat) + eps)``. Signum (arXiv:1802.04434): ``m <- b m + (1 - b) g``, ``p <- p - lr sign(m)``.
    Moments are dense, and every feature takes every step.

    Args:
        weights: By name, updated in place. What a weight is, is the last part of its name (``layers.0.encoder`` is an encoder).
            Encoders ``[features, d_in]`` are laid out by columns first, in the dictionary: ``encoder.T`` is contiguous.
            Thresholds stay >= 0.
        settings: The rule, and at which norm gradients are clipped.
        normalize: Names of weights ``[features, n]`` whose rows keep norm 1.
    """

    def __init__(
        self, weights: dict[str, torch.Tensor], settings: OptimiserSettings, *, normalize: Sequence[str] = ()
    ) -> None:
        self._settings = settings
        self._normalize = frozenset(normalize)
        self._step = 0
        self._columns = frozenset(name for name in weights if _kind(name) == "encoder")
        self._thresholds = [name for name in weights if _kind(name) == "threshold"]
        self._arrays: dict[str, npt.NDArray[np.float32]] = {}
        for name, weight in weights.items():
            weights[name] = weight.T.contiguous().T if name in self._columns else weight.contiguous()
            self._arrays[name] = (weights[name].T if name in self._columns else weights[name]).numpy()
        moments = ("m", "v") if settings.name == "adam" else ("momentum",)
        # those of an encoder are [features, d_in] in memory, too
        self._moments = {
            name: {moment: torch.zeros(weight.shape) for moment in moments} for name, weight in weights.items()
        }

    def step(self, gradients: Mapping[str, Gradient], lr: float) -> float:
        """One update in place: gradients lose their parts along rows that keep norm 1, are clipped together, and move the
        weights; then the constraints.

        Args:
            gradients: Of every weight; may be overwritten.
            lr: The learning rate.

        Returns:
            The norm of all gradients after the projection, before clipping.
        """
        kernels = native()
        given = {name: self._as_given(name, gradients[name]) for name in self._arrays}
        squares = (
            kernels.train_sum_squares(one, self._arrays[name] if name in self._normalize else None)
            for name, one in given.items()
        )
        norm = math.sqrt(
            math.fsum(squares)
        )  # exact, so the order of the names does not matter, which a checkpoint sorts
        limit = self._settings.clip
        scale = limit / norm if limit is not None and norm > limit else 1.0
        self._step += 1
        for name, one in given.items():
            self._update(name, one, lr, scale)
        for name in self._thresholds:
            np.maximum(self._arrays[name], 0, out=self._arrays[name])
        return norm

    def _as_given(self, name: str, gradient: Gradient) -> _Gradient | npt.NDArray[np.float32]:
        """A gradient as the kernels take it: factors, rows of features, or an array of the weight's shape."""
        if isinstance(gradient, Product):
            group = gradient.codes.group()
            if len(group[2]) <= _ENTRIES_TO_MAKE_ROWS * len(group[0]):
                return gradient.factors()
            return group[0], native().train_grad_rows(gradient.factors())
        if name in self._columns or name in self._normalize:
            return np.arange(len(gradient), dtype=np.int32), gradient.numpy()
        return gradient.numpy()

    def _update(self, name: str, given: Any, lr: float, scale: float) -> None:
        kernels, settings = native(), self._settings
        weight, moments = self._arrays[name], [one.numpy() for one in self._moments[name].values()]
        adam = settings.name == "adam"
        more: dict[str, Any] = {"lr": lr, "scale": scale}
        if adam:
            more |= {"step": self._step, "beta1": settings.beta1, "beta2": settings.beta2, "eps": settings.eps}
        else:
            more["beta"] = settings.momentum
        if not isinstance(given, tuple):
            update = kernels.train_adam if adam else kernels.train_signum
            update(weight, given, *moments, **more)
        elif name in self._columns:
            update_columns = kernels.train_adam_columns if adam else kernels.train_signum_columns
            update_columns(weight, *moments, given, **more)
        else:
            kept = name in self._normalize
            update_rows = kernels.train_adam_rows if adam else kernels.train_signum_rows
            update_rows(weight, *moments, given, project=kept, normalize=kept, **more)

    def state(self) -> dict[str, torch.Tensor]:
        """The moments, by name, for a checkpoint; not copied. With Adam also the number of steps, as ``name.t``."""
        found = {f"{name}.{moment}": one for name, parts in self._moments.items() for moment, one in parts.items()}
        if self._settings.name == "adam":
            found |= {f"{name}.t": torch.tensor(float(self._step)) for name in self._moments}
        return found

    def restore(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Take the moments of :meth:`state`."""
        for name, value in self.state().items():
            if name.endswith(".t"):
                self._step = int(saved[name])
            else:
                value.copy_(saved[name])


def _kind(name: str) -> str:
    return name.rpartition(".")[2]
