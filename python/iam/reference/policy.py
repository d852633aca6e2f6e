"""Oracles of the ``iam.policy`` ops: moving activations, and staying inside declared sets.

Notation: ``h [..., d]`` an activation, ``v [d]`` a direction, ``v̂ = v/‖v‖``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from iam.core.errors import ArgumentError, ShapeError

__all__ = ["compose", "project", "project_adjoint", "sequence", "steer", "verify"]

Array = npt.NDArray[np.floating[Any]]


def steer(h: Array, v: Array, strength: float, mode: str = "add") -> Array:
    """Move activations along a direction.

    Args:
        h: Activations ``[..., d]``.
        v: Direction ``[d]``; not zero for ``ablate`` and ``clamp``.
        strength: ``s`` below.
        mode: ``add``: ``h + s·v``; ``ablate``: ``h − s·(h·v/‖v‖²)·v``, which removes the component along ``v`` for s = 1;
            ``clamp``: ``h + (s − h·v̂)·v̂``, which sets that component to ``s``.
    Raises:
        ShapeError: ``v`` is not ``[d]``.
        ArgumentError: unknown mode (code ``mode``), or a zero direction that mode cannot use.

    Source: Turner et al. 2023, arXiv:2308.10248 (add); Arditi et al. 2024, arXiv:2406.11717 (ablate).

    >>> h, v = np.array([[3.0, 4.0]]), np.array([2.0, 0.0])
    >>> steer(h, v, 1.0), steer(h, v, 1.0, "ablate"), steer(h, v, 1.0, "clamp")
    (array([[5., 4.]]), array([[0., 4.]]), array([[1., 4.]]))
    """
    if v.shape != h.shape[-1:]:
        raise ShapeError(f"iam.policy.steer: expected v [{h.shape[-1]}], got {v.shape}; h has shape {h.shape}")
    if mode not in ("add", "ablate", "clamp"):
        raise ArgumentError(f'iam.policy.steer: unknown mode "{mode}"; expected add, ablate or clamp', code="mode")
    if mode == "add":
        return h + strength * v
    square = v @ v
    if square == 0:
        raise ArgumentError(f'iam.policy.steer: mode "{mode}" needs a direction that is not zero')
    if mode == "ablate":
        return h - strength * ((h @ v) / square)[..., None] * v
    unit = v / np.sqrt(square)
    return h + (strength - h @ unit)[..., None] * unit


def compose(vectors: Array, strengths: Array, rule: str = "sum") -> Array:
    """Several directions as one edit ``[d]``, to be added to an activation.

    Args:
        vectors: Directions ``[n, d]``.
        strengths: One each ``[n]``.
        rule: ``sum``: ``Σ s_i·v_i``; ``mean``: that divided by n; ``orthogonal``: each direction first loses what it shares
            with the directions before it (Gram-Schmidt), so that an earlier one is not undone by a later one.
    Raises:
        ShapeError: sizes that do not fit each other.
        ArgumentError: unknown rule (code ``mode``).

    Original to IAM.

    >>> v, s = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([1.0, 2.0])
    >>> compose(v, s), compose(v, s, "orthogonal")
    (array([3., 2.]), array([1., 2.]))
    """
    if vectors.ndim != 2 or strengths.shape != vectors.shape[:1]:
        raise ShapeError(
            f"iam.policy.compose: expected vectors [n, d] and strengths [n], got {vectors.shape} and {strengths.shape}"
        )
    if rule == "sum":
        return strengths @ vectors
    if rule == "mean":
        return strengths @ vectors / max(len(vectors), 1)
    if rule == "orthogonal":
        kept: list[Array] = []
        total = np.zeros(vectors.shape[1], vectors.dtype)
        for v, s in zip(vectors, strengths, strict=True):
            if not np.isfinite(v).all():  # passes through whole
                total = total + s * v
                continue
            left = _outside(v, kept)
            if left is not None:
                kept.append(left / np.linalg.norm(left))
                total = total + s * left
        return total
    raise ArgumentError(f'iam.policy.compose: unknown rule "{rule}"; expected mean, orthogonal or sum', code="mode")


def _outside(v: Array, units: list[Array]) -> Array | None:
    """What ``v`` does not share with orthonormal ``units``; None if that is at most 1e-6 of its norm."""
    left = v.copy()
    for unit in units * 2:  # once more for what rounding left of the first pass
        left = left - (left @ unit) * unit
    return left if np.linalg.norm(left) > 1e-6 * np.linalg.norm(v) else None


def _orthonormal(vectors: Array) -> Array:
    """An orthonormal basis ``[rank, d]`` of the span of ``vectors [n, d]`` (Gram-Schmidt)."""
    units: list[Array] = []
    for v in vectors:
        left = _outside(v, units)
        if left is not None:
            units.append(left / np.linalg.norm(left))
    return np.array(units, vectors.dtype).reshape(len(units), vectors.shape[1])


def project(h: Array, kind: str, first: Array, second: Any = None) -> Array:
    """The nearest point of a convex set.

    Args:
        h: Activations ``[..., d]``.
        kind: ``halfspace``: ``{h : first·h ≤ second}``; ``ball``: ``{h : ‖h − first‖ ≤ second}``; ``subspace``: the span of the
            rows of ``first [n, d]``, where a row within 1e-6 of its norm of the span of earlier ones counts for nothing; ``box``: ``first ≤ h ≤ second``, both ``[d]`` or numbers.
        first: See ``kind``.
        second: See ``kind``; None for ``subspace``.
    Raises:
        ArgumentError: unknown kind (code ``mode``).

    Source: Boyd and Vandenberghe 2004, Convex Optimization, section 8.1.

    >>> project(np.array([[3.0, 4.0]]), "ball", np.zeros(2), 1.0)
    array([[0.6, 0.8]])
    >>> project(np.array([[3.0, 4.0]]), "halfspace", np.array([1.0, 0.0]), 1.0)
    array([[1., 4.]])
    """
    if kind == "halfspace":
        excess = np.maximum(h @ first - second, 0.0)
        return h - (excess / (first @ first))[..., None] * first
    if kind == "ball":
        offset = h - first
        norm = np.linalg.norm(offset, axis=-1, keepdims=True)
        return first + offset * np.where(norm > second, second / np.where(norm > 0, norm, 1.0), 1.0)
    if kind == "subspace":
        basis = _orthonormal(first)
        return h @ basis.T @ basis
    if kind == "box":
        return np.minimum(np.maximum(h, first), second)
    raise ArgumentError(
        f'iam.policy.project: unknown set "{kind}"; expected ball, box, halfspace or subspace', code="mode"
    )


def project_adjoint(h: Array, dy: Array, kind: str, first: Array, second: Any) -> Array:
    """The derivative of :func:`project` at ``h``, times ``dy``; symmetric, so also its transpose.

    Rows (for ``box``, columns) that stay pass ``dy`` on; so does the border.

    >>> project_adjoint(np.array([[3.0, 4.0]]), np.array([[1.0, 1.0]]), "halfspace", np.array([1.0, 0.0]), 1.0)
    array([[0., 1.]])
    """
    if kind == "halfspace":
        moves = (h @ first > second)[..., None]
        return dy - np.where(moves, (dy @ first / (first @ first))[..., None] * first, 0.0)
    if kind == "ball":
        offset = h - first
        norm = np.linalg.norm(offset, axis=-1, keepdims=True)
        unit = offset / np.where(norm > 0, norm, 1.0)
        tangent = dy - (dy * unit).sum(-1, keepdims=True) * unit
        return np.where(norm > second, second / np.where(norm > 0, norm, 1.0) * tangent, dy)
    if kind == "box":
        return np.where((first <= h) & (h <= second), dy, 0.0)
    raise ArgumentError(f'iam.policy.project_adjoint: expected ball, box or halfspace, got "{kind}"', code="mode")


def sequence(h: Array, steps: Sequence[str], directions: Array, strengths: Array) -> Array:
    """Steers and projections onto half-spaces, one after the other.

    Args:
        h: ``[..., d]``.
        steps: ``add``, ``ablate`` or ``clamp`` of :func:`steer`, or ``halfspace`` of :func:`project`.
        directions: One for each step ``[m, d]``.
        strengths: One for each step ``[m]``; of a half-space its bound.

    >>> sequence(np.array([[3.0, 4.0]]), ["add", "halfspace"], np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([2.0, 1.0]))
    array([[5., 1.]])
    """
    for step, v, s in zip(steps, directions, strengths, strict=True):
        h = project(h, "halfspace", v, s) if step == "halfspace" else steer(h, v, s, mode=step)
    return h


def verify(h: Array, kind: str, first: Array, second: Any = None) -> Array:
    """How far inside a set each activation is ``[...]``: positive inside, 0 on the border, minus the distance outside.

    A policy holds where the margin is at least minus a tolerance. The sets are those of :func:`project`. Original to IAM.

    >>> verify(np.array([[3.0, 4.0], [0.0, 0.5]]), "ball", np.zeros(2), 1.0)
    array([-4. ,  0.5])
    """
    outside = np.linalg.norm(h - project(h, kind, first, second), axis=-1)
    if kind == "halfspace":
        inside = (second - h @ first) / np.linalg.norm(first)
    elif kind == "ball":
        inside = second - np.linalg.norm(h - first, axis=-1)
    elif kind == "box":
        inside = np.minimum(h - first, second - h).min(axis=-1)
    else:
        inside = np.zeros(h.shape[:-1], h.dtype)  # a subspace has no inside
    return np.where(outside > 0, -outside, np.maximum(inside, 0.0))
