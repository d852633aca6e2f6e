"""What a program computes of its weights only: once for each set of weights, and kept until they change.

``iam-hoist-weights`` splits a program in two: an init function, and the program, which takes what the init function returns as
further arguments. A set of weights is the same as long as its arrays are the same objects and were not written into:

* torch tensors count their in-place operations, and may move; both are compared. What is written through ``.data`` or through a
  NumPy array that shares the memory is not counted.
* NumPy arrays count nothing. Up to ``_EXACT`` elements all of them are compared; of a larger one, that or what it is a view of
  can be written to, 128 bits that depend on all of its memory. They cost one pass over it, which is less than the init function
  does with it: a transpose takes ten times as long and more.

:meth:`Once.forget` is for what is not noticed.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from iam.core.lazy import is_torch, native

__all__ = ["Once"]

_EXACT = 4096
"""Elements up to which a NumPy array is compared as a whole, about a microsecond."""

_MOST = 4
"""Sets of weights for which results are kept; the least recently used goes."""


class _Kept(NamedTuple):
    weights: tuple[weakref.ref[Any], ...]
    state: tuple[Any, ...]
    values: tuple[Any, ...]

    def is_of(self, weights: Sequence[Any], state: tuple[Any, ...]) -> bool:
        return self.state == state and all(ref() is weight for ref, weight in zip(self.weights, weights, strict=True))


class Once:
    """Runs an init function when it has to.

    Args:
        init: ``iam._runtime.Program``; takes weights as arrays, returns what is kept.
    """

    def __init__(self, init: Any) -> None:
        self._init = init
        self._lock = threading.Lock()
        self._kept: tuple[_Kept, ...] = ()
        self.runs = 0  # of the init function

    def values(self, weights: Sequence[Any], arrays: Sequence[np.ndarray]) -> tuple[Any, ...]:
        """The components of what depends on ``weights``, the user's objects, whose content is in ``arrays``.

        Raises:
            IamError: what the init function's ops raise; nothing is kept then, and the next call tries again.
        """
        state = tuple([_state(weight, array) for weight, array in zip(weights, arrays, strict=True)])
        for kept in self._kept:
            if kept.is_of(weights, state):
                return kept.values
        with self._lock:
            for kept in self._kept:
                if kept.is_of(weights, state):
                    return kept.values
            values: tuple[Any, ...] = self._init(*arrays)
            self.runs += 1
            try:
                made = _Kept(tuple([weakref.ref(weight) for weight in weights]), state, values)
            except TypeError:  # an object without weak references may be another one at its address later
                return values
            alive = [
                k for k in self._kept if all(ref() is not None for ref in k.weights) and not k.is_of(weights, k.state)
            ]
            self._kept = (made, *alive[: _MOST - 1])
            return values

    def forget(self) -> None:
        """Compute everything again at the next call."""
        with self._lock:
            self._kept = ()


def _state(weight: Any, array: np.ndarray) -> Any:
    """What is different after ``weight``, whose content is ``array``, was written into."""
    if is_torch(weight) and not weight.is_inference():  # of inference mode it counts nothing, either
        return weight._version, weight.data_ptr()
    if array.size <= _EXACT:
        return array.tobytes()
    if isinstance(weight, np.ndarray) and _is_constant(weight):
        return None
    return native().fingerprint(np.ascontiguousarray(array))


def _is_constant(array: np.ndarray) -> bool:
    """Whether neither ``array`` nor what it is a view of can be written to."""
    found: Any = array
    while isinstance(found, np.ndarray):
        if found.flags.writeable:
            return False
        found = found.base
    return found is None
