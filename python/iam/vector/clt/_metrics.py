"""How well a coder reconstructs, in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from iam.core.arrays import check_float, shape_of
from iam.core.errors import ShapeError
from iam.core.features import SparseFeatures
from iam.core.lazy import is_torch

if TYPE_CHECKING:
    from iam.core.typing import Array

__all__ = ["explained_variance", "l0", "mean_squared_error"]


def _pair(x: Any, x_hat: Any, op: str) -> tuple[Any, Any]:
    for value, name in ((x, "x"), (x_hat, "x_hat")):
        check_float(value, op=op, name=name)
    if shape_of(x) != shape_of(x_hat) or x.ndim < 1:
        raise ShapeError(f"{op}: expected x and x_hat of one shape [..., d], got {shape_of(x)} and {shape_of(x_hat)}")
    width = x.shape[-1]
    return tuple(
        (v.detach().double().cpu().numpy() if is_torch(v) else v.astype(np.float64)).reshape(-1, width)
        for v in (x, x_hat)
    )  # type: ignore[return-value]


def explained_variance(x: Array, x_hat: Array) -> float:
    """Fraction of the variance of ``x`` that ``x_hat`` explains: ``1 − E‖x − x̂‖² / (E‖x‖² − ‖E x‖²)``.

    Args:
        x: Activations ``[..., d]``; all leading positions are samples.
        x_hat: Reconstructions, same shape.

    Returns:
        1 for a perfect reconstruction, 0 for one as good as the mean, negative for a worse one; NaN when ``x`` does not
        vary (no rows, or all rows equal).

    Raises:
        ShapeError: different shapes.

    Computed in float64. Source: the same quantity as SAELens ``explained_variance`` and "1 − FVU" in
    Gao et al. 2024, arXiv:2406.04093.

    >>> x = np.array([[1.0, 0.0], [3.0, 0.0]])
    >>> explained_variance(x, x), explained_variance(x, np.array([[2.0, 0.0], [2.0, 0.0]]))
    (1.0, 0.0)
    """
    x64, hat = _pair(x, x_hat, "iam.explained_variance")
    if not len(x64):
        return float("nan")
    error = float(np.mean(np.sum((x64 - hat) ** 2, axis=-1)))
    variance = float(np.mean(np.sum((x64 - x64.mean(axis=0)) ** 2, axis=-1)))  # the same as E‖x‖² − ‖E x‖², steadier
    return 1.0 - error / variance if variance > 0 else float("nan")


def mean_squared_error(x: Array, x_hat: Array) -> float:
    """``E‖x − x̂‖²``: squared error summed over the width, mean over positions; in squared units of ``x``.

    >>> mean_squared_error(np.array([[1.0, 2.0]]), np.array([[1.0, 0.0]]))
    4.0
    """
    x64, hat = _pair(x, x_hat, "iam.mean_squared_error")
    return float(np.mean(np.sum((x64 - hat) ** 2, axis=-1))) if len(x64) else float("nan")


def l0(features: SparseFeatures) -> float:
    """Mean number of active features per position.

    >>> l0(SparseFeatures.from_dense(np.array([[1.0, 2.0], [0.0, 0.0]])))
    1.0
    """
    return features.l0
