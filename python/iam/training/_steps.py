"""The products of a training step on sparse codes, in torch: what the compiled kernels can replace one by one.

Codes are in CSR form: row ``r`` has the entries ``offsets[r] .. offsets[r + 1]``; entry ``e`` belongs to feature ``indices[e]``.
Encoder and decoder are both ``[features, width]``, so that all that belongs to a feature is one row.

Of the products of a textbook step one stays dense, the encoder's; for TopK it and the selection are one compiled kernel. Where more than one code in 16 is not zero (JumpReLU and
ReLU in their first steps) dense products are faster, and these functions use them; the sums are the same.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, field

import numpy as np
import torch

from iam.core.lazy import native
from iam.training._config import OptimiserSettings

__all__ = [
    "Codes",
    "Optimiser",
    "above",
    "batch_topk",
    "column_sums",
    "decode",
    "encode",
    "encode_topk",
    "sampled",
    "topk",
    "transposed",
]

_DENSE = 16


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
    _by_feature: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = field(default=None, repr=False)
    _rows: torch.Tensor | None = field(default=None, repr=False)

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

    def by_feature(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The transposed pattern: the order of entries by feature, where each feature starts, and the row of each entry."""
        if self._by_feature is None:
            keys = self.indices.numpy()
            if self.width <= 2**16:
                keys = keys.astype(np.uint16)  # 16 bits: numpy's stable sort is then a radix sort
            order = torch.from_numpy(np.argsort(keys, kind="stable"))
            pointers = torch.zeros(self.width + 1, dtype=torch.long)
            torch.cumsum(torch.bincount(self.indices, minlength=self.width), 0, out=pointers[1:])
            self._by_feature = order, pointers, self.row_of[order]
        return self._by_feature

    def dense(self, values: torch.Tensor) -> torch.Tensor:
        """The values as `[rows, width]`."""
        out = values.new_zeros(self.rows * self.width)
        out[self.row_of * self.width + self.indices] = values
        return out.view(self.rows, self.width)

    def at(self, dense: torch.Tensor) -> torch.Tensor:
        """The entries of `dense [rows, width]`, `[entries]`."""
        return dense.reshape(-1)[self.row_of * self.width + self.indices]

    def within(self, low: int, high: int) -> tuple[Codes, torch.Tensor]:
        """The codes of features `low .. high - 1`, numbered from 0, and which entries they are."""
        chosen = ((self.indices >= low) & (self.indices < high)).nonzero().flatten()
        counts = torch.bincount(self.row_of[chosen], minlength=self.rows)
        return Codes(self.indices[chosen] - low, _offsets(counts), high - low), chosen


def _offsets(counts: torch.Tensor) -> torch.Tensor:
    offsets = torch.zeros(len(counts) + 1, dtype=torch.long)
    torch.cumsum(counts, 0, out=offsets[1:])
    return offsets


