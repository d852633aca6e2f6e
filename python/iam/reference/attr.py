"""Oracles of the ``iam.attr`` ops: how much each input contributes to an output.

Notation: ``F`` a function of ``x`` with one number as its value, ``x'`` a baseline.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from iam.core.errors import ArgumentError, ShapeError

__all__ = ["check", "circuit", "grad", "path", "select"]

Array = npt.NDArray[np.floating[Any]]


def path(x: Array, baseline: Array, *, steps: int, rule: str = "gauss_legendre") -> tuple[Array, Array]:
    """Points on the straight line from the baseline to the input, and their weights in an integral over it.

    Args:
        x: Input, any shape.
        baseline: Where the line starts, same shape.
        steps: Number of points n; at least 1, at least 2 for ``trapezoid``.
        rule: ``gauss_legendre``, ``midpoint``, ``left``, ``right`` or ``trapezoid``.

    Returns:
        Points ``[n, *x.shape]``, ``x' + α_i·(x − x')``, and weights ``[n]`` that sum to 1.

    Raises:
        ShapeError: different shapes.
        ArgumentError: unknown rule (code ``mode``), too few steps.

    Source: Sundararajan et al. 2017, arXiv:1703.01365; Gauss-Legendre nodes as in numpy.polynomial.legendre.

    >>> points, weights = path(np.array([1.0]), np.array([0.0]), steps=2, rule="midpoint")
    >>> points.ravel(), weights
    (array([0.25, 0.75]), array([0.5, 0.5]))
    """
    if x.shape != baseline.shape:
        raise ShapeError(f"iam.attr.path: expected x and baseline of one shape, got {x.shape} and {baseline.shape}")
    least = 2 if rule == "trapezoid" else 1
    if steps < least:
        raise ArgumentError(f"iam.attr.path: expected steps >= {least} for rule {rule}, got {steps}")
    n = np.arange(steps)
    even = np.full(steps, 1.0 / steps)
    if rule == "gauss_legendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        alphas, weights = (nodes + 1) / 2, weights / 2  # from [-1, 1] to [0, 1]
    elif rule == "midpoint":
        alphas, weights = (n + 0.5) / steps, even
    elif rule == "left":
        alphas, weights = n / steps, even
    elif rule == "right":
        alphas, weights = (n + 1) / steps, even
    elif rule == "trapezoid":
        alphas = n / (steps - 1)
        weights = np.where((n == 0) | (n == steps - 1), 0.5, 1.0) / (steps - 1)
    else:
        raise ArgumentError(
            f'iam.attr.path: unknown rule "{rule}"; expected gauss_legendre, left, midpoint, right or trapezoid',
            code="mode",
        )
    along = alphas.astype(x.dtype).reshape(-1, *[1] * x.ndim)
    return baseline + along * (x - baseline), weights.astype(x.dtype)


def grad(gradient: Callable[[Array], Array], points: Array, weights: Array, x: Array, baseline: Array) -> Array:
    """Integrated gradients: ``(x − x') · Σ_i w_i·∇F(points_i)``, elementwise.

    Args:
        gradient: ``∇F`` at one point, in the shape of the point.
        points: From :func:`path`, ``[n, *x.shape]``.
        weights: From :func:`path`, ``[n]``.
        x: Input.
        baseline: Where the path starts.

    Returns:
        One attribution per element of ``x``; they sum to ``F(x) − F(x')`` up to the error of the rule (completeness).

    Source: Sundararajan et al. 2017, arXiv:1703.01365.

    >>> x, zero = np.array([2.0, 3.0]), np.zeros(2)
    >>> points, weights = path(x, zero, steps=3)
    >>> grad(lambda p: p[::-1], points, weights, x, zero)  # F = x0·x1
    array([3., 3.])
    """
    total = np.zeros_like(x)
    for point, weight in zip(points, weights, strict=True):
        total = total + weight * gradient(point)
    return (x - baseline) * total


def select(scores: Array, *, n: int) -> tuple[npt.NDArray[np.int64], Array]:
    """The ``n`` scores of largest magnitude in each row.

    Args:
        scores: ``[..., F]``.
        n: ``1..F``.

    Returns:
        Indices and scores ``[..., n]``, by descending magnitude; ties go to the lowest index.

    Raises:
        ArgumentError: ``n`` outside ``1..F`` (code ``k-range``).

    >>> select(np.array([1.0, -3.0, 3.0]), n=2)
    (array([1, 2]), array([-3.,  3.]))
    """
    if not 1 <= n <= scores.shape[-1]:
        raise ArgumentError(
            f"iam.attr.select: expected n in 1..{scores.shape[-1]} (scores), got {n}; scores have shape {scores.shape}",
            code="k-range",
        )
    order = np.argsort(-np.abs(scores), axis=-1, kind="stable")[..., :n]
    return order, np.take_along_axis(scores, order, axis=-1)


def check(gradients: Array, *, points: int, first: int = 0) -> int | None:
    """The first point of a path at which a gradient is NaN or infinite, or None.

    Args:
        gradients: ``[points·rows, d]``, point by point.
        points: How many.
        first: Number of the first of them.

    >>> check(np.array([[1.0], [np.nan]]), points=2, first=8)
    9
    """
    parts = np.isfinite(gradients.reshape(points, -1)).all(axis=1)
    return None if parts.all() else first + int(np.argmin(parts))


def circuit(activations: Array, W_dec: Array, W_enc: Array, jacobian: Array | None = None) -> Array:
    """Direct effects of source features on the pre-activations of target features, through a linearised model.

    ``edge[s, t] = f_s · (W_dec[s] · J · W_enc[:, t])``: what source s writes, carried by J, read by target t.

    Args:
        activations: Source features ``f [S]``.
        W_dec: What each source writes ``[S, d]``.
        W_enc: What each target reads ``[d', T]``.
        jacobian: ``J [d, d']`` of the model between the two sites, with attention patterns and norms frozen; None is the
            identity (the residual stream alone).

    Returns:
        Edges ``[S, T]``; a column sums to the target's pre-activation that comes from these sources.

    Source: Ameisen et al. 2025, transformer-circuits.pub/2025/attribution-graphs/methods.html.

    >>> circuit(np.array([2.0]), np.array([[1.0, 1.0]]), np.array([[3.0], [4.0]]))
    array([[14.]])
    """
    written = activations[:, None] * W_dec
    return (written if jacobian is None else written @ jacobian) @ W_enc
