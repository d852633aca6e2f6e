"""Donated arguments: memory of the caller that a program writes a result into.

Only where it saves something and changes nothing: the result is made element by element, has the argument's shape, and
nobody else reads the memory. Everything else is refused with its reason.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from iam.compiler._trace import Input, Node, TensorType, Value
from iam.core.errors import ArgumentError
from iam.core.lazy import is_torch

__all__ = ["check_memory", "pair"]


def _refuse(name: str, argument: str, reason: str) -> NoReturn:
    raise ArgumentError(f"iam.jit({name}): argument {argument} cannot be donated: {reason}")


def _is_elementwise(value: Value) -> bool:
    """Whether the value is made by one loop, which can write over what it reads."""
    if not isinstance(value, Node):
        return False
    if value.op == "iam.policy.steer":
        return bool(value.attributes["mode"] == "add")
    if value.op == "iam.clt.residual":
        return len(value.operands) < 3 or value.operands[2] is None
    return value.op.startswith("arith.")


def _made_by(value: Value) -> str:
    if not isinstance(value, Node):
        return "an argument"
    mode = value.attributes.get("mode")
    where = f" at {value.frames[0]}" if value.frames else ""
    return f"{value.op}{f' {mode}' if mode else ''}{where}"


def pair(name: str, donated: list[tuple[int, Input, str]], results: list[Value]) -> dict[int, int]:
    """Which result is written into which donated input: the first that fits and is not taken.

    Args:
        donated: ``(input number, input, name)``.

    Raises:
        ArgumentError: no result can be written there.
    """
    pairs: dict[int, int] = {}
    for number, value, argument in donated:
        if not isinstance(value.type, TensorType) or value.type.rows is None:
            _refuse(name, argument, f"only activations [rows, d] are, this is {value.type}")
        fitting = [
            i
            for i, result in enumerate(results)
            if isinstance(result.type, TensorType)
            and result.type.rows is not None
            and result.type.rows.root() is value.type.rows.root()
            and result.type.dims == value.type.dims
            and i not in pairs.values()
        ]
        if not fitting:
            shapes = ", ".join(str(result.type) for result in results)
            _refuse(name, argument, f"no result has its shape {value.type} and its rows; results are {shapes}")
        found = next((i for i in fitting if _is_elementwise(results[i])), None)
        if found is None:
            _refuse(
                name,
                argument,
                f"the result is made by {_made_by(results[fitting[0]])}, which needs memory of its own; results of + - * /, "
                "residual and steer add are made in place",
            )
        pairs[number] = found
    return pairs


def check_memory(leaf: Any, components: list[Any], at: int, what: str) -> None:
    """Whether the program may write into the memory of ``leaf``, which is ``components[at]``.

    Raises:
        ArgumentError: it would not be the caller's memory, is read-only, or is read by the program under another name.
    """
    reason = None
    if is_torch(leaf):
        if str(leaf.dtype) != "torch.float32":
            reason = f"it is {leaf.dtype}, and programs compute in float32"
        elif leaf.requires_grad:
            reason = "its gradient is recorded"
        elif not leaf.is_contiguous():
            reason = "it is not contiguous"
    elif leaf.dtype != np.float32:
        reason = f"it is {leaf.dtype}, and programs compute in float32"
    elif not leaf.flags.c_contiguous:
        reason = "it is not contiguous"
    elif not leaf.flags.writeable:
        reason = "it is read-only"
    if reason is None:
        mine = components[at]
        for i, other in enumerate(components):
            if i != at and isinstance(other, np.ndarray) and np.may_share_memory(mine, other):
                reason = f"input {i} of the program shares memory with it"
    if reason is not None:
        raise ArgumentError(
            f"{what} cannot be donated: {reason}; pass a copy, or call a function that does not donate it"
        )
