"""Activations that have no kernel of their own, on NumPy arrays: what is around the kernels, or instead of them.

Inputs are checked by the callers. Codes are components as kernels return them: ``(values, indices, offsets or None)``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from iam.core.lazy import native

__all__ = ["abs_topk", "group_max", "matching_pursuit", "signed"]

Array = npt.NDArray[np.float32]
Components = tuple[Any, Any, Any]

TILE = 2**22
"""Dense pre-activations held at once where no kernel selects them: 16 MB."""


def abs_topk(pre: Array, k: int) -> Components:
    """The k largest of ``|pre [rows, F]|``, signed; by the kernel of topk over ``pre`` and ``−pre``, column by column."""
    both = np.stack([pre, -pre], axis=-1).reshape(len(pre), 2 * pre.shape[1])
    return (*signed(*native().topk(both, k)), None)


def signed(values: Any, indices: Any) -> tuple[Any, Any]:
    """From features ``2i`` and ``2i + 1`` that stand for ``+`` and ``−`` of feature i to signed features i."""
    return np.where(indices & 1, -values, values), indices >> 1


def group_max(pre: Array, k: int) -> Components:
    """The largest of each of k groups of neighbouring features ``[rows, F]``, then ReLU; ties to the lowest index."""
    rows, n_features = pre.shape
    width = n_features // k
    groups = pre.reshape(rows, k, width)
    best = groups.argmax(-1)  # the first of equal ones
    values = np.take_along_axis(groups, best[..., None], -1)[..., 0]
    return np.maximum(values, 0), (best + np.arange(k) * width).astype(np.int32), None


def matching_pursuit(
    x: Array, W_dec: Array, residual_threshold: float, max_iterations: int, stop_on_duplicate_support: bool
) -> Components:
    """Greedy steps for each row of ``x [rows, d]`` over the rows of ``W_dec [F, d]``: CSR codes.

    A tile of ``residual·W_decᵀ`` is held, never codes of the size of the dictionary.
    """
    step = max(1, TILE // len(W_dec))
    tiles = [
        _pursue(x[at : at + step], W_dec, residual_threshold, max_iterations, stop_on_duplicate_support)
        for at in range(0, len(x), step)
    ]
    if not tiles:
        return np.zeros(0, np.float32), np.zeros(0, np.int32), np.zeros(1, np.int64)
    counts = np.concatenate([tile[2] for tile in tiles])
    offsets = np.zeros(len(x) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return np.concatenate([tile[0] for tile in tiles]), np.concatenate([tile[1] for tile in tiles]), offsets


def _pursue(
    x: Array, W_dec: Array, residual_threshold: float, max_iterations: int, stop_on_duplicate_support: bool
) -> tuple[Any, Any, Any]:
    """Values, indices, and how many of them each row has."""
    n_features = len(W_dec)
    residual = x.copy()
    live = np.arange(len(x))
    codes: dict[str, list[Any]] = {"key": [np.zeros(0, np.int64)], "value": [np.zeros(0, np.float32)]}
    chosen = np.full((len(x), 0), -1, np.int64)
    for _ in range(max_iterations):
        if not live.size:
            break
        r = residual[live]
        best = (r @ W_dec.T).argmax(-1)
        direction = W_dec[best]
        value = np.maximum(np.einsum("rd,rd->r", r, direction), 0)
        r -= value[:, None] * direction
        residual[live] = r
        codes["key"].append(live * n_features + best)
        codes["value"].append(value)
        done = np.zeros(len(live), bool)
        if stop_on_duplicate_support:
            done |= (value == 0) | (chosen[live] == best[:, None]).any(-1)
            column = np.full((len(x), 1), -1, np.int64)
            column[live, 0] = best
            chosen = np.concatenate([chosen, column], axis=1)
        if residual_threshold > 0:
            done |= np.linalg.norm(r, axis=-1) < residual_threshold
        live = live[~done]
    keys, place = np.unique(np.concatenate(codes["key"]), return_inverse=True)
    values = np.zeros(len(keys), np.float32)
    np.add.at(values, place.reshape(-1), np.concatenate(codes["value"]))
    keys, values = keys[values != 0], values[values != 0]
    counts = np.bincount(keys // n_features, minlength=len(x))
    return values, (keys % n_features).astype(np.int32), counts
