"""Oracles of training: gradients of sparse coders, steps of optimisers, selections. Dense, float64, to be read.

Notation: codes ``f [rows, F]`` (dense here), ``upstream [rows, d]`` the gradient of a loss with respect to the
reconstruction, ``W_enc [d_in, F]``, ``W_dec [F, d_out]``. The kernels (``iam._runtime.train_*``, docs/training-kernels.md)
compute the same from sparse codes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "adam",
    "batch_select",
    "coder_gradients",
    "encode_among",
    "grad_values",
    "group",
    "jumprelu_grad",
    "normalize_rows",
    "project_rows",
    "signum",
]

Array = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]


def group(values: Array, indices: Ints) -> list[tuple[int, list[tuple[int, int]]]]:
    """Entries of k-form codes by feature: ``[(feature, [(entry, row), ...]), ...]``, features and entries ascending.

    ``entry`` is the position in ``values.ravel()``. Entries with value 0 are left out: they are padding, or a closed ReLU
    whose gradient is 0.

    >>> group(np.array([[2.0, 1.0], [3.0, 0.0]]), np.array([[5, 1], [5, 7]]))
    [(1, [(1, 0)]), (5, [(0, 0), (2, 1)])]
    """
    entries: dict[int, list[tuple[int, int]]] = {}
    for entry, (value, feature) in enumerate(zip(values.ravel(), indices.ravel(), strict=True)):
        if value != 0:
            entries.setdefault(int(feature), []).append((entry, entry // values.shape[1]))
    return sorted(entries.items())


def grad_values(values: Array, indices: Ints, upstream: Array, W_dec: Array) -> Array:
    """``d_values[r, j] = ⟨upstream[r], W_dec[indices[r, j]]⟩`` where ``values[r, j] ≠ 0``, else 0.

    >>> grad_values(np.array([[2.0, 0.0]]), np.array([[1, 0]]), np.array([[1.0, 2.0]]), np.array([[1.0, 0.0], [0.0, 1.0]]))
    array([[2., 0.]])
    """
    out = np.zeros(values.shape, np.float64)
    for r, j in zip(*np.nonzero(values), strict=True):
        out[r, j] = np.dot(upstream[r].astype(np.float64), W_dec[indices[r, j]].astype(np.float64))
    return out


def coder_gradients(
    f: Array, upstream: Array, x: Array, W_enc: Array, W_dec: Array, b_dec: Array | None
) -> dict[str, Array]:
    """Gradients of all weights of ``y = f·W_dec + b_dec``, ``f = act((x − b_dec)·W_enc + b_enc)``, ``act' = [f ≠ 0]``.

    Args:
        f: Codes, dense ``[rows, F]`` (after ReLU, TopK or BatchTopK).
        upstream: Gradient of the loss with respect to ``y``: ``2 (y − x) / rows`` for the mean over rows of squared errors.
        x: Inputs ``[rows, d_in]``.
        b_dec: What the encoder subtracts from its input, or None if it does not; its gradient then lacks the encoder's part.

    Source: the chain rule; Gao et al. 2024, arXiv:2406.04093, for act' of TopK.

    >>> one = np.ones((1, 1))
    >>> grads = coder_gradients(2 * one, 3 * one, 5 * one, 7 * one, 11 * one, np.ones(1))
    >>> {name: grad.tolist() for name, grad in grads.items()}  # d_pre = 33
    {'W_dec': [[6.0]], 'W_enc': [[132.0]], 'b_enc': [33.0], 'b_dec': [-228.0]}
    """
    d_pre = (f != 0) * (upstream @ W_dec.T)
    centred = x if b_dec is None else x - b_dec
    d_b_dec = upstream.sum(0)
    if b_dec is not None:
        d_b_dec = d_b_dec - W_enc @ d_pre.sum(0)
    return {"W_dec": f.T @ upstream, "W_enc": centred.T @ d_pre, "b_enc": d_pre.sum(0), "b_dec": d_b_dec}


def adam(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    *,
    lr: float,
    step: int,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[Array, Array, Array]:
    """One step of Adam, ``step = 1, 2, ...``: new ``(param, m, v)``. ``weight_decay`` is decoupled (AdamW).

    Source: Kingma and Ba 2015, arXiv:1412.6980; Loshchilov and Hutter 2019, arXiv:1711.05101.

    >>> p, m, v = adam(np.ones(1), np.full(1, 4.0), np.zeros(1), np.zeros(1), lr=0.1, step=1)
    >>> print(np.round(np.concatenate([p, m, v]), 6))  # the first step has length lr
    [0.9   0.4   0.016]
    """
    m = beta1 * m + (1 - beta1) * grad
    v = beta2 * v + (1 - beta2) * grad**2
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    return (1 - lr * weight_decay) * param - lr * m_hat / (np.sqrt(v_hat) + eps), m, v


def signum(
    param: Array, grad: Array, m: Array, *, lr: float, beta: float = 0.95, weight_decay: float = 0.0
) -> tuple[Array, Array]:
    """One step of Signum: new ``(param, m)``. ``sign(0) = 0``; ``beta = 0`` is signSGD.

    Source: Bernstein et al. 2018, arXiv:1802.04434.

    >>> signum(np.zeros(2), np.array([3.0, 0.0]), np.zeros(2), lr=0.5, beta=0.0)
    (array([-0.5,  0. ]), array([3., 0.]))
    """
    m = beta * m + (1 - beta) * grad
    return (1 - lr * weight_decay) * param - lr * np.sign(m), m


def project_rows(grad: Array, W_dec: Array) -> Array:
    """Rows of ``grad`` without their part along the rows of ``W_dec``, which only changes lengths. Zero rows project nothing.

    Source: Bricken et al. 2023, transformer-circuits.pub/2023/monosemantic-features.

    >>> project_rows(np.array([[3.0, 4.0]]), np.array([[2.0, 0.0]]))
    array([[0., 4.]])
    """
    length2 = (W_dec**2).sum(1, keepdims=True)
    along = (grad * W_dec).sum(1, keepdims=True) / np.where(length2 == 0, 1, length2)
    return grad - along * W_dec


def normalize_rows(w: Array) -> Array:
    """Rows of length 1; zero rows stay.

    >>> normalize_rows(np.array([[3.0, 4.0], [0.0, 0.0]]))
    array([[0.6, 0.8],
           [0. , 0. ]])
    """
    length = np.sqrt((w**2).sum(1, keepdims=True))
    return w / np.where(length == 0, 1, length)


def encode_among(pre: Array, among: Ints, *, k: int) -> tuple[Array, Ints]:
    """The ``k`` largest of ``pre[:, among]`` in each row, largest first, sign kept: AuxK's codes of dead features.

    Source: Gao et al. 2024, arXiv:2406.04093, appendix A.2.

    >>> encode_among(np.array([[9.0, -1.0, -3.0, -2.0]]), np.array([1, 2, 3]), k=2)
    (array([[-1., -2.]]), array([[1, 3]]))
    """
    chosen = np.argsort(-pre[:, among], axis=1, kind="stable")[:, :k]
    return np.take_along_axis(pre[:, among], chosen, 1), among[chosen]


def batch_select(pre: Array, total: int) -> Array:
    """BatchTopK: keep the ``total`` largest positive entries of the whole batch. Ties: the first in row-major order.

    Source: Bussmann et al. 2024, arXiv:2412.06410.

    >>> batch_select(np.array([[1.0, 5.0], [4.0, -1.0]]), 2)
    array([[0., 5.],
           [4., 0.]])
    """
    flat = np.maximum(pre, 0).ravel()
    kept = np.argsort(-flat, kind="stable")[:total]
    out = np.zeros_like(flat)
    out[kept] = flat[kept]
    return out.reshape(pre.shape)


def jumprelu_grad(
    h: Array, threshold: Array, bandwidth: float, d_f: Array, d_step: Array, *, ste_to_input: bool = False
) -> tuple[Array, Array]:
    """Straight-through gradients ``(d_h, d_threshold)``, elementwise, of ``f = h·[h > θ]`` and of the step ``[h > θ]``.

    ``d_f`` and ``d_step`` are the gradients of a loss with respect to ``f`` and the step. The derivative of the step is
    replaced by a rectangle of width ``bandwidth`` and area 1 around ``θ``.

    Source: Rajamanoharan et al. 2024, arXiv:2407.14435.

    >>> one = np.ones(1)
    >>> jumprelu_grad(1.1 * one, one, 0.5, 3 * one, 0 * one)
    (array([3.]), array([-6.]))
    """
    rectangle = np.abs((h - threshold) / bandwidth) < 0.5
    through = rectangle * (threshold * d_f + d_step) / bandwidth
    return (h > threshold) * d_f + (through if ste_to_input else 0), -through
