"""A finished recording: inputs, nodes and results, without the objects that they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from iam.compiler._trace import FeaturesType, Input, ModelType, Node, PathType, ScalarType, Type, Value

__all__ = ["Recorded"]


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """A program.

    Attributes:
        donated: Input number -> number of the result that is written into its memory.
    """

    name: str
    inputs: Sequence[Input]
    nodes: Sequence[Node]
    results: Sequence[Value]
    donated: dict[int, int]

    def fingerprint(self) -> str | None:
        """A text that is equal for two programs with equal machine code, whatever their values and lines are called.

        None if an attribute has no text of its own.
        """
        lines = _lines((*self.inputs, *self.nodes), self.results)
        if lines is None:
            return None
        lines.append(f"donated {sorted(self.donated.items())}")
        return "\n".join(lines)


def _lines(values: Sequence[Value], results: Sequence[Value]) -> list[str] | None:
    """One line for each value; None if an attribute has no text."""
    numbers: dict[Value, int] = {}
    lines = []
    for value in values:
        numbers[value] = len(numbers)
        if not isinstance(value, Node):
            lines.append(_type(value.type) + (" weight" if isinstance(value, Input) and value.is_weight else ""))
            continue
        nested = value.attributes.get("callee")
        attributes = _plain({name: item for name, item in value.attributes.items() if name != "callee"})
        if attributes is None:
            return None
        operands = ["-" if v is None else str(numbers[v]) for v in value.operands]
        lines.append(f"{value.op}({','.join(operands)}) {attributes} : {_type(value.type)}")
        if nested is not None:
            inner = _lines((nested.parameter, *nested.captures, *nested.nodes), [nested.result])
            if inner is None:
                return None
            lines += ["  " + line for line in inner]
    lines.append("return " + ",".join(str(numbers[value]) for value in results))
    return lines


def _type(type: Type) -> str:
    if isinstance(type, ScalarType):
        return "f32"
    if isinstance(type, ModelType):
        return "model"
    if isinstance(type, PathType):
        return f"path {type.steps} {_type(type.point)}"
    rows = "" if type.rows is None else f"{'?' if type.rows.size is None else type.rows.size}x"
    if isinstance(type, FeaturesType):
        return f"features {rows}{type.n_features} k={type.k}"
    return f"tensor {rows}{type.dims} {type.element}"


def _plain(value: Any) -> str | None:
    """``value`` as text, if it is made of numbers, words and containers of them."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    if isinstance(value, dict):
        items = [_plain(item) for pair in sorted(value.items()) for item in pair]
    elif isinstance(value, (list, tuple)):
        items = [_plain(item) for item in value]
    else:
        return None
    return None if None in items else f"{type(value).__name__}({','.join(str(item) for item in items)})"
