"""Oracles of the ``iam.clt`` ops: sparse coders (SAEs and transcoders).

Notation: ``x [..., d_in]`` an activation, ``W_enc [d_in, F]``, ``b_enc [F]``, ``W_dec [F, d_out]``, ``b_dec [d_out]``,
``pre [..., F]`` pre-activations, ``f [..., F]`` features. ``relu(u) = max(u, 0)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from iam.core.errors import ArgumentError, ShapeError

__all__ = [
    "abstopk",
    "batch_topk",
    "coder",
    "cross_layer",
    "crosscoder",
    "decode",
    "decode_adjoint",
    "delta",
    "densify",
    "densify_adjoint",
    "edit",
    "edit_adjoint",
    "encode",
    "encode_sparse",
    "gate",
    "groupmax",
    "jumprelu",
    "matching_pursuit",
    "normalize",
    "relu",
    "residual",
    "sub",
    "topk",
    "unnormalize",
]

Array = npt.NDArray[np.floating[Any]]


def encode(x: Array, W_enc: Array, b_enc: Array, b_dec: Array | None = None) -> Array:
    """Pre-activations ``(x − b_dec)·W_enc + b_enc``, or ``x·W_enc + b_enc`` without ``b_dec``.

    Args:
        x: Activations ``[..., d_in]``.
        W_enc: Encoder ``[d_in, F]``, one column per feature.
        b_enc: Encoder bias ``[F]``.
        b_dec: What the encoder subtracts from its input ``[d_in]``, if it was trained to.
    Raises:
        ShapeError: sizes that do not fit each other.

    Source: Bricken et al. 2023, transformer-circuits.pub/2023/monosemantic-features; SAELens ``apply_b_dec_to_input``.

    >>> encode(np.array([[1.0, 2.0]]), np.eye(2), np.array([0.5, -3.0]), b_dec=np.array([1.0, 0.0]))
    array([[ 0.5, -1. ]])
    """
    if x.ndim < 1 or W_enc.ndim != 2 or x.shape[-1] != W_enc.shape[0] or b_enc.shape != W_enc.shape[1:]:
        raise ShapeError(
            "iam.clt.encode: expected x [..., d_in], W_enc [d_in, F], b_enc [F], "
            f"got x {x.shape}, W_enc {W_enc.shape}, b_enc {b_enc.shape}"
        )
    if b_dec is not None and b_dec.shape != x.shape[-1:]:
        raise ShapeError(f"iam.clt.encode: expected b_dec [{x.shape[-1]}] (d_in), got {b_dec.shape}")
    return (x if b_dec is None else x - b_dec) @ W_enc + b_enc


def relu(pre: Array) -> Array:
    """``max(pre, 0)``: the features of a standard SAE.

    Source: Bricken et al. 2023, transformer-circuits.pub/2023/monosemantic-features.

    >>> relu(np.array([[3.0, -1.0, 0.0]]))
    array([[3., 0., 0.]])
    """
    return np.where(pre > 0, pre, np.zeros_like(pre))


def topk(pre: Array, *, k: int) -> Array:
    """Keep the ``k`` largest pre-activations of each row, then apply ReLU.

    Args:
        pre: Encoder pre-activations ``[..., F]``.
        k: Features kept per row; 1 <= k <= F.
    Raises:
        ArgumentError: ``k`` outside ``1..F`` (code ``k-range``).

    Ties go to the lowest feature index. Source: Gao et al. 2024, arXiv:2406.04093.

    >>> topk(np.array([[3.0, -1.0, 3.0, 2.0]]), k=2)
    array([[3., 0., 3., 0.]])
    >>> topk(np.array([[1.0, 1.0, 1.0]]), k=2)
    array([[1., 1., 0.]])
    """
    if not 1 <= k <= pre.shape[-1]:
        raise ArgumentError(
            f"iam.clt.topk: expected k in 1..{pre.shape[-1]} (features), got k={k}; pre has shape {pre.shape}",
            code="k-range",
        )
    best = np.argsort(-pre, axis=-1, kind="stable")[..., :k]  # stable: equal values keep the order of their indices
    kept = np.zeros_like(pre)
    np.put_along_axis(kept, best, np.take_along_axis(pre, best, axis=-1), axis=-1)
    return relu(kept)


def batch_topk(pre: Array, *, k: int) -> Array:
    """Keep the ``k · rows`` largest of ``relu(pre)`` over the whole batch.

    Args:
        pre: Encoder pre-activations ``[..., F]``; all leading positions are one batch.
        k: Features kept per row on average; 1 <= k <= F.
    Raises:
        ArgumentError: ``k`` outside ``1..F`` (code ``k-range``).

    Ties go to the lowest flat index. Source: Bussmann et al. 2024, arXiv:2412.06410.

    >>> batch_topk(np.array([[5.0, 4.0, 1.0], [3.0, -1.0, 2.0]]), k=1)
    array([[5., 4., 0.],
           [0., 0., 0.]])
    """
    features = pre.shape[-1]
    if not 1 <= k <= features:
        raise ArgumentError(
            f"iam.clt.batch_topk: expected k in 1..{features} (features), got k={k}; pre has shape {pre.shape}",
            code="k-range",
        )
    flat = relu(pre).reshape(-1)
    best = np.argsort(-flat, kind="stable")[: k * (flat.size // features)]
    kept = np.zeros_like(flat)
    kept[best] = flat[best]
    return kept.reshape(pre.shape)


def jumprelu(pre: Array, threshold: Array) -> Array:
    """``relu(pre) · [pre > threshold]``; the comparison is strict.

    Args:
        pre: Encoder pre-activations ``[..., F]``.
        threshold: One threshold per feature ``[F]``.

    Source: Rajamanoharan et al. 2024, arXiv:2407.14435.

    >>> jumprelu(np.array([[0.5, 1.0, 2.0, -1.0]]), np.array([0.6, 1.0, 1.0, -2.0]))
    array([[0., 0., 2., 0.]])
    """
    return np.where(pre > threshold, relu(pre), np.zeros_like(pre))


def gate(gate_pre: Array, magnitude_pre: Array) -> Array:
    """``[gate_pre > 0] · relu(magnitude_pre)``: one path decides which features are active, another how strongly.

    Source: Rajamanoharan et al. 2024, arXiv:2404.16014.

    >>> gate(np.array([[1.0, -1.0, 1.0]]), np.array([[2.0, 2.0, -2.0]]))
    array([[2., 0., 0.]])
    """
    return np.where(gate_pre > 0, relu(magnitude_pre), np.zeros_like(magnitude_pre))


def abstopk(pre: Array, *, k: int) -> Array:
    """Keep the ``k`` pre-activations of each row that are largest in magnitude, with their signs; no ReLU.

    Args:
        pre: Encoder pre-activations ``[..., F]``.
        k: Features kept per row; 1 <= k <= F.
    Raises:
        ArgumentError: ``k`` outside ``1..F`` (code ``k-range``).

    Ties go to the lowest feature index. Source: arXiv:2510.00404.

    >>> abstopk(np.array([[3.0, -4.0, 1.0, -3.0]]), k=2)
    array([[ 3., -4.,  0.,  0.]])
    """
    if not 1 <= k <= pre.shape[-1]:
        raise ArgumentError(
            f"iam.clt.abstopk: expected k in 1..{pre.shape[-1]} (features), got k={k}; pre has shape {pre.shape}",
            code="k-range",
        )
    best = np.argsort(-np.abs(pre), axis=-1, kind="stable")[..., :k]
    kept = np.zeros_like(pre)
    np.put_along_axis(kept, best, np.take_along_axis(pre, best, axis=-1), axis=-1)
    return kept


def groupmax(pre: Array, *, k: int) -> Array:
    """Keep the largest pre-activation of each of ``k`` groups of ``F/k`` neighbouring features, then apply ReLU.

    Args:
        pre: Encoder pre-activations ``[..., F]``.
        k: Groups; a divisor of F.
    Raises:
        ArgumentError: ``k`` is no divisor of F (code ``k-range``).

    Ties go to the lowest feature index. Source: sparsify, github.com/EleutherAI/sparsify.

    >>> groupmax(np.array([[3.0, 4.0, -1.0, -2.0]]), k=2)
    array([[0., 4., 0., 0.]])
    """
    features = pre.shape[-1]
    if k < 1 or features % k:
        raise ArgumentError(f"iam.clt.groupmax: expected k to divide {features} (features), got k={k}", code="k-range")
    kept = np.zeros_like(pre)
    for first in range(0, features, features // k):
        group = pre[..., first : first + features // k]
        best = group.argmax(axis=-1, keepdims=True)  # the first of equal ones
        np.put_along_axis(
            kept[..., first : first + features // k], best, np.take_along_axis(group, best, axis=-1), axis=-1
        )
    return relu(kept)


def matching_pursuit(
    x: Array,
    W_dec: Array,
    *,
    residual_threshold: float = 1e-2,
    max_iterations: int | None = None,
    stop_on_duplicate_support: bool = True,
) -> Array:
    """Features found one at a time: the decoder row that fits what is left of ``x`` best, until little is left.

    Each step takes ``i = argmax r·W_dec[i]`` (ties to the lowest index), adds ``v = relu(r·W_dec[i])`` to ``f[i]`` and takes
    ``v·W_dec[i]`` from ``r``. A row ends when a step wakes no new feature (``stop_on_duplicate_support``), when
    ``‖r‖ < residual_threshold`` (if that is above 0), or after ``max_iterations`` steps; what the last step found counts.

    Args:
        x: Activations, less ``b_dec`` if the coder subtracts it ``[..., d]``.
        W_dec: ``[F, d]``, rows of norm 1.
        max_iterations: None is ``d``.

    Source: SAELens ``MatchingPursuitSAE``; Mallat and Zhang 1993, doi:10.1109/78.258082.

    >>> matching_pursuit(np.array([[2.0, 3.0]]), np.eye(2))
    array([[2., 3.]])
    """
    flat = x.reshape(-1, x.shape[-1])
    f = np.zeros((len(flat), len(W_dec)), x.dtype)
    for row, target in enumerate(flat):
        left = target.copy()
        for _ in range(x.shape[-1] if max_iterations is None else max_iterations):
            best = int(np.argmax(W_dec @ left))
            value = max(float(left @ W_dec[best]), 0.0)
            before = f[row] != 0
            f[row, best] += value
            left = left - value * W_dec[best]
            if stop_on_duplicate_support and np.array_equal(f[row] != 0, before):
                break
            if residual_threshold > 0 and np.linalg.norm(left) < residual_threshold:
                break
    return f.reshape(*x.shape[:-1], len(W_dec))


def normalize(
    kind: str, x: Array, *, scale: float | None = None, mean: Array | None = None, matrix: Array | None = None
) -> tuple[Array, Array | None, Array | None]:
    """``x [..., d]`` as an encoder expects it, and what undoes it: ``x̂ = ẑ · row_scale + row_shift`` of each row.

    Args:
        kind: ``none``: as it is. ``expected_average_only_in``: ``x · scale``. ``constant_norm_rescale``:
            ``x · √d / ‖x‖``, a row of zeros stays. ``layer_norm``: ``(x − μ)/(σ + 1e-5)`` with the mean and the
            standard deviation (over d − 1) of each row. ``covariance_whitening``: ``(x − mean)·matrix``.
    Returns:
        ``z``, and ``row_scale`` and ``row_shift`` ``[..., 1]``, or None where there is no statistic of a row.

    Source: SAELens ``normalize_activations``; whitening: arXiv:2511.13981.

    >>> normalize("constant_norm_rescale", np.array([[3.0, 4.0]]))[1]
    array([[3.53553391]])
    """
    if kind == "expected_average_only_in":
        return x * scale, None, None  # type: ignore[operator]
    if kind == "covariance_whitening":
        return (x - mean) @ matrix, None, None  # type: ignore[operator]
    if kind == "constant_norm_rescale":
        norm = np.linalg.norm(x, axis=-1, keepdims=True)
        coefficient = np.divide(np.sqrt(x.shape[-1]), norm, out=np.zeros_like(norm), where=norm > 0)
        return x * coefficient, norm / np.sqrt(x.shape[-1]), None
    if kind == "layer_norm":
        mu, sigma = x.mean(axis=-1, keepdims=True), x.std(axis=-1, ddof=1, keepdims=True)
        return (x - mu) / (sigma + 1e-5), sigma, mu
    return x, None, None


def unnormalize(
    kind: str,
    z: Array,
    row_scale: Array | None = None,
    row_shift: Array | None = None,
    *,
    scale: float | None = None,
    mean: Array | None = None,
    inverse: Array | None = None,
) -> Array:
    """What :func:`normalize` did, undone on a reconstruction ``z [..., d]``.

    >>> x = np.array([[1.0, 2.0, 6.0]])
    >>> np.allclose(unnormalize("constant_norm_rescale", *normalize("constant_norm_rescale", x)), x)
    True
    """
    if kind == "expected_average_only_in":
        return z / scale  # type: ignore[operator]
    if kind == "covariance_whitening":
        return z @ inverse + mean  # type: ignore[operator]
    z = z if row_scale is None else z * row_scale
    return z if row_shift is None else z + row_shift


def encode_sparse(
    activation: str,
    x: Array,
    W_enc: Array,
    b_enc: Array,
    b_dec: Array | None = None,
    *,
    threshold: Array | None = None,
    k: int | None = None,
    only: Sequence[int] | None = None,
    W_mag: Array | None = None,
    b_mag: Array | None = None,
) -> Array:
    """Encode, then ``topk``, ``abstopk``, ``groupmax``, ``batch_topk``, ``jumprelu``, ``relu`` or ``gate``, fused.

    Args:
        only: For ``jumprelu``, ``relu`` and ``gate``: the features to encode, in any order; the others are 0.
        W_mag: ``[d_in, F]``, for ``gate``: the encoder of the magnitude; ``W_enc`` is that of the gate.
        b_mag: ``[F]``, its bias.

    Raises:
        ArgumentError: another activation, one of the first four without ``k`` or with ``only``, ``jumprelu`` without
            ``threshold``, ``gate`` without ``W_mag`` and ``b_mag``.

    >>> encode_sparse("topk", np.array([[1.0, 2.0]]), np.eye(2), np.zeros(2), k=1)
    array([[0., 2.]])
    >>> encode_sparse("relu", np.array([[1.0, 2.0]]), np.eye(2), np.zeros(2), only=[0])
    array([[1., 0.]])
    """
    if only is not None:
        if activation not in ("jumprelu", "relu", "gate"):
            raise ArgumentError(
                f'iam.clt.encode_sparse: expected no only for "{activation}": '
                "whether a feature is active depends on the others"
            )
        every = encode_sparse(activation, x, W_enc, b_enc, b_dec, threshold=threshold, k=k, W_mag=W_mag, b_mag=b_mag)
        some = np.zeros_like(every)
        some[..., list(only)] = every[..., list(only)]
        return some
    pre = encode(x, W_enc, b_enc, b_dec)
    with_k = {"topk": topk, "abstopk": abstopk, "groupmax": groupmax, "batch_topk": batch_topk}
    if activation in with_k and k is not None:
        return with_k[activation](pre, k=k)
    if activation == "jumprelu" and threshold is not None:
        return jumprelu(pre, threshold)
    if activation == "relu":
        return relu(pre)
    if activation == "gate" and W_mag is not None and b_mag is not None:
        return gate(pre, encode(x, W_mag, b_mag, b_dec))
    raise ArgumentError(
        'iam.clt.encode_sparse: expected "topk", "abstopk", "groupmax" or "batch_topk" with k, "jumprelu" with '
        f'threshold, "gate" with W_mag and b_mag, or "relu", got "{activation}" with k={k}, '
        f"threshold={'given' if threshold is not None else None}, W_mag={'given' if W_mag is not None else None}"
    )


def decode(f: Array, W_dec: Array, b_dec: Array | None = None) -> Array:
    """``f·W_dec + b_dec``.

    Args:
        f: Features ``[..., F]``.
        W_dec: Decoder ``[F, d_out]``, one row per feature.
        b_dec: Decoder bias ``[d_out]``; None means none (the decoding of a difference of features).

    Source: Bricken et al. 2023, transformer-circuits.pub/2023/monosemantic-features.

    >>> decode(np.array([[0.0, 2.0]]), np.array([[1.0, 1.0], [0.5, 0.0]]), np.array([1.0, 1.0]))
    array([[2., 1.]])
    """
    if W_dec.ndim != 2 or f.ndim < 1 or f.shape[-1] != W_dec.shape[0]:
        raise ShapeError(f"iam.clt.decode: expected f [..., F], W_dec [F, d_out], got f {f.shape}, W_dec {W_dec.shape}")
    y = f @ W_dec
    return y if b_dec is None else y + b_dec


def densify(values: Array, indices: npt.NDArray[Any], offsets: npt.NDArray[Any] | None, n_features: int) -> Array:
    """Sparse components to a dense array ``[rows, n_features]``.

    Args:
        values: ``[rows, k]``, or ``[nnz]`` with ``offsets``.
        indices: Feature of each value, same shape.
        offsets: ``[rows + 1]``: row ``r`` owns entries ``offsets[r]:offsets[r+1]``. None for the k-form.
        n_features: Size of the dictionary.

    Slots of value 0 are padding and may repeat an index.

    >>> densify(np.array([[2.0, 0.0]]), np.array([[1, 1]]), None, 3)
    array([[0., 2., 0.]])
    >>> densify(np.array([1.0, 4.0]), np.array([0, 2]), np.array([0, 0, 2]), 3)
    array([[0., 0., 0.],
           [1., 0., 4.]])
    """
    if offsets is None:
        rows = np.repeat(np.arange(values.shape[0]), values.shape[1])
        count = values.shape[0]
    else:
        rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        count = len(offsets) - 1
    dense = np.zeros((count, n_features), values.dtype)
    np.add.at(dense, (rows, indices.reshape(-1)), values.reshape(-1))
    return dense


def residual(y: Array, x: Array, W_skip: Array | None = None) -> Array:
    """``y + x``, or ``y + x·W_skip``: the skip connection of a coder.

    Args:
        y: Decoded features ``[..., d_out]``.
        x: The coder's input ``[..., d_in]``.
        W_skip: ``[d_in, d_out]``; None adds ``x`` itself (d_in = d_out).

    Source: skip transcoders, Paulo et al. 2025, arXiv:2501.18823.

    >>> residual(np.array([[1.0]]), np.array([[2.0, 3.0]]), np.array([[10.0], [1.0]]))
    array([[24.]])
    """
    return y + (x if W_skip is None else x @ W_skip)


def edit(
    f: Array, features: Sequence[int], mode: str, a: npt.ArrayLike | None = None, b: npt.ArrayLike | None = None
) -> Array:
    """Change chosen features of every row and leave the others.

    Args:
        f: Features ``[..., F]``.
        features: Indices ``[n]``, distinct, in ``0..F-1``.
        mode: ``set``: ``f_j ← a_j``; ``scale``: ``f_j ← f_j·a_j``; ``clamp``: ``f_j ← min(max(f_j, a_j), b_j)``;
            ``ablate``: ``f_j ← 0``.
        a: One number or ``[n]``; not for ``ablate``.
        b: One number or ``[n]``; only for ``clamp``.
    Raises:
        ArgumentError: unknown mode (``mode``), operands that the mode does not take (``argument``), index out of range
            (``feature-range``) or repeated (``feature-duplicate``), ``clamp`` with ``a > b``.

    ``set`` and ``clamp`` also reach features that are inactive. Original to IAM; feature steering as in Templeton et al.
    2024, transformer-circuits.pub/2024/scaling-monosemanticity.

    >>> f = np.array([[1.0, 0.0, 5.0]])
    >>> edit(f, [1, 2], "set", [7.0, 8.0])
    array([[1., 7., 8.]])
    >>> edit(f, [0, 1, 2], "clamp", 0.5, 2.0)
    array([[1. , 0.5, 2. ]])
    >>> edit(f, [2], "ablate")
    array([[1., 0., 0.]])
    """
    index = np.asarray(features, dtype=np.int64).reshape(-1)
    _check_edit(index, mode, a, b, f.shape[-1])
    old = f[..., index]
    zero = np.zeros((), f.dtype)
    low = zero if a is None else np.asarray(a, f.dtype)
    high = zero if b is None else np.asarray(b, f.dtype)
    if mode == "clamp" and np.any(low > high):
        raise ArgumentError(f"iam.clt.edit: expected clamp bounds a <= b, got a={low}, b={high}")
    new = {
        "set": lambda: np.broadcast_to(low, old.shape),
        "scale": lambda: old * low,
        "clamp": lambda: np.minimum(np.maximum(old, low), high),
        "ablate": lambda: np.zeros_like(old),
    }[mode]()
    out = f.copy()
    out[..., index] = new
    return out


def delta(
    f: Array, features: Sequence[int], mode: str, a: npt.ArrayLike | None = None, b: npt.ArrayLike | None = None
) -> Array:
    """``edit(f) − f``: what an edit changes; zero outside the edited features.

    ``x + decode(edit(f)) − decode(f) = x + decode(delta)`` (without bias) is why an edit that keeps the coder's error costs
    a few rows of the decoder instead of two full decodings. Original to IAM.

    >>> delta(np.array([[1.0, 0.0, 5.0]]), [1, 2], "set", [7.0, 8.0])
    array([[0., 7., 3.]])
    """
    return edit(f, features, mode, a, b) - f


def sub(f1: Array, f2: Array) -> Array:
    """``f1 − f2``, by feature. Original to IAM.

    >>> sub(np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]]))
    array([[ 1., -2.]])
    """
    if f1.shape != f2.shape:
        raise ShapeError(f"iam.clt.sub: expected two features values of one shape, got {f1.shape} and {f2.shape}")
    return f1 - f2


_OPERANDS = {"set": 1, "scale": 1, "clamp": 2, "ablate": 0}


def _check_edit(index: npt.NDArray[np.int64], mode: str, a: object, b: object, n_features: int) -> None:
    if mode not in _OPERANDS:
        raise ArgumentError(
            f'iam.clt.edit: unknown mode "{mode}"; expected one of {", ".join(sorted(_OPERANDS))}', code="mode"
        )
    given = (a is not None) + (b is not None)
    if given != _OPERANDS[mode]:
        raise ArgumentError(f"iam.clt.edit: {mode} expects {_OPERANDS[mode]} operand(s), got {given}")
    bad = index[(index < 0) | (index >= n_features)]
    if bad.size:
        raise ArgumentError(
            f"iam.clt.edit: expected features in 0..{n_features - 1}, got {bad[0]}", code="feature-range"
        )
    if len(np.unique(index)) != len(index):
        repeated = sorted({int(i) for i in index if (index == i).sum() > 1})
        raise ArgumentError(
            f"iam.clt.edit: expected distinct features, got {repeated} more than once", code="feature-duplicate"
        )


def coder(cfg: Any, weights: dict[str, Array], x: Array) -> tuple[Array, Array]:
    """A whole coder by its definition: dense features ``[..., F]`` and output ``[..., d_out]`` for ``x [..., d_in]``.

    Args:
        cfg: An :class:`iam.CoderConfig`.
        weights: Of an SAE by the names of :class:`iam.SAE`. With ``W_skip``, or where ``d_out`` is not ``d_in``, of a
            transcoder, whose output is at another site: the normalisation of the input is not undone.

    Source: SAELens for each architecture and convention; skip: Paulo et al. 2025, arXiv:2501.18823.

    >>> from iam import CoderConfig
    >>> w = {"W_enc": np.eye(2), "b_enc": np.zeros(2), "W_dec": np.eye(2), "b_dec": np.ones(2)}
    >>> coder(CoderConfig(architecture="topk", d_in=2, d_sae=2, k=1), w, np.array([[2.0, 5.0]]))
    (array([[0., 5.]]), array([[1., 6.]]))
    """
    kind, W_dec, b_dec = cfg.normalize_activations, weights["W_dec"], weights["b_dec"]
    statistics = {"scale": cfg.norm_scale, "mean": weights.get("whitening_mean")}
    z, row_scale, row_shift = normalize(kind, x, **statistics, matrix=weights.get("whitening_matrix"))
    z = z - b_dec if cfg.apply_b_dec_to_input else z
    norms = np.linalg.norm(W_dec, axis=-1) if cfg.rescale_acts_by_decoder_norm else np.ones(len(W_dec))
    f = _activate(cfg, weights, z, norms)
    y = decode(f / np.where(norms > 0, norms, 1), W_dec)
    if cfg.architecture != "matching_pursuit" or cfg.apply_b_dec_to_input:
        y = y + b_dec
    if "W_skip" in weights or cfg.d_out != cfg.d_in:
        return f, y + x @ weights["W_skip"].T if "W_skip" in weights else y
    return f, unnormalize(kind, y, row_scale, row_shift, **statistics, inverse=weights.get("whitening_inverse"))


def _activate(cfg: Any, weights: dict[str, Array], z: Array, norms: Array) -> Array:
    if cfg.architecture == "matching_pursuit":
        return matching_pursuit(
            z,
            weights["W_dec"],
            residual_threshold=cfg.residual_threshold,
            max_iterations=cfg.max_iterations,
            stop_on_duplicate_support=cfg.stop_on_duplicate_support,
        )
    if cfg.architecture == "gated":
        W_enc = weights["W_enc"]
        return gate(encode(z, W_enc, weights["b_gate"]), encode(z, W_enc * np.exp(weights["r_mag"]), weights["b_mag"]))
    pre = encode(z, weights["W_enc"], weights["b_enc"]) * norms
    if cfg.architecture == "jumprelu":
        return jumprelu(pre, weights["threshold"])
    if cfg.architecture == "standard":
        return relu(pre)
    return {"topk": topk, "abstopk": abstopk, "groupmax": groupmax}[cfg.architecture](pre, k=cfg.k)


def decode_adjoint(f: Array, W_dec: Array, dy: Array) -> Array:
    """Derivative of a reconstruction by its active features: ``dy·W_decᵀ`` where ``f`` is not 0, else 0.

    >>> decode_adjoint(np.array([[2.0, 0.0]]), np.array([[1.0], [10.0]]), np.array([[3.0]]))
    array([[3., 0.]])
    """
    return np.where(f != 0, dy @ W_dec.T, 0.0)


def densify_adjoint(f: Array, dd: Array, columns: Sequence[int] | None = None) -> Array:
    """Derivative of dense features by the active ones: ``dd`` where ``f`` is not 0, else 0.

    Args:
        f: ``[..., F]``.
        dd: ``[..., F]``, or ``[..., n]`` for the features in ``columns``.
        columns: The features that ``dd`` is about; those of others are 0.

    >>> densify_adjoint(np.array([[2.0, 0.0, 1.0]]), np.array([[5.0, 6.0]]), [2, 1])
    array([[0., 0., 5.]])
    """
    whole = dd if columns is None else np.zeros_like(f)
    if columns is not None:
        whole[..., list(columns)] = dd
    return np.where(f != 0, whole, 0.0)


def edit_adjoint(
    f: Array, dg: Array, features: Sequence[int], mode: str, a: Any = None, b: Any = None, *, delta: bool = False
) -> Array:
    """Derivative of an edit by the active features: ``m·dg`` where ``f`` is not 0, else 0.

    Args:
        f: The features before the edit ``[..., F]``.
        dg: The derivative by those after it.
        features: The edited ones.
        mode: ``set``, ``ablate``: m is 0; ``scale``: ``a``; ``clamp``: 1 where ``a <= f <= b``, else 0. Of other features: 1.
        a: One number for each edited feature.
        b: As ``a``.
        delta: Of what the edit changes alone: ``m − 1`` for the edited features, 0 for the others.

    >>> edit_adjoint(np.array([[2.0, 3.0]]), np.ones((1, 2)), [1], "scale", [4.0])
    array([[1., 4.]])
    """
    m = np.ones_like(f)
    index = list(features)
    if mode == "scale":
        m[..., index] = np.asarray(a)
    elif mode == "clamp":
        m[..., index] = (np.asarray(a) <= f[..., index]) & (f[..., index] <= np.asarray(b))
    else:
        m[..., index] = 0
    if delta:
        listed = np.zeros(f.shape[-1], bool)
        listed[index] = True
        m = np.where(listed, m - 1, 0.0)
    return np.where(f != 0, m * dg, 0.0)


def cross_layer(features: Sequence[Array], W_dec: Sequence[Array], b_dec: Sequence[Array]) -> list[Array]:
    """What the features of L layers write: ``y_t = b_dec[t] + Σ_{i ≤ t} f_i · W_dec[i][:, t − i]``.

    Args:
        features: Of each layer ``[..., F]``.
        W_dec: Of layer i ``[F, L − i, d_out]``; slice j writes to layer i + j.
        b_dec: Of each layer that is written ``[d_out]``.

    Source: Ameisen et al. 2025, transformer-circuits.pub/2025/attribution-graphs.

    >>> f = [np.array([[2.0]]), np.array([[3.0]])]
    >>> cross_layer(f, [np.array([[[1.0], [10.0]]]), np.array([[[100.0]]])], [np.zeros(1), np.zeros(1)])
    [array([[2.]]), array([[320.]])]
    """
    return [
        sum((features[i] @ W_dec[i][:, t - i] for i in range(t + 1)), start=b_dec[t] * 1.0)
        for t in range(len(features))
    ]


def crosscoder(cfg: Any, weights: dict[str, Array], xs: Sequence[Array]) -> tuple[Array, list[Array]]:
    """One set of features for S sites: ``f = activation(Σ_s x_s·W_enc[s] + b_enc)``, ``x̂_s = f·W_dec[:, s] + b_dec[s]``.

    Args:
        cfg: An :class:`iam.CoderConfig` without ``apply_b_dec_to_input`` and normalisation.
        weights: ``W_enc [S, d, F]``, ``b_enc [F]``, ``W_dec [F, S, d]``, ``b_dec [S, d]``, and those of the architecture.

    Source: Lindsey et al. 2024, transformer-circuits.pub/2024/crosscoders.

    >>> from iam import CoderConfig
    >>> cfg = CoderConfig(architecture="standard", d_in=1, d_sae=1)
    >>> w = {"W_enc": np.array([[[1.0]], [[10.0]]]), "b_enc": np.zeros(1), "W_dec": np.array([[[1.0], [2.0]]])}
    >>> crosscoder(cfg, w | {"b_dec": np.zeros((2, 1))}, [np.ones((1, 1)), np.ones((1, 1))])[1]
    [array([[11.]]), array([[22.]])]
    """
    d = cfg.d_in
    wide = np.concatenate(list(xs), axis=-1)
    W_dec = weights["W_dec"].reshape(cfg.d_sae, -1)
    side = weights | {"W_enc": weights["W_enc"].reshape(-1, cfg.d_sae), "W_dec": W_dec}
    f = _activate(cfg, side, wide, np.ones(cfg.d_sae))
    y = decode(f, W_dec, weights["b_dec"].reshape(-1))
    return f, [y[..., s * d : (s + 1) * d] for s in range(len(xs))]
