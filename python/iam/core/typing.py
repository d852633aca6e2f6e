"""Names for the array types of IAM's public functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from typing import TypeAlias

    import torch

    Array: TypeAlias = np.ndarray[Any, Any] | torch.Tensor

__all__ = ["Array", "ArrayT", "FloatArray", "IntArray"]

FloatArray = npt.NDArray[np.floating[Any]]
"""A NumPy array of floats."""

IntArray = npt.NDArray[np.integer[Any]]
"""A NumPy array of integers."""

ArrayT = TypeVar("ArrayT")
"""A NumPy array or a torch tensor: the kind that came in goes out."""

if not TYPE_CHECKING:
    Array = Any
