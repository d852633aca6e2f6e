"""Sums over a stream of activations, in float64: what the metrics are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from iam.core.features import SparseFeatures

__all__ = ["Reconstruction", "RowSums", "Sparsity"]

_BLOCK = 1024
"""Rows that are held in float64 at once."""

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RowSums:
    """What one batch contributes: sums over the width, row by row. Those of sites side by side add up."""

    mean: Float64
    """``[d]``: of the rows."""
    around: Float64
    """``[rows]``: ``‖x − mean‖²``."""
    error: Float64
    """``[rows]``: ``‖x − x̂‖²``."""
    square_in: Float64
    square_out: Float64
    inner: Float64
    """``[rows]``: ``x·x̂``."""

    @classmethod
    def of(cls, x: npt.NDArray[Any], x_hat: npt.NDArray[Any]) -> RowSums:
        """Of activations and reconstructions ``[rows, d]``, at least one row."""
        mean = np.add.reduce(x, axis=0, dtype=np.float64) / len(x)
        blocks = []
        for start in range(0, len(x), _BLOCK):
            part = x[start : start + _BLOCK].astype(np.float64)
            out = x_hat[start : start + _BLOCK].astype(np.float64)
            blocks.append(
                (
                    ((part - mean) ** 2).sum(-1),
                    ((part - out) ** 2).sum(-1),
                    (part**2).sum(-1),
                    (out**2).sum(-1),
                    (part * out).sum(-1),
                )
            )
        return cls(mean, *(np.concatenate(sums) for sums in zip(*blocks, strict=True)))

    @classmethod
    def side_by_side(cls, sites: Sequence[RowSums]) -> RowSums:
        """Of the activation that the activations of several sites are together."""
        mean = np.concatenate([one.mean for one in sites])
        names = ("around", "error", "square_in", "square_out", "inner")
        return cls(mean, *(np.add.reduce([getattr(one, name) for one in sites]) for name in names))


@dataclass(slots=True)
class Reconstruction:
    """Sums for explained variance, cosine, norms. The variance is merged by the pairwise update of Chan et al. 1979, which a mean
    far from zero does not spoil as ``E‖x‖² − ‖E x‖²`` does."""

    rows: int = 0
    batches: int = 0
    mean: Float64 | None = None
    scatter: float = 0.0
    """``Σ‖x − mean‖²`` over all rows so far."""
    error: float = 0.0
    legacy: float = 0.0
    cossim: float = 0.0
    norm_in: float = 0.0
    norm_out: float = 0.0
    ratio: float = 0.0
    bias: float = 0.0

    def add(self, batch: RowSums) -> None:
        n = len(batch.error)
        norm_in, norm_out = np.sqrt(batch.square_in), np.sqrt(batch.square_out)
        lengths = norm_in * norm_out
        self.error += float(batch.error.sum())
        with np.errstate(divide="ignore", invalid="ignore"):
            self.legacy += float((1.0 - batch.error / batch.around).sum())
        self.cossim += float((batch.inner / np.where(lengths > 0, lengths, 1.0)).sum())
        self.norm_in += float(norm_in.sum())
        self.norm_out += float(norm_out.sum())
        self.ratio += float((norm_out / np.where(norm_in < 1e-4, 1.0, norm_in)).sum())
        dot = float(batch.inner.sum())
        self.bias += float(batch.square_out.sum()) / dot if dot else float("nan")
        self.batches += 1
        scatter = float(batch.around.sum())
        if self.mean is None:
            self.mean, self.scatter, self.rows = batch.mean, scatter, n
            return
        total = self.rows + n
        step = batch.mean - self.mean
        self.scatter += scatter + float(step @ step) * self.rows * n / total
        self.mean = self.mean + step * (n / total)
        self.rows = total


@dataclass(slots=True)
class Sparsity:
    """How often and how strongly features are active."""

    n_features: int
    rows: int = 0
    active: int = 0
    total: float = 0.0
    counts: npt.NDArray[np.int64] = field(init=False)
    prompts: npt.NDArray[np.int64] = field(init=False)
    """Prompts in which a feature is active at least once."""
    has_prompts: bool = True

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.n_features, np.int64)
        self.prompts = np.zeros(self.n_features, np.int64)

    def add(self, f: SparseFeatures, prompt_of_row: npt.NDArray[np.int64] | None) -> None:
        """Features of one batch; `prompt_of_row [rows]` numbers the prompts, None if there are none."""
        row, feature, value = entries(f)
        self.rows += f.rows
        self.active += len(value)
        self.total += float(np.abs(value, dtype=np.float64).sum())
        self.counts += np.bincount(feature, minlength=self.n_features)
        if prompt_of_row is None:
            self.has_prompts = False
        elif len(feature):
            pairs = np.unique(prompt_of_row[row] * np.int64(self.n_features) + feature)
            self.prompts += np.bincount(pairs % self.n_features, minlength=self.n_features)

    @classmethod
    def side_by_side(cls, layers: Sequence[Sparsity]) -> Sparsity:
        """Of the features of several layers, one after the other, on the same rows."""
        found = cls(sum(one.n_features for one in layers), rows=layers[0].rows)
        found.active, found.total = sum(one.active for one in layers), sum(one.total for one in layers)
        found.counts = np.concatenate([one.counts for one in layers])
        found.prompts = np.concatenate([one.prompts for one in layers])
        found.has_prompts = layers[0].has_prompts
        return found


def entries(f: SparseFeatures) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Row, feature and value of every nonzero value, row by row."""
    values, indices, offsets = f.to_numpy().components
    if offsets is None:
        row, slot = np.nonzero(values)
        return row, indices[row, slot].astype(np.int64), values[row, slot]
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    keep = values != 0
    return rows[keep], indices[keep].astype(np.int64), values[keep]