def encode(x: torch.Tensor, encoder: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Pre-activations `x [rows, d_in] @ encoder [features, d_in].T + bias`, `[rows, features]`."""
    return x @ encoder.T if bias is None else torch.addmm(bias, x, encoder.T)


def encode_topk(
    x: torch.Tensor, encoder: torch.Tensor, bias: torch.Tensor, k: int
) -> tuple[Codes, torch.Tensor] | None:
    """Codes and rectified values of the `k` largest pre-activations of each row, by the compiled kernel that never holds
    `[rows, features]`; None where it does not apply (float64)."""
    if x.dtype != torch.float32:
        return None
    weights = encoder.T.contiguous()
    values, indices = native().encode_topk(x.contiguous().numpy(), weights.numpy(), bias.numpy(), None, k)
    offsets = torch.arange(0, values.size + 1, k)
    found = torch.from_numpy(indices).flatten().long()
    return Codes(found, offsets, len(encoder)), torch.from_numpy(values).flatten()


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


def _csr(codes: Codes, values: torch.Tensor) -> torch.Tensor:
    _csr_warned()
    return torch.sparse_csr_tensor(codes.offsets, codes.indices, values, size=(codes.rows, codes.width))


def decode(codes: Codes, values: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """`F @ matrix [features, width]` for the codes `F` with these values: `[rows, width]`."""
    if codes.is_dense:
        return codes.dense(values) @ matrix
    return _csr(codes, values) @ matrix


def sampled(codes: Codes, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`left[row of e] . right[feature of e]` for each entry e, `[entries]`; `left [rows, n]`, `right [features, n]`."""
    if codes.is_dense:
        return codes.at(left @ right.T)
    zeros = left.new_zeros(len(codes.indices))
    return torch.sparse.sampled_addmm(_csr(codes, zeros), left, right.T).values()


def transposed(codes: Codes, values: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
    """`F.T @ dense [rows, n]`: `[features, n]`."""
    if codes.is_dense:
        return codes.dense(values).T @ dense
    _csr_warned()
    order, pointers, rows = codes.by_feature()
    return torch.sparse_csr_tensor(pointers, rows, values[order], size=(codes.width, codes.rows)) @ dense


def column_sums(codes: Codes, values: torch.Tensor) -> torch.Tensor:
    """The sum of the values of each feature, `[features]`."""
    return values.new_zeros(codes.width).index_add_(0, codes.indices, values)


class Optimiser:
    """Adam, or signum, on a dictionary of weights; moments are dense.

    Adam (arXiv:1412.6980, algorithm 1): ``m <- b1 m + (1 - b1) g``, ``v <- b2 v + (1 - b2) g^2``,
    ``p <- p - lr m_hat / (sqrt(v_hat) + eps)``. Signum (arXiv:1802.04434): ``m <- b m + (1 - b) g``, ``p <- p - lr sign(m)``.
    """

    def __init__(self, weights: dict[str, torch.Tensor], settings: OptimiserSettings) -> None:
        self._weights = weights
        self._settings = settings
        self._name = settings.name
        self._adam: torch.optim.Adam | None = None
        if self._name == "adam":
            self._adam = torch.optim.Adam(
                list(weights.values()),
                lr=0.0,
                betas=(settings.beta1, settings.beta2),
                eps=settings.eps,
                fused=True,
            )
            for weight in weights.values():
                self._adam.state[weight] = {
                    "step": torch.tensor(0.0),
                    "exp_avg": torch.zeros_like(weight),
                    "exp_avg_sq": torch.zeros_like(weight),
                }
        else:
            self._momentum = {name: torch.zeros_like(weight) for name, weight in weights.items()}

    def step(self, gradients: dict[str, torch.Tensor], lr: float) -> None:
        """One update in place. `gradients` may be overwritten."""
        if self._adam is None:
            beta = self._settings.momentum
            for name, weight in self._weights.items():
                self._momentum[name].lerp_(gradients[name], 1 - beta)
                weight.sub_(self._momentum[name].sign(), alpha=lr)
            return
        for name, weight in self._weights.items():
            weight.grad = gradients[name]
        for group in self._adam.param_groups:
            group["lr"] = lr
        self._adam.step()
        for weight in self._weights.values():
            weight.grad = None

    def state(self) -> dict[str, torch.Tensor]:
        """The moments, by name, for a checkpoint; not copied."""
        if self._adam is None:
            return {f"{name}.momentum": value for name, value in self._momentum.items()}
        found: dict[str, torch.Tensor] = {}
        for name, weight in self._weights.items():
            state = self._adam.state[weight]
            found |= {f"{name}.m": state["exp_avg"], f"{name}.v": state["exp_avg_sq"], f"{name}.t": state["step"]}
        return found

    def restore(self, saved: dict[str, torch.Tensor]) -> None:
        """Take the moments of :meth:`state`."""
        for name, value in self.state().items():
            value.copy_(saved[name])
