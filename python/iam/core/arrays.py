"""From the user's array to the kernels' and back: NumPy or torch, any leading dimensions, any float type.

The kernels take float32 ``[rows, width]`` in host memory. A contiguous float32 array on the CPU is passed as it is (no
copy); other float types are converted and the result is converted back to the type that came in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from iam.core.errors import DtypeError, ShapeError
from iam.core.lazy import is_torch, torch_if_loaded

__all__ = ["Rows", "as_float32", "check_float", "from_numpy", "needs_torch", "rows_of", "shape_of"]


def shape_of(x: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in x.shape)


def check_float(x: Any, *, op: str, name: str) -> None:
    """Raise DtypeError unless ``x`` is a NumPy array or torch tensor of floats."""
    if is_torch(x):
        if not x.is_floating_point():
            raise DtypeError(
                f"{op}: expected {name} of a float type, got {x.dtype} of shape {shape_of(x)}; convert it with .float()"
            )
        if x.layout is not torch_if_loaded().strided:
            raise DtypeError(f"{op}: expected {name} as a dense tensor, got layout {x.layout}; use .to_dense()")
    elif isinstance(x, np.ndarray):
        if x.dtype.kind != "f":
            raise DtypeError(
                f"{op}: expected {name} of a float type, got {x.dtype} of shape {x.shape}; convert it with "
                ".astype(np.float32)"
            )
    else:
        raise DtypeError(f"{op}: expected {name} to be a NumPy array or a torch tensor, got {type(x).__name__}")


def needs_torch(*arrays: Any) -> bool:
    """Whether the kernels cannot take these: a tensor on another device, or one whose gradient is being recorded."""
    for x in arrays:
        if is_torch(x) and (x.device.type != "cpu" or (x.requires_grad and torch_if_loaded().is_grad_enabled())):
            return True
    return False


def as_float32(x: Any) -> npt.NDArray[np.float32]:
    """A checked CPU array as float32 NumPy; shares memory when it already is."""
    if is_torch(x):
        torch = torch_if_loaded()
        x = x.detach()
        if x.is_neg():
            x = x.resolve_neg()
        return x.numpy() if x.dtype == torch.float32 else x.to(torch.float32).numpy()  # type: ignore[no-any-return]
    with np.errstate(over="ignore"):  # beyond float32: inf, which the kernels name
        return np.asarray(x, dtype=np.float32)


def from_numpy(result: npt.NDArray[Any], like: Any) -> Any:
    """``result`` as the kind of array that ``like`` is, floats in the float type of ``like``."""
    if is_torch(like):
        tensor = torch_if_loaded().from_numpy(result)
        return tensor.to(like.dtype) if tensor.is_floating_point() and like.is_floating_point() else tensor
    if result.dtype.kind == "f" and isinstance(like, np.ndarray) and like.dtype.kind == "f":
        return result.astype(like.dtype, copy=False)
    return result


@dataclass(frozen=True, slots=True)
class Rows:
    """An array seen as rows: ``flat [rows, width]`` and the leading dimensions to restore."""

    flat: npt.NDArray[np.float32]
    prefix: tuple[int, ...]
    like: Any

    def restore(self, result: npt.NDArray[np.float32]) -> Any:
        """``[rows, n]`` to ``[*prefix, n]``, in the kind and float type that came in."""
        return from_numpy(result.reshape(*self.prefix, result.shape[-1]), self.like)


def rows_of(x: Any, *, op: str, name: str, width: int | None = None, width_name: str = "d_in") -> Rows:
    """See ``x [..., width]`` as rows.

    Raises:
        DtypeError: not an array of floats.
        ShapeError: no dimension (``shape``) or another width (``width``).
    """
    check_float(x, op=op, name=name)
    check_width(x, op=op, name=name, width=width, width_name=width_name)
    prefix = shape_of(x)[:-1]
    return Rows(as_float32(x).reshape(math.prod(prefix), x.shape[-1]), prefix, x)


def check_width(x: Any, *, op: str, name: str, width: int | None, width_name: str) -> None:
    """Raise ShapeError unless the last dimension of ``x`` is ``width``."""
    if x.ndim < 1:
        raise ShapeError(f"{op}: expected {name} with at least one dimension, got a scalar")
    if width is not None and x.shape[-1] != width:
        raise ShapeError(
            f"{op}: expected {name} of shape [..., {width}] ({width_name}), got {shape_of(x)}", code="width"
        )
