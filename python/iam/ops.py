"""The ops of the dialect as functions: on NumPy arrays, on torch tensors, and inside a traced function.

Called on arrays, an op runs at once: in the compiled kernels when the array is in host memory, in plain torch on the
array's device when it is not, or when its gradient is being recorded. Called on the arguments of a function under
:func:`iam.jit`, it is recorded. Activations may have any leading dimensions; what comes in (NumPy or torch, float16 to
float64) goes out; the arithmetic is float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from iam.core.arrays import (
    as_float32,
    check_float,
    check_width,
    from_numpy,
    needs_torch,
    rows_of,
    shape_of,
)
from iam.core.config import suggestion, take_int
from iam.core.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError
from iam.core.features import SparseFeatures
from iam.core.lazy import is_torch, native, torch_if_loaded

__all__ = [
    "COMPOSE_RULES",
    "EDIT_MODES",
    "PATH_RULES",
    "SET_KINDS",
    "STEER_MODES",
    "abstopk",
    "batch_topk",
    "compose",
    "decode",
    "delta",
    "densify",
    "edit",
    "encode",
    "gate",
    "grad",
    "groupmax",
    "integrated_gradients",
    "jumprelu",
    "matching_pursuit",
    "path",
    "project",
    "relu",
    "residual",
    "select",
    "steer",
    "sub",
    "topk",
    "verify",
]

STEER_MODES = ("add", "ablate", "clamp")
COMPOSE_RULES = ("sum", "mean", "orthogonal")
SET_KINDS = ("halfspace", "ball", "subspace", "box")
MAX_STEPS = 4096
PATH_RULES = ("gauss_legendre", "left", "right", "midpoint", "trapezoid")
EDIT_MODES = ("set", "scale", "clamp", "ablate")
_EDIT_OPERANDS = {"set": 1, "scale": 1, "clamp": 2, "ablate": 0}


def _trace(*values: Any) -> Any:
    """The tracer of the first value that is being traced, or None."""
    for value in values:
        trace = getattr(value, "__iam_trace__", None)
        if trace is not None:
            return trace
    return None


def _check_mode(mode: str, options: Sequence[str], op: str) -> None:
    if mode not in options:
        raise ArgumentError(f'{op}: unknown mode "{mode}"; {suggestion(str(mode), options)}', code="mode")


def _float32_tensor(x: Any, device: Any) -> Any:
    torch = torch_if_loaded()
    if not is_torch(x):
        x = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    return x.to(device=device, dtype=torch.float32)


def _device(*arrays: Any) -> Any:
    """The device of a call, which all its tensors must share."""
    devices = {str(x.device): x.device for x in arrays if is_torch(x)}
    if len(devices) > 1:
        raise ArgumentError(f"expected all tensors on one device, got {' and '.join(sorted(devices))}", code="device")
    return next(iter(devices.values()))


def _matrix(x: Any, op: str, name: str) -> Any:
    """A weight as ``[n, m]`` float32 for the kernels."""
    _matrix_shape(x, op, name)
    return as_float32(x)


def _matrix_shape(x: Any, op: str, name: str) -> tuple[int, int]:
    check_float(x, op=op, name=name)
    if x.ndim != 2:
        raise ShapeError(f"{op}: expected {name} of two dimensions, got {shape_of(x)}")
    return int(x.shape[0]), int(x.shape[1])


def _vector(x: Any, size: int, op: str, name: str) -> Any:
    _check_vector(x, size, op, name)
    return as_float32(x)


def _check_vector(x: Any, size: int, op: str, name: str) -> None:
    check_float(x, op=op, name=name)
    if shape_of(x) != (size,):
        raise ShapeError(f"{op}: expected {name} of shape ({size},), got {shape_of(x)}")


# Steering.


def steer(h: Any, v: Any, strength: Any, mode: str = "add") -> Any:
    """Move activations along a direction.

    Args:
        h: Activations ``[..., d]``.
        v: Direction ``[d]``, not zero unless mode is ``add``.
        strength: ``add``: multiples of ``v``; ``ablate``: 1 removes the component along ``v`` entirely; ``clamp``: the
            wanted component along ``v/‖v‖``, in the units of ``h``.
        mode: ``add``: ``h + s·v``; ``ablate``: ``h − s·(h·v/‖v‖²)·v``; ``clamp``: ``h + (s − h·v̂)·v̂`` with ``v̂ = v/‖v‖``.

    Returns:
        A new array like ``h``.

    Raises:
        ShapeError: ``v`` is not ``[d]``.
        DtypeError: no arrays of floats.
        NonFiniteError: NaN or infinity in ``h``, ``v`` or ``strength``.
        ArgumentError: unknown mode, or a zero direction that mode cannot use.

    Source: Turner et al. 2023, arXiv:2308.10248 (add); Arditi et al. 2024, arXiv:2406.11717 (ablate).
    """
    _check_mode(mode, STEER_MODES, "iam.steer")
    trace = _trace(h, v, strength)
    if trace is not None:
        return trace.op("steer", h, v, strength, mode)
    rows = None if needs_torch(h, v) else rows_of(h, op="iam.steer", name="h")
    check_float(h, op="iam.steer", name="h")
    check_width(h, op="iam.steer", name="h", width=None, width_name="d")
    vector = _vector(v, h.shape[-1], "iam.steer", "v") if rows is not None or not is_torch(v) else v
    strength = _number(strength, "iam.steer", "strength")
    if rows is None:
        return _steer_torch(h, vector, strength, mode)
    _check_direction(vector, mode)
    return rows.restore(native().steer(rows.flat, vector, strength, STEER_MODES.index(mode)))


def _steer_torch(h: Any, v: Any, strength: float, mode: str) -> Any:
    from iam.vector.clt import _torch

    if shape_of(v) != (h.shape[-1],):
        raise ShapeError(f"iam.steer: expected v of shape ({h.shape[-1]},), got {shape_of(v)}")
    device = _device(h, v)
    v = _float32_tensor(v, device)
    _check_direction(as_float32(v.detach().cpu()), mode)
    flat = _float32_tensor(h, device).reshape(-1, h.shape[-1])
    return _torch.steer(flat, v, strength, mode).reshape(h.shape).to(h.dtype)


def _check_direction(v: Any, mode: str) -> None:
    square = float(v.astype(np.float64) @ v)
    if not math.isfinite(square):
        at = int(np.flatnonzero(~np.isfinite(v))[0])
        raise NonFiniteError(f"iam.steer: expected finite v, got {v[at]} at index {at}")
    if square == 0 and mode != "add":
        raise ArgumentError(f'iam.steer: mode "{mode}" needs a direction v that is not zero')


def _number(value: Any, op: str, name: str) -> float:
    number = _any_number(value, op, name)
    if not math.isfinite(number):
        raise NonFiniteError(f"{op}: expected a finite {name}, got {number}")
    return number


def _any_number(value: Any, op: str, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise DtypeError(f"{op}: expected {name} to be a number, got {type(value).__name__}") from error


def compose(vectors: Any, strengths: Any, rule: str = "sum") -> Any:
    """Several directions as one edit ``[d]``, to be added to an activation.

    Args:
        vectors: Directions ``[n, d]``.
        strengths: One each ``[n]``: a list of numbers or an array.
        rule: ``sum``: ``Σ s_i·v_i``; ``mean``: that divided by n; ``orthogonal``: each direction first loses what it shares
            with the directions before it (Gram-Schmidt), so the order is the priority; one in their span, within 1e-6 of
            its norm, gives nothing.

    Returns:
        ``[d]``, in the kind and float type of ``vectors``; sums are float64. NaN and infinity pass through.

    Raises:
        ShapeError: sizes that do not fit each other.
        DtypeError: no arrays of floats.
        ArgumentError: unknown rule (code ``mode``).

    Original to IAM. Oracle: :func:`iam.reference.policy.compose`.
    """
    op = "iam.compose"
    _check_mode(rule, COMPOSE_RULES, op)
    trace = _trace(vectors, strengths, *(strengths if isinstance(strengths, (list, tuple)) else ()))
    if trace is not None:
        return trace.op("compose", vectors, strengths, rule)
    count, _ = _matrix_shape(vectors, op, "vectors")
    if isinstance(strengths, (list, tuple)):
        strengths = np.array([_any_number(s, op, "strengths") for s in strengths])
    check_float(strengths, op=op, name="strengths")
    if shape_of(strengths) != (count,):
        raise ShapeError(f"{op}: expected strengths of shape ({count},), got {shape_of(strengths)}")
    if needs_torch(vectors, strengths):
        device = _device(vectors, strengths)
        edit = _torch_ops().compose(_float32_tensor(vectors, device), _float32_tensor(strengths, device), rule)
        return edit.to(vectors.dtype if is_torch(vectors) else strengths.dtype)
    edit = native().compose(as_float32(vectors), as_float32(strengths), COMPOSE_RULES.index(rule))
    return from_numpy(edit, vectors)


# Sets.


def project(h: Any, kind: str, first: Any, second: Any = None) -> Any:
    """The nearest point of a convex set.

    Args:
        h: Activations ``[..., d]``.
        kind: ``halfspace``: ``{h : first·h ≤ second}``; ``ball``: ``{h : ‖h − first‖ ≤ second}``; ``subspace``: the span of
            the rows of ``first [n, d]``, where a row in the span of earlier ones, within 1e-6 of its norm, counts for
            nothing; ``box``: ``first ≤ h ≤ second``, both ``[d]``, lists of d numbers, or one number. Infinite bounds are no bounds.
        first: See ``kind``.
        second: See ``kind``; None for ``subspace``.

    Returns:
        A new array like ``h``. Rows inside stay as they are; moved rows are inside for :func:`verify` with tolerance 0,
        except in a subspace, and except where torch does the arithmetic (other devices, gradients) or the result is
        rounded to a smaller float type: there within rounding.

    Raises:
        ShapeError: operands that are not as wide as ``h``.
        DtypeError: no arrays of floats.
        NonFiniteError: NaN, or infinity in ``h``, a normal, a centre or a basis.
        ArgumentError: unknown kind (code ``mode``); a normal of norm 0, a negative radius, a lower bound above its upper.

    Source: Boyd and Vandenberghe 2004, Convex Optimization, section 8.1. Oracle: :func:`iam.reference.policy.project`.
    """
    op = "iam.project"
    _check_mode(kind, SET_KINDS, op)
    trace = _trace(h, first, second)
    if trace is not None:
        return trace.op("project", h, kind, first, second)
    first, second = _set_operands(h, kind, first, second, op)
    if needs_torch(h, first, second):
        flat, operands = _set_on_torch(h, kind, first, second, op)
        return _torch_ops().project(flat, kind, *operands).reshape(h.shape).to(h.dtype)
    rows = rows_of(h, op=op, name="h")
    return rows.restore(native().project(rows.flat, SET_KINDS.index(kind), *_set_arrays(first, second)))


def verify(
    h: Any, kind: str, first: Any, second: Any = None, *, tolerance: float = 0.0, message: str | None = None
) -> Any:
    """Assert that activations are inside a set, and say how far.

    In a compiled program the assertion is made at every call, whether its margins are used or not.

    Args:
        h: Activations ``[..., d]``.
        kind, first, second: The set, as in :func:`project`.
        tolerance: How far outside a row may be, in the units of ``h``. A subspace has no inside and wants one.
        message: What must hold, for the error.

    Returns:
        The margin of each row ``[...]``: positive inside, 0 on the border, minus the distance outside.

    Raises:
        PolicyError: a margin below ``-tolerance``, or a row with NaN or infinity; ``.row`` and ``.margin`` say which.
        ShapeError, DtypeError, NonFiniteError, ArgumentError: as in :func:`project`, for the set.

    Original to IAM. Oracle: :func:`iam.reference.policy.verify`.
    """
    op = "iam.verify"
    _check_mode(kind, SET_KINDS, op)
    tolerance = _number(tolerance, op, "tolerance")
    if tolerance < 0:
        raise ArgumentError(f"{op}: expected a tolerance >= 0, got {tolerance}")
    message = f"activations stay inside the {kind}" if not message else str(message)
    trace = _trace(h, first, second)
    if trace is not None:
        return trace.op("verify", h, kind, first, second, tolerance, message)
    first, second = _set_operands(h, kind, first, second, op)
    if needs_torch(h, first, second):
        flat, operands = _set_on_torch(h, kind, first, second, op)
        margins = _torch_ops().margins(flat, kind, *operands, tolerance, message)
        return margins.reshape(h.shape[:-1]).to(h.dtype)
    rows = rows_of(h, op=op, name="h")
    arrays = _set_arrays(first, second)
    margins = native().verify(rows.flat, SET_KINDS.index(kind), *arrays, tolerance, message)
    return from_numpy(margins.reshape(rows.prefix), h)


def _set_operands(h: Any, kind: str, first: Any, second: Any, op: str) -> tuple[Any, Any]:
    """``first`` and ``second`` with the shapes of their kind; a number is what bounds a half-space or ball."""
    check_float(h, op=op, name="h")
    check_width(h, op=op, name="h", width=None, width_name="d")
    width = int(h.shape[-1])
    _check_second(kind, second, op)
    if kind == "subspace":
        if _matrix_shape(first, op, "first")[1] != width:
            raise ShapeError(f"{op}: expected first of shape (n, {width}), got {shape_of(first)}", code="width")
        return first, None
    if kind == "box":
        return _bounds(first, width, op, "first"), _bounds(second, width, op, "second")
    _check_vector(first, width, op, "first")
    return first, _any_number(second, op, "second")


def _check_second(kind: str, second: Any, op: str) -> None:
    """Raise ArgumentError unless ``second`` is there, or None for a subspace."""
    if (second is None) != (kind == "subspace"):
        expected = "no second operand" if kind == "subspace" else "a second operand"
        raise ArgumentError(f"{op}: expected {expected} for a {kind}, got {'none' if second is None else 'one'}")


def _bounds(value: Any, width: int, op: str, name: str) -> Any:
    """Bounds of a box as ``[width]``."""
    if isinstance(value, (int, float, np.integer, np.floating)):
        return np.full(width, value, np.float32)
    if isinstance(value, (list, tuple)):
        value = np.array([_any_number(bound, op, name) for bound in value])
    _check_vector(value, width, op, name)
    return value


def _set_arrays(first: Any, second: Any) -> tuple[Any, Any]:
    """The operands of a set as the kernels take them."""
    return tuple(x if x is None or isinstance(x, float) else as_float32(x) for x in (first, second))  # type: ignore[return-value]


def _set_on_torch(h: Any, kind: str, first: Any, second: Any, op: str) -> tuple[Any, list[Any]]:
    """``h`` as rows and the operands on its device, after the kernels have checked the set."""
    device = _device(h, first, second)
    width = int(h.shape[-1])
    on_host = [x.detach().cpu() if is_torch(x) else x for x in (first, second)]
    native().project(np.empty((0, width), np.float32), SET_KINDS.index(kind), *_set_arrays(*on_host))
    operands = [x if x is None or isinstance(x, float) else _float32_tensor(x, device) for x in (first, second)]
    return _float32_tensor(h, device).reshape(-1, width), operands


# Coders.


def encode(x: Any, W_enc: Any, b_enc: Any, b_dec: Any = None) -> Any:
    """Dense pre-activations ``(x − b_dec)·W_enc + b_enc``, shape ``[..., F]``.

    To get features, call a coder's ``encode``, which never holds this array.

    Args:
        x: Activations ``[..., d_in]``.
        W_enc: ``[d_in, F]``.
        b_enc: ``[F]``.
        b_dec: ``[d_in]``, subtracted from ``x`` first; or None.
    """
    op = "iam.ops.encode"
    trace = _trace(x)
    if trace is not None:
        return trace.op("encode", x, W_enc, b_enc, b_dec)
    if needs_torch(x, W_enc, b_enc, b_dec):
        from iam.vector.clt import _torch

        device = _device(x, W_enc, b_enc, b_dec)
        weights = [_float32_tensor(w, device) for w in (W_enc, b_enc)]
        weights.append(None if b_dec is None else _float32_tensor(b_dec, device))
        check_float(x, op=op, name="x")
        check_width(x, op=op, name="x", width=int(W_enc.shape[0]), width_name="d_in")
        flat = _float32_tensor(x, device).reshape(-1, x.shape[-1])
        return _torch.encode(flat, *weights).reshape(*x.shape[:-1], -1).to(x.dtype)
    matrix = _matrix(W_enc, op, "W_enc")
    rows = rows_of(x, op=op, name="x", width=matrix.shape[0])
    bias = _vector(b_enc, matrix.shape[1], op, "b_enc")
    shift = None if b_dec is None else _vector(b_dec, matrix.shape[0], op, "b_dec")
    return rows.restore(native().encode_dense(rows.flat, matrix, bias, shift))


def _activation(name: str, pre: Any, kernel: Any, on_torch: Any, *others: Any) -> SparseFeatures:
    op = f"iam.ops.{name}"
    check_float(pre, op=op, name="pre")
    check_width(pre, op=op, name="pre", width=None, width_name="features")
    prefix, n_features = shape_of(pre)[:-1], int(pre.shape[-1])
    if needs_torch(pre, *others):
        device = _device(pre, *others)
        flat = _float32_tensor(pre, device).reshape(math.prod(prefix), n_features)
        values, indices, offsets = on_torch(flat, *(_float32_tensor(o, device) for o in others))
        return SparseFeatures(values.to(pre.dtype), indices, offsets, n_features, prefix, validate=False)
    rows = rows_of(pre, op=op, name="pre")
    values, indices, *rest = kernel(rows.flat, *others)
    return features_from_kernel(values, indices, rest[0] if rest else None, n_features, prefix, pre)


def features_from_kernel(
    values: Any, indices: Any, offsets: Any, n_features: int, prefix: tuple[int, ...], like: Any
) -> SparseFeatures:
    """The components that a kernel returned, in the container and float type of ``like``."""
    return SparseFeatures(
        from_numpy(values, like),
        from_numpy(indices, like),
        None if offsets is None else from_numpy(offsets, like),
        n_features,
        prefix,
        validate=False,
    )


def _check_k(k: Any, n_features: int, op: str) -> int:
    return take_int(k, what=f"{op}: k", low=1, high=n_features, error=ArgumentError, code="k-range")


def topk(pre: Any, k: int) -> SparseFeatures:
    """The ``k`` largest pre-activations of each row, then ReLU; ties to the lowest index.

    Args:
        pre: ``[..., F]``.
        k: ``1..F``.

    Source: Gao et al. 2024, arXiv:2406.04093. Oracle: :func:`iam.reference.clt.topk`.
    """
    trace = _trace(pre)
    if trace is not None:
        return trace.op("topk", pre, k)  # type: ignore[no-any-return]
    check_float(pre, op="iam.ops.topk", name="pre")
    check_width(pre, op="iam.ops.topk", name="pre", width=None, width_name="features")
    k = _check_k(k, int(pre.shape[-1]), "iam.ops.topk")
    return _activation("topk", pre, lambda flat: native().topk(flat, k), lambda flat: _torch_ops().topk(flat, k))


def abstopk(pre: Any, k: int) -> SparseFeatures:
    """The ``k`` pre-activations of each row that are largest in magnitude, with their signs; ties to the lowest index.

    Args:
        pre: ``[..., F]``.
        k: ``1..F``.

    Source: arXiv:2510.00404. Oracle: :func:`iam.reference.clt.abstopk`.
    """
    op = "iam.ops.abstopk"
    trace = _trace(pre)
    if trace is not None:
        return trace.op("abstopk", pre, k)  # type: ignore[no-any-return]
    check_float(pre, op=op, name="pre")
    check_width(pre, op=op, name="pre", width=None, width_name="features")
    k = _check_k(k, int(pre.shape[-1]), op)
    return _activation(
        "abstopk", pre, lambda flat: native().abstopk(flat, k), lambda flat: _torch_ops().abstopk(flat, k)
    )


def groupmax(pre: Any, k: int) -> SparseFeatures:
    """The largest pre-activation of each of ``k`` groups of ``F/k`` neighbouring features, then ReLU; ties to the lowest.

    Args:
        pre: ``[..., F]``.
        k: A divisor of ``F``.

    Slot g of a row belongs to group g. Source: sparsify, github.com/EleutherAI/sparsify. Oracle:
    :func:`iam.reference.clt.groupmax`.
    """
    op = "iam.ops.groupmax"
    trace = _trace(pre)
    if trace is not None:
        return trace.op("groupmax", pre, k)  # type: ignore[no-any-return]
    check_float(pre, op=op, name="pre")
    check_width(pre, op=op, name="pre", width=None, width_name="features")
    k = _check_k(k, int(pre.shape[-1]), op)
    if int(pre.shape[-1]) % k:
        raise ArgumentError(
            f"{op}: expected k to be a divisor of {int(pre.shape[-1])} (features), got {k}", code="k-range"
        )
    return _activation(
        "groupmax", pre, lambda flat: native().groupmax(flat, k), lambda flat: _torch_ops().groupmax(flat, k)
    )


def matching_pursuit(
    x: Any,
    W_dec: Any,
    b_dec: Any = None,
    *,
    residual_threshold: float = 1e-2,
    max_iterations: int | None = None,
    stop_on_duplicate_support: bool = True,
) -> SparseFeatures:
    """Features found one at a time: the decoder row that fits what is left of ``x`` best, until little is left.

    Args:
        x: Activations ``[..., d]``.
        W_dec: ``[F, d]``, rows of norm 1.
        b_dec: ``[d]``, subtracted from ``x`` first; or None.
        residual_threshold: A row ends when the norm of what is left is below this; 0 never ends it.
        max_iterations: Steps at most; None is ``d``.
        stop_on_duplicate_support: A row ends with a step whose feature was active before.

    Returns:
        Features ``[..., F]`` in CSR form.

    Raises:
        NonFiniteError: NaN or infinity in ``x`` or ``W_dec``; or what is left grows out of float32.

    Source: Mallat and Zhang 1993, doi:10.1109/78.258082. Oracle: :func:`iam.reference.clt.matching_pursuit`.
    """
    op = "iam.ops.matching_pursuit"
    threshold = _number(residual_threshold, op, "residual_threshold")
    if threshold < 0:
        raise ArgumentError(f"{op}: expected residual_threshold >= 0, got {residual_threshold}")
    if max_iterations is not None:
        most = 2**31 - 1
        what = f"{op}: max_iterations"
        max_iterations = take_int(max_iterations, what=what, low=1, high=most, error=ArgumentError, code="argument")
    trace = _trace(x)
    if trace is not None:
        stop = bool(stop_on_duplicate_support)
        return trace.op("matching_pursuit", x, W_dec, b_dec, threshold, max_iterations, stop)  # type: ignore[no-any-return]
    check_float(x, op=op, name="x")
    n_features, width = _matrix_shape(W_dec, op, "W_dec")
    check_width(x, op=op, name="x", width=width, width_name="d")
    rule = (threshold, width if max_iterations is None else max_iterations, bool(stop_on_duplicate_support))
    prefix = shape_of(x)[:-1]
    if needs_torch(x, W_dec, b_dec):
        device = _device(x, W_dec, b_dec)
        flat = _float32_tensor(x, device).reshape(-1, width)
        _torch_ops().check_finite(flat, op=op, name="x")
        flat = flat if b_dec is None else flat - _float32_tensor(b_dec, device)
        values, indices, offsets = _torch_ops().matching_pursuit(flat, _float32_tensor(W_dec, device), *rule)
        return SparseFeatures(values.to(x.dtype), indices, offsets, n_features, prefix, validate=False)
    rows = rows_of(x, op=op, name="x")
    shift = None if b_dec is None else _vector(b_dec, width, op, "b_dec")
    values, indices, offsets = native().matching_pursuit(rows.flat, as_float32(W_dec), shift, *rule)
    return features_from_kernel(values, indices, offsets, n_features, prefix, x)


def batch_topk(pre: Any, k: int) -> SparseFeatures:
    """The ``k · rows`` largest of ``relu(pre)`` over all rows; ties to the lowest flat index.

    Source: Bussmann et al. 2024, arXiv:2412.06410. Oracle: :func:`iam.reference.clt.batch_topk`.
    """
    trace = _trace(pre)
    if trace is not None:
        return trace.op("batch_topk", pre, k)  # type: ignore[no-any-return]
    check_float(pre, op="iam.ops.batch_topk", name="pre")
    check_width(pre, op="iam.ops.batch_topk", name="pre", width=None, width_name="features")
    k = _check_k(k, int(pre.shape[-1]), "iam.ops.batch_topk")
    return _activation(
        "batch_topk", pre, lambda flat: native().batch_topk(flat, k), lambda flat: _torch_ops().batch_topk(flat, k)
    )


def jumprelu(pre: Any, threshold: Any) -> SparseFeatures:
    """``relu(pre) · [pre > threshold]``, one threshold per feature ``[F]``.

    Source: Rajamanoharan et al. 2024, arXiv:2407.14435. Oracle: :func:`iam.reference.clt.jumprelu`.
    """
    trace = _trace(pre)
    if trace is not None:
        return trace.op("jumprelu", pre, threshold)  # type: ignore[no-any-return]
    check_float(pre, op="iam.ops.jumprelu", name="pre")
    check_width(pre, op="iam.ops.jumprelu", name="pre", width=None, width_name="features")
    theta = threshold
    if not needs_torch(pre, threshold):
        theta = _vector(threshold, int(pre.shape[-1]), "iam.ops.jumprelu", "threshold")
    elif shape_of(threshold) != (int(pre.shape[-1]),):
        raise ShapeError(f"iam.ops.jumprelu: expected threshold ({int(pre.shape[-1])},), got {shape_of(threshold)}")
    return _activation(
        "jumprelu",
        pre,
        lambda flat, t: native().threshold(flat, t),
        lambda flat, t: _torch_ops().threshold(flat, t),
        theta,
    )


def relu(pre: Any) -> SparseFeatures:
    """``max(pre, 0)`` as features. Oracle: :func:`iam.reference.clt.relu`."""
    trace = _trace(pre)
    if trace is not None:
        return trace.op("relu", pre)  # type: ignore[no-any-return]
    return _activation(
        "relu", pre, lambda flat: native().threshold(flat, None), lambda flat: _torch_ops().threshold(flat, None)
    )


def gate(gate_pre: Any, magnitude_pre: Any) -> SparseFeatures:
    """``[gate_pre > 0] · relu(magnitude_pre)``, two arrays ``[..., F]`` of one shape.

    Source: Rajamanoharan et al. 2024, arXiv:2404.16014. Oracle: :func:`iam.reference.clt.gate`.
    """
    op = "iam.ops.gate"
    trace = _trace(gate_pre, magnitude_pre)
    if trace is not None:
        return trace.op("gate", gate_pre, magnitude_pre)  # type: ignore[no-any-return]
    check_float(gate_pre, op=op, name="gate_pre")
    check_float(magnitude_pre, op=op, name="magnitude_pre")
    if shape_of(gate_pre) != shape_of(magnitude_pre):
        raise ShapeError(
            f"{op}: expected gate_pre and magnitude_pre of one shape, got {shape_of(gate_pre)} and {shape_of(magnitude_pre)}"
        )
    width = int(magnitude_pre.shape[-1])
    return _activation(
        "gate",
        magnitude_pre,
        lambda flat, g: native().gate(as_float32(g).reshape(-1, width), flat),
        lambda flat, g: _torch_ops().gate(g.reshape(-1, width), flat),
        gate_pre,
    )


def _torch_ops() -> Any:
    from iam.vector.clt import _torch

    return _torch


def _kernel_components(f: SparseFeatures) -> tuple[Any, Any, Any]:
    """Components as NumPy float32, int32, int64, sharing memory where they can."""
    values, indices, offsets = f.components
    if f.is_torch:
        indices = indices.numpy()
        offsets = None if offsets is None else offsets.numpy()
    return as_float32(values), indices, offsets


def _float32_components(f: SparseFeatures, device: Any) -> tuple[Any, Any, Any]:
    torch = torch_if_loaded()
    values, indices, offsets = f.to_torch().components
    moved = None if offsets is None else offsets.to(device)
    return values.to(device=device, dtype=torch.float32), indices.to(device), moved


def _check_features(f: Any, op: str) -> None:
    if not isinstance(f, SparseFeatures):
        raise DtypeError(
            f"{op}: expected SparseFeatures, got {type(f).__name__}; dense features become sparse with "
            "SparseFeatures.from_dense(f)"
        )


def decode(f: SparseFeatures, W_dec: Any, b_dec: Any = None) -> Any:
    """``f·W_dec + b_dec``, reading only the rows of active features.

    Args:
        f: Features ``[..., F]``.
        W_dec: ``[F, d_out]``.
        b_dec: ``[d_out]``, or None for a difference of features.

    Returns:
        ``[..., d_out]`` in the container and float type of the features.

    Raises:
        ShapeError: sizes that do not fit each other.
        DtypeError: ``f`` is no SparseFeatures, weights that are no floats.
    """
    op = "iam.ops.decode"
    trace = _trace(f)
    if trace is not None:
        return trace.op("decode", f, W_dec, b_dec)
    _check_features(f, op)
    check_float(W_dec, op=op, name="W_dec")
    if W_dec.ndim != 2 or W_dec.shape[0] != f.n_features:
        raise ShapeError(f"{op}: expected W_dec of shape ({f.n_features}, d_out), got {shape_of(W_dec)}", code="width")
    width = int(W_dec.shape[1])
    values = f.components[0]
    if needs_torch(values, W_dec, b_dec):
        device = _device(values, W_dec, b_dec)
        bias = None if b_dec is None else _float32_tensor(b_dec, device)
        y = _torch_ops().decode(*_float32_components(f, device), _float32_tensor(W_dec, device), bias)
        return y.to(values.dtype if f.is_torch else y.dtype).reshape(*f.prefix, width)
    bias = None if b_dec is None else _vector(b_dec, width, op, "b_dec")
    y = native().decode(*_kernel_components(f), as_float32(W_dec), bias)
    return from_numpy(y.reshape(*f.prefix, width), values)


def densify(f: SparseFeatures) -> Any:
    """Features as a dense array ``[..., F]``. Oracle: :func:`iam.reference.clt.densify`."""
    trace = _trace(f)
    if trace is not None:
        return trace.op("densify", f)
    _check_features(f, "iam.ops.densify")
    values = f.components[0]
    if needs_torch(values):
        dense = _torch_ops().densify(*_float32_components(f, values.device), f.n_features)
        return dense.to(values.dtype).reshape(f.shape)
    dense = native().densify(*_kernel_components(f), f.n_features)
    return from_numpy(dense.reshape(f.shape), values)


def residual(y: Any, x: Any, W_skip: Any = None) -> Any:
    """``y + x``, or ``y + x·W_skip``.

    Args:
        y: Decoded features ``[..., d_out]``.
        x: The coder's input ``[..., d_in]``, same leading dimensions.
        W_skip: ``[d_in, d_out]``; None adds ``x`` itself.

    Source: skip transcoders, Paulo et al. 2025, arXiv:2501.18823. Oracle: :func:`iam.reference.clt.residual`.
    """
    op = "iam.ops.residual"
    trace = _trace(y, x)
    if trace is not None:
        return trace.op("residual", y, x, W_skip)
    check_float(y, op=op, name="y")
    check_float(x, op=op, name="x")
    check_width(y, op=op, name="y", width=None, width_name="d_out")
    check_width(x, op=op, name="x", width=None, width_name="d_in")
    expected = (int(x.shape[-1]), int(y.shape[-1]))
    if shape_of(y)[:-1] != shape_of(x)[:-1] or (W_skip is None and expected[0] != expected[1]):
        raise ShapeError(f"{op}: expected y and x of one shape, got {shape_of(y)} and {shape_of(x)}")
    if W_skip is not None and shape_of(W_skip) != expected:
        raise ShapeError(f"{op}: expected W_skip of shape {expected}, got {shape_of(W_skip)}")
    if needs_torch(y, x, W_skip):
        device = _device(y, x, W_skip)
        skip = None if W_skip is None else _float32_tensor(W_skip, device)
        return _torch_ops().residual(_float32_tensor(y, device), _float32_tensor(x, device), skip).to(y.dtype)
    rows = rows_of(y, op=op, name="y")
    others = rows_of(x, op=op, name="x")
    skip = None if W_skip is None else _matrix(W_skip, op, "W_skip")
    return rows.restore(native().residual(rows.flat, others.flat, skip))


# Edits of features.


def _edit_arguments(f: SparseFeatures, features: Any, mode: str, a: Any, b: Any, op: str) -> tuple[Any, Any, Any]:
    """Checked ``features`` int32 ``[n]`` and operands float32 ``[n]`` or None."""
    _check_mode(mode, EDIT_MODES, op)
    index = features.detach().cpu().numpy() if is_torch(features) else np.asarray(features)
    if index.size == 0:
        index = index.astype(np.int64)
    if index.dtype.kind not in "iu" or index.ndim > 1:
        raise DtypeError(f"{op}: expected features to be an integer or a list of integers, got {features!r}")
    index = index.reshape(-1).astype(np.int64)
    bad = index[(index < 0) | (index >= f.n_features)]
    if bad.size:
        raise ArgumentError(f"{op}: expected features in 0..{f.n_features - 1}, got {bad[0]}", code="feature-range")
    unique, counts = np.unique(index, return_counts=True)
    if len(unique) != len(index):
        raise ArgumentError(
            f"{op}: expected distinct features, got {unique[counts > 1].tolist()} more than once",
            code="feature-duplicate",
        )
    given = (a is not None) + (b is not None)
    if given != _EDIT_OPERANDS[mode] or (b is not None and a is None):
        raise ArgumentError(f"{op}: {mode} takes {_EDIT_OPERANDS[mode]} operand(s), got {given}")
    low, high = (_operand(v, len(index), op) for v in (a, b))
    if low is not None and high is not None and (low > high).any():
        at = int(np.flatnonzero(low > high)[0])
        raise ArgumentError(f"{op}: clamp expects low <= high, got {low[at]} > {high[at]} for feature {index[at]}")
    return index.astype(np.int32), low, high


def _operand(value: Any, count: int, op: str) -> Any:
    if value is None:
        return None
    array = value.detach().cpu().numpy() if is_torch(value) else np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise DtypeError(f"{op}: expected a number or {count} numbers, got {value!r}")
    array = array.astype(np.float32).reshape(-1)
    if array.size not in (1, count) or (np.ndim(array) > 1):
        raise ShapeError(f"{op}: expected a number or {count} numbers, one for each feature, got {array.size}")
    if not np.isfinite(array).all():
        raise NonFiniteError(f"{op}: expected finite numbers, got {array[~np.isfinite(array)][0]}")
    return np.broadcast_to(array, (count,)).copy()


def edit(f: SparseFeatures, features: Any, mode: str, a: Any = None, b: Any = None) -> SparseFeatures:
    """Change chosen features of every row: ``set``, ``scale``, ``clamp`` or ``ablate``.

    Args:
        f: Features ``[..., F]``; they stay as they are.
        features: One index, or n distinct ones, in ``0..F-1``.
        mode: ``set``: ``f_j ← a``; ``scale``: ``f_j ← f_j·a``; ``clamp``: ``f_j ← min(max(f_j, a), b)``; ``ablate``: 0.
        a: One number or n of them; not for ``ablate``.
        b: One number or n of them; only for ``clamp``.

    Returns:
        Features of the same form; in k-form with k + n slots for ``set`` and ``clamp``, which can wake inactive features.

    Raises:
        ArgumentError: unknown mode (``mode``), index out of range (``feature-range``) or repeated
            (``feature-duplicate``), operands that do not belong to the mode (``argument``).

    Oracle: :func:`iam.reference.clt.edit`.
    """
    trace = _trace(f)
    if trace is not None:
        return trace.op("edit", f, features, mode, a, b)  # type: ignore[no-any-return]
    op = f"SparseFeatures.{mode}"
    _check_features(f, "iam.ops.edit")
    index, low, high = _edit_arguments(f, features, mode, a, b, op)
    values = f.components[0]
    if needs_torch(values):
        out = _torch_edit(f, index, mode, low, high)
        edited = SparseFeatures(out[0].to(values.dtype), out[1], out[2], f.n_features, f.prefix, validate=False)
        return edited.with_rows_of(f)
    new, indices, offsets = native().edit(*_kernel_components(f), index, EDIT_MODES.index(mode), low, high)
    return features_from_kernel(new, indices, offsets, f.n_features, f.prefix, values).with_rows_of(f)


def _torch_edit(f: SparseFeatures, index: Any, mode: str, low: Any, high: Any) -> Any:
    torch = torch_if_loaded()
    device = f.components[0].device
    operands = [None if o is None else torch.from_numpy(o).to(device) for o in (low, high)]
    where = torch.from_numpy(index.astype(np.int64)).to(device)
    return _torch_ops().edit(*_float32_components(f, device), where, mode, *operands, f.n_features)


def delta(f: SparseFeatures, features: Any, mode: str, a: Any = None, b: Any = None) -> SparseFeatures:
    """``edit(f) − f`` in k-form with n slots, slot i for ``features[i]``. Arguments as in :func:`edit`.

    Adding ``decode(delta)`` to an activation edits it and keeps the part that the coder does not explain.
    Oracle: :func:`iam.reference.clt.delta`.
    """
    trace = _trace(f)
    if trace is not None:
        return trace.op("delta", f, features, mode, a, b)  # type: ignore[no-any-return]
    op = "iam.ops.delta"
    _check_features(f, op)
    index, low, high = _edit_arguments(f, features, mode, a, b, op)
    values = f.components[0]
    if needs_torch(values):
        torch = torch_if_loaded()
        edited = _torch_ops().densify(*_torch_edit(f, index, mode, low, high), f.n_features)
        before = _torch_ops().densify(*_float32_components(f, values.device), f.n_features)
        where = torch.from_numpy(index.astype(np.int64)).to(values.device)
        change = (edited[:, where] - before[:, where]).to(values.dtype)
        slots = where.to(torch.int32).expand(f.rows, -1).contiguous()
        return SparseFeatures(change, slots, None, f.n_features, f.prefix, validate=False)
    new, indices = native().delta(*_kernel_components(f), index, EDIT_MODES.index(mode), low, high)
    return features_from_kernel(new, indices, None, f.n_features, f.prefix, values)


def sub(f1: SparseFeatures, f2: SparseFeatures) -> SparseFeatures:
    """``f1 − f2``: two features values of one shape, both in k-form (k1 + k2 slots) or both in CSR form.

    Of features that carry ``row_scale`` and ``row_shift``, the difference carries neither: what is decoded from it is in
    the units of the normalised activations.

    Raises:
        ShapeError: different shapes.
        ArgumentError: one in k-form, the other in CSR form; NumPy and torch; different devices.

    Oracle: :func:`iam.reference.clt.sub`.
    """
    trace = _trace(f1, f2)
    if trace is not None:
        return trace.op("sub", f1, f2)  # type: ignore[no-any-return]
    op = "iam.ops.sub"
    _check_features(f1, op)
    _check_features(f2, op)
    if f1.shape != f2.shape:
        raise ShapeError(f"{op}: expected two features values of one shape, got {f1.shape} and {f2.shape}")
    if (f1.k is None) != (f2.k is None) or f1.is_torch != f2.is_torch:
        raise ArgumentError(
            f"{op}: expected both in k-form or both in CSR form, both NumPy or both torch, got "
            f"{_kind(f1)} and {_kind(f2)}"
        )
    values = f1.components[0]
    if needs_torch(values, f2.components[0]):
        device = _device(values, f2.components[0])
        out = _torch_ops().sub(_float32_components(f1, device), _float32_components(f2, device), f1.n_features)
        return SparseFeatures(out[0].to(values.dtype), out[1], out[2], f1.n_features, f1.prefix, validate=False)
    new, indices, offsets = native().sub(*_kernel_components(f1), *_kernel_components(f2))
    return features_from_kernel(new, indices, offsets, f1.n_features, f1.prefix, values)


def _kind(f: SparseFeatures) -> str:
    return f"{'torch' if f.is_torch else 'NumPy'} {'CSR' if f.k is None else f'k = {f.k}'}"


# Attribution.


def path(x: Any, baseline: Any, steps: int = 20, rule: str = "gauss_legendre") -> tuple[Any, Any]:
    """Points on the straight line from a baseline to an input, and their weights in an integral over it.

    Args:
        x: Activations ``[..., d]``.
        baseline: Where the line starts, same shape.
        steps: Number of points n, ``1..4096``; at least 2 for ``trapezoid``.
        rule: ``gauss_legendre``, ``left``, ``right``, ``midpoint`` or ``trapezoid``.

    Returns:
        Points ``[n, ..., d]``, ``baseline + α_i·(x − baseline)``, and weights ``[n]``, which sum to 1. In a function under
        :func:`iam.jit` the points are only good for :func:`grad`.

    Raises:
        ShapeError: different shapes.
        ArgumentError: unknown rule, too few or too many steps, one of NumPy and one of torch.

    Source: Sundararajan et al. 2017, arXiv:1703.01365. Oracle: :func:`iam.reference.attr.path`.
    """
    _check_mode(rule, PATH_RULES, "iam.ops.path")
    least = 2 if rule == "trapezoid" else 1
    steps = take_int(steps, what="iam.ops.path: steps", low=least, high=MAX_STEPS, error=ArgumentError, code="argument")
    trace = _trace(x, baseline)
    if trace is not None:
        return trace.op("path", x, baseline, steps, rule)  # type: ignore[no-any-return]
    from iam.reference.attr import path as reference

    _check_ends("iam.ops.path", x, baseline)
    line, weights = reference(np.zeros(1), np.ones(1), steps=steps, rule=rule)  # 1 - node
    if is_torch(x):
        torch = torch_if_loaded()
        nodes = torch.from_numpy(1 - line.reshape(steps)).to(x).reshape(steps, *[1] * x.ndim)
        return baseline + nodes * (x - baseline), torch.from_numpy(weights).to(x)
    nodes = (1 - line.reshape(steps)).astype(x.dtype).reshape(steps, *[1] * x.ndim)
    return baseline + nodes * (x - baseline), weights.astype(x.dtype)


def _check_ends(op: str, x: Any, baseline: Any) -> None:
    """What holds of both ends of a path: floats, of one shape, of one kind of array, on one device."""
    check_float(x, op=op, name="x")
    check_float(baseline, op=op, name="baseline")
    if shape_of(x) != shape_of(baseline):
        raise ShapeError(f"{op}: expected x and baseline of one shape, got {shape_of(x)} and {shape_of(baseline)}")
    _check_one_kind(op, x=x, baseline=baseline)


def _check_one_kind(op: str, **arrays: Any) -> None:
    kinds = {name: f"torch on {a.device}" if is_torch(a) else "NumPy" for name, a in arrays.items()}
    if len(set(kinds.values())) > 1:
        got = ", ".join(f"{name} of {kind}" for name, kind in kinds.items())
        raise ArgumentError(
            f"{op}: expected {' and '.join(arrays)} all of NumPy or all of torch on one device, got {got}"
        )


def grad(function: Any, x: Any, baseline: Any, points: Any, weights: Any) -> Any:
    """Integrated gradients of a function along a path: ``(x − baseline) · Σ_i w_i·∇F(points_i)``.

    Args:
        function: ``F``: takes an activation ``[rows, d]`` and returns one number for each row, for example ``y[:, j]`` or
            ``y @ v``. What it refers to is held fixed.
        x: Input ``[..., d]``.
        baseline: Where the path starts, same shape.
        points: From :func:`path`.
        weights: From :func:`path`.

    Returns:
        One attribution for each element of ``x``. The rows of one input are the gradient of the sum of ``F`` over its rows.
        When ``F`` treats rows alike, those of a row add up to ``F(x)[row] − F(baseline)[row]`` (completeness), up to the error
        of the rule.

    Raises:
        ShapeError: shapes that do not fit.
        NonFiniteError: NaN or infinity in a gradient; names the point.
        TraceError, CompileError: the function does something that has no derivative in programs; names the line.

    Gradients are float32, the sum over the path float64. On tensors of another device than the CPU, or that record gradients,
    torch differentiates ``function``.

    Source: Sundararajan et al. 2017, arXiv:1703.01365. Oracle: :func:`iam.reference.attr.grad`.
    """
    trace = _trace(x, baseline, points, weights)
    if trace is not None:
        return trace.op("grad", function, x, baseline, points, weights)
    op = "iam.ops.grad"
    _check_ends(op, x, baseline)
    check_width(x, op=op, name="x", width=None, width_name="d")
    check_float(points, op=op, name="points")
    check_float(weights, op=op, name="weights")
    _check_one_kind(op, x=x, points=points, weights=weights)
    if shape_of(points)[1:] != shape_of(x) or shape_of(weights) != shape_of(points)[:1]:
        raise ShapeError(
            f"{op}: expected points of shape [n, {', '.join(map(str, shape_of(x)))}] and n weights, got "
            f"{shape_of(points)} and {shape_of(weights)}"
        )
    if needs_torch(x, baseline, points, weights):
        return _grad_torch(function, x, baseline, points, weights)
    return _grad_compiled(function, x, baseline, points, weights)


def _grad_torch(function: Any, x: Any, baseline: Any, points: Any, weights: Any) -> Any:
    torch = torch_if_loaded()
    width = x.shape[-1]
    total = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
    for i, (point, weight) in enumerate(zip(points, weights, strict=True)):
        leaf = point.detach().reshape(-1, width).requires_grad_()
        with torch.enable_grad():
            value = function(leaf)
            _check_metric(value, leaf.shape[0])
            gradient = None
            if value.requires_grad:  # else it does not depend on x
                (gradient,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
        if gradient is None:
            continue
        bad = (~gradient.isfinite()).nonzero()
        if len(bad):
            row, column = bad[0].tolist()
            raise NonFiniteError(
                f"iam.ops.grad: expected finite gradients, got {float(gradient[row, column])} at point {i} of "
                f"{len(points)}, row {row}, column {column}"
            )
        total += weight.double() * gradient.reshape(x.shape).double()
    return ((x - baseline).double() * total).to(x.dtype)


def _check_metric(value: Any, rows: int) -> None:
    expected = f"iam.ops.grad: expected the function to return one number for each of {rows} rows"
    if not is_torch(value):
        raise ArgumentError(f"{expected}, as a tensor, got {type(value).__name__}")
    check_float(value, op="iam.ops.grad", name="the result of the function")
    if shape_of(value) != (rows,):
        raise ShapeError(f"{expected}, shape ({rows},), got {shape_of(value)}; choose a column, y[:, j], or y @ v")


def _grad_compiled(function: Any, x: Any, baseline: Any, points: Any, weights: Any) -> Any:
    """A program around ``function``, recorded for this call; its machine code is kept as that of every program."""
    from iam.compiler import jit

    def attributions(x: Any, baseline: Any, points: Any, weights: Any) -> Any:
        trace = points.__iam_trace__
        return grad(function, x, baseline, trace.op("stack", points, x, weights.shape[0]), weights)

    shape, width = shape_of(x), int(x.shape[-1])
    rows = [array.reshape(-1, width) for array in (x, baseline, points)]
    program: Any = jit(attributions, name=getattr(function, "__name__", "gradient"))
    return program(*rows, weights).reshape(shape)


def select(scores: Any, n: int) -> tuple[Any, Any]:
    """The ``n`` scores of largest magnitude in each row.

    Args:
        scores: ``[..., F]``, without NaN.
        n: ``1..F``.

    Returns:
        Indices (int32) and scores ``[..., n]``, by descending magnitude; ties go to the lowest index.

    Raises:
        ArgumentError: ``n`` outside ``1..F`` (code ``k-range``).
        NonFiniteError: NaN.

    Oracle: :func:`iam.reference.attr.select`.
    """
    trace = _trace(scores)
    if trace is not None:
        return trace.op("select", scores, n)  # type: ignore[no-any-return]
    op = "iam.ops.select"
    check_float(scores, op=op, name="scores")
    check_width(scores, op=op, name="scores", width=None, width_name="F")
    n = take_int(n, what=f"{op}: n", low=1, high=int(scores.shape[-1]), error=ArgumentError, code="k-range")
    if needs_torch(scores):
        torch = torch_if_loaded()
        if scores.isnan().any():
            row = scores.flatten(end_dim=-2) if scores.ndim > 1 else scores[None]
            at, column = row.isnan().nonzero()[0].tolist()
            raise NonFiniteError(f"{op}: expected scores without NaN, got one at row {at}, column {column}")
        order = torch.sort(-scores.abs(), dim=-1, stable=True).indices[..., :n]
        return order.int(), scores.gather(-1, order)
    rows = rows_of(scores, op=op, name="scores")
    indices, top = native().select(rows.flat, n)
    indices = indices.reshape(*rows.prefix, n)
    return (torch_if_loaded().from_numpy(indices) if is_torch(scores) else indices), rows.restore(top)


def integrated_gradients(
    function: Any, x: Any, baseline: Any = None, *, steps: int = 20, rule: str = "gauss_legendre"
) -> Any:
    """:func:`grad` along :func:`path`: how much each element of ``x`` contributes to ``function``.

    Args:
        function: See :func:`grad`.
        x: Input ``[..., d]``.
        baseline: What it is compared with; zeros by default.
        steps: Points of the path.
        rule: See :func:`path`.

    >>> v = np.array([1.0, 2.0], np.float32)
    >>> integrated_gradients(lambda h: (h * h) @ v, np.array([[1.0, 3.0]], np.float32), steps=2)  # doctest: +SKIP
    array([[ 1., 18.]], dtype=float32)
    """
    if _trace(x) is None:
        check_float(x, op="iam.ops.integrated_gradients", name="x")
        check_width(x, op="iam.ops.integrated_gradients", name="x", width=None, width_name="d")
    start = 0 * x if baseline is None else baseline
    points, weights = path(x, start, steps, rule)
    return grad(function, x, start, points, weights)
