"""Oracles of the ``iam.model`` ops, for a model given as the list of what its sites compute from one another.

``steps[i]`` maps the activation at site i to that at site i + 1, ``[batch, position, width]`` each: with it a model is a chain,
which is what the ops see of one, whatever happens inside of a step (attention mixes positions of a text, never texts).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["linearize", "pullback", "run"]

Array = npt.NDArray[np.floating[Any]]
Step = Callable[[Array], Array]


def run(
    steps: Sequence[Step], h: Array, *, start: int = 0, end: int | None = None, positions: Sequence[int] | None = None
) -> Array:
    """The activation at site ``end``, when that at site ``start`` is ``h``.

    Args:
        steps: The model.
        h: ``[n·batch, position, width]``.
        start: Index of the site of ``h``.
        end: Index of the site that is asked for; None: the last.
        positions: These only; negative ones count from the end.

    >>> run([lambda h: 2 * h, lambda h: h + 1], np.ones((1, 2, 1)), start=1, positions=[-1])
    array([[[2.]]])
    """
    for step in steps[start : len(steps) if end is None else end]:
        h = step(h)
    return h if positions is None else h[:, list(positions)]


def linearize(steps: Sequence[Step], h: Array, **part: Any) -> tuple[Array, Array]:
    """What :func:`run` gives, and its Jacobian at ``h``, by central differences.

    Returns:
        ``y``, and the Jacobian ``[y.size, h.size]``.

    >>> y, jacobian = linearize([lambda h: h * h], np.array([[[1.0, 3.0]]]))
    >>> jacobian.round(6)
    array([[2., 0.],
           [0., 6.]])
    """
    y = run(steps, h, **part)
    jacobian = np.empty((y.size, h.size))
    for i in range(h.size):
        bump = np.zeros(h.size)
        bump[i] = 1e-6 * max(1.0, abs(float(h.reshape(-1)[i])))
        above, below = (run(steps, h + sign * bump.reshape(h.shape), **part) for sign in (1, -1))
        jacobian[:, i] = ((above - below) / (2 * bump[i])).reshape(-1)
    return y, jacobian


def pullback(jacobian: Array, dy: Array) -> Array:
    """The transposed Jacobian times ``dy``: the gradient of ``Σ dy·y``, flat.

    >>> pullback(np.array([[2.0, 0.0], [0.0, 6.0]]), np.array([1.0, 1.0]))
    array([2., 6.])
    """
    return jacobian.T @ dy.reshape(-1)
