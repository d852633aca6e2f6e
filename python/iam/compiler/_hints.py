"""What to write instead of something that cannot be recorded."""

from __future__ import annotations

__all__ = ["hint_for"]

SUPPORTED = (
    "Supported: + - * / with tensors, vectors and numbers, x @ vector, columns x[:, j], coders (encode, decode), "
    "the functions of iam.ops."
)

_HINTS: dict[str, str] = {}


def _say(names: str, hint: str) -> None:
    for name in names.split():
        _HINTS[name] = hint


_say(
    "sum mean max min amax amin std var prod norm linalg_norm argmax argmin argsort sort any all count_nonzero nonzero "
    "median quantile cumsum average square_norm vector_norm",
    "Programs keep every row and its width: return the tensor and reduce the result outside of the function.",
)
_say(
    "detach clone contiguous float to cpu copy astype half double bfloat16 type requires_grad_ ascontiguousarray "
    "asarray array as_tensor numpy",
    "A traced value is float32 in host memory and never changes: leave it out.",
)
_say("item tolist", "Its numbers do not exist while the function is being recorded: return it and read the result.")
_say(
    "reshape view flatten ravel T mT transpose permute swapaxes squeeze unsqueeze expand repeat tile expand_dims "
    "moveaxis broadcast_to unflatten",
    "A program sees [rows, d], and its results have the leading dimensions of the arguments: reshape outside.",
)
_say("relu", "iam.ops.relu(x) gives the features of a ReLU; .to_dense() makes them a tensor again.")
_say("topk", "iam.ops.topk(x, k) gives features; .to_dense() makes them a tensor again.")
_say(
    "exp log log1p expm1 tanh sigmoid softmax log_softmax gelu silu sqrt rsqrt square abs absolute sign sin cos pow "
    "power layer_norm rms_norm normalize",
    "The dialect has no op for it: compute it outside, before or after the compiled function.",
)
_say(
    "clamp clip where maximum minimum fmax fmin masked_fill heaviside isnan isfinite isinf",
    "Numbers of features are limited with .clamp(features, low, high); of activations, outside of the function.",
)
_say(
    "matmul dot einsum linear mm bmm inner outer tensordot vdot addmm",
    "An activation times a vector [d] is x @ v. Matrix products are recorded through coders or "
    'iam.ops.encode(x, W, b); a component along a direction is changed with iam.steer(x, v, s, "ablate").',
)
_say(
    "cat concatenate concat stack vstack hstack split chunk index_select gather scatter take",
    "Programs act on whole rows: return the parts and join or cut the results outside.",
)
_say("values indices offsets components rows", "Return the features; the result has them.")
_say(
    "zeros_like ones_like full_like empty_like",
    "Numbers and vectors combine with every row: write 0.0 * x, or x + v.",
)
_say("encode decode", "Coders encode activations [rows, d] and decode features.")


def hint_for(name: str) -> str:
    """What to do about the attribute or function ``name`` of NumPy or torch."""
    if name in _HINTS:
        return _HINTS[name]
    if name.endswith("_") and not name.startswith("_") and not name.endswith("__"):
        return f"Traced values do not change: write a new one, as x = x + y. {SUPPORTED}"
    return SUPPORTED
