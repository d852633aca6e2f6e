"""Recording of attribution: parts of a model, paths, gradients of nested functions, columns and row products.

A nested function is recorded like the one around it, into nodes of its own; what it uses of the outer function, coders and
arrays included, becomes its captured values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from iam.compiler._trace import (
    ModelType,
    Node,
    PathType,
    Rows,
    ScalarType,
    TensorType,
    Trace,
    TracedPath,
    TracedPrompt,
    TracedTensor,
    Value,
    describe,
)
from iam.core.errors import ArgumentError
from iam.core.sites import Site

__all__ = ["Nested", "columns", "record_grad", "record_path", "record_select", "record_stack", "row_products", "run"]


@dataclass(frozen=True, slots=True, eq=False)
class Nested:
    """A function inside of a program: ``parameter`` and ``captures`` are its arguments, in this order."""

    name: str
    parameter: Value
    captures: Sequence[Value]
    nodes: Sequence[Node]
    result: Value


def columns(trace: Trace, x: TracedTensor, index: Any) -> TracedTensor:
    """``x[:, j]`` and ``x[:, a:b:c]``."""
    value = trace.own(x)
    type = value.type
    assert isinstance(type, TensorType)
    hint = "All rows, and one column or a slice of them: x[:, 3], x[:, 2:5], x[..., 3]."
    if type.rows is None or len(type.dims) != 1 or type.element != "f32":
        trace.fail(f"no indexing of {x!r}", "Index the arguments before the call, or the results after it.")
    if not isinstance(index, tuple) or len(index) != 2 or not (index[0] is Ellipsis or index[0] == slice(None)):
        trace.fail(f"no indexing of {x!r} with {index!r:.60}", hint)
    chosen = index[1]
    if isinstance(chosen, slice):
        start, stop, step = chosen.indices(type.width)
        count = len(range(start, stop, step))
        if step < 1 or count < 1:
            trace.fail(f"{x!r}[:, {chosen.start}:{chosen.stop}:{chosen.step}] has no columns in order", hint)
        attributes = {"first": start, "count": count, "step": step}
        result: TracedTensor = trace.node("columns", (value,), TensorType(type.rows, (count,)), **attributes)
        return result
    if isinstance(chosen, bool) or not hasattr(chosen, "__index__"):
        trace.fail(f"no indexing of {x!r} with {index!r:.60}", hint)
    column = chosen.__index__()
    if not -type.width <= column < type.width:
        trace.fail(f"{x!r} has no column {column}", f"Columns are {-type.width}..{type.width - 1}.")
    attributes = {"first": column % type.width, "count": 1, "step": 1}
    result = trace.node("columns", (value,), TensorType(type.rows, ()), **attributes)
    return result


def row_products(trace: Trace, x: TracedTensor, v: Any) -> TracedTensor:
    """``x @ v``: the inner product of each row with a vector."""
    value, type = trace.activation(x, "@")
    if getattr(v, "ndim", None) != 1:
        trace.fail(
            f"no {x!r} @ {describe(v)}",
            "An activation times a vector [d] is a number for each row. Matrix products are recorded through coders or "
            "iam.ops.encode(x, W, b).",
        )
    vector = trace.vector(v, type.width, "@: the vector")
    result: TracedTensor = trace.node("row_products", (value, vector), TensorType(type.rows, ()))
    return result


def run(
    trace: Trace, prompt: TracedPrompt, h: Any, *, from_: Any, to: Any, tokens: Any, positions: Any
) -> TracedTensor:
    """``prompt.run(...)``."""
    handle = trace.own(prompt)
    assert isinstance(handle.type, ModelType)
    start, end, tokens, positions = prompt._prompt.check(h is not None, from_, to, tokens, positions)
    operands = [handle]
    rows = handle.type.rows
    if h is not None:
        value, type = trace.activation(h, "Prompt.run: h")
        width = prompt._prompt.model.width(start)
        if type.width != width:
            trace._shape_error(f"Prompt.run: expected h of width {width} at {start}, got {type}")
        _check_place(trace, value, start)
        assert type.rows is not None
        operands.append(value)
        rows = type.rows
    if positions is not None:
        rows = Rows(derived=True)
    attributes: dict[str, Any] = {"to": "logits" if end is None else str(end)}
    if start is not None:
        attributes["from"] = str(start)
    if tokens is not None:
        attributes["tokens"] = tuple(tokens)
    if positions is not None:
        attributes["positions"] = tuple(positions)
    result: TracedTensor = trace.node(
        "iam.model.run", operands, TensorType(rows, (prompt._prompt.width_at(end, tokens),)), **attributes
    )
    if end is not None:
        lines = trace.frames()
        trace.places.put(result._value, end, "the model that ran to it" + (f" at {lines[0]}" if lines else ""))
    return result


def _check_place(trace: Trace, value: Value, start: Site) -> None:
    found = trace.places.site_of(value)
    if found is not None and found != start:
        trace.places.refuse(
            f"Prompt.run: h is an activation of {found} and is put in at {start}", f"Give from_={str(found)!r}"
        )


def record_path(trace: Trace, x: Any, baseline: Any, steps: int, rule: str) -> tuple[TracedPath, TracedTensor]:
    """Points and weights."""
    value, type = trace.activation(x, "path: x")
    start, other = trace.activation(baseline, "path: baseline")
    trace._same_rows(type, other, "path")
    path = trace.node("iam.attr.path", (value, start), PathType(steps, type), steps=steps, rule=rule)
    weights = trace.node("weights_of", (path._value,), TensorType(None, (steps,)))
    return path, weights


def record_stack(trace: Trace, points: Any, x: Any, steps: int) -> TracedPath:
    """Points that are an argument, ``[steps·rows, d]``, as a path of ``x``."""
    value, type = trace.activation(points, "grad: points")
    like, of_x = trace.activation(x, "grad: x")
    if type.dims != of_x.dims:
        trace._shape_error(f"grad: expected points of width {of_x.width}, got {type}")
    result: TracedPath = trace.node("stack", (value, like), PathType(steps, of_x))
    return result


def record_grad(
    trace: Trace, function: Callable[..., Any], x: Any, baseline: Any, points: Any, weights: Any
) -> TracedTensor:
    """Integrated gradients of ``function``, which is recorded as a function of its own."""
    value, type = trace.activation(x, "grad: x")
    start, other = trace.activation(baseline, "grad: baseline")
    trace._same_rows(type, other, "grad")
    if not isinstance(points, TracedPath):
        trace.fail(f"grad: expected the points of iam.ops.path, got {describe(points)}", "Call iam.ops.path(x, ...).")
    path = trace.own(points)
    assert isinstance(path.type, PathType)
    if path.type.point.dims != type.dims:
        trace._shape_error(f"grad: expected points of type {type}, got {path.type.point}")
    vector = trace.vector(weights, path.type.steps, "grad: weights")
    nested = _record_nested(trace, function, type, value)
    operands = (value, start, path, vector, *nested.captures)
    result: TracedTensor = trace.node("iam.attr.grad", operands, type, callee=nested)
    return result


def _record_nested(trace: Trace, function: Callable[..., Any], type: TensorType, like: Value) -> Nested:
    name = getattr(function, "__name__", "metric")
    if not callable(function):
        trace.fail(f"grad: expected a function, got {describe(function)}", "It takes an activation, returns numbers.")
    parameter = Value(type)
    site = trace.places.site_of(like)
    if site is not None:
        trace.places.put(parameter, site, "the activation whose attributions are asked for")
    outer, trace.nodes = trace.nodes, []
    try:
        returned = function(trace._wrap(parameter))
        nodes = trace.nodes
    finally:
        trace.nodes = outer
    if not isinstance(returned, TracedTensor):
        trace.fail(
            f"grad: {name} returned {describe(returned)}",
            "Return one number for each row: y[:, j], y @ v, or sums of them.",
        )
    result = trace.own(returned)
    assert isinstance(result.type, TensorType)
    if result.type.rows is None or result.type.dims:
        trace.fail(
            f"grad: {name} returned {returned!r}, which is not one number for each row",
            "Choose a column, y[:, j], or take an inner product, y @ v.",
        )
    inside: set[Value] = {parameter, *nodes}
    trace.gone |= inside
    used = [value for node in nodes for value in node.operands if value is not None]
    captures = [value for value in dict.fromkeys([*used, result]) if value not in inside]
    return Nested(name, parameter, captures, nodes, result)


def record_select(trace: Trace, scores: Any, n: int) -> tuple[TracedTensor, TracedTensor]:
    """Indices and scores."""
    value, type = trace.activation(scores, "select: scores")
    if not 1 <= n <= type.width:
        raise ArgumentError(
            f"iam.jit({trace.name}): select: expected n in 1..{type.width} (scores), got {n} ({trace.where()})",
            code="k-range",
        )
    indices = trace.node("iam.attr.select", (value,), TensorType(type.rows, (n,), "i32"), n=n)
    top = trace.node("top_of", (indices._value,), TensorType(type.rows, (n,)))
    return indices, top


def types_of(node: Node) -> tuple[TensorType | ScalarType, ...]:
    """The result types of ops that have two results."""
    if isinstance(node.type, PathType):
        return (node.type.point, TensorType(None, (node.type.steps,)))
    assert isinstance(node.type, TensorType)
    return (node.type, TensorType(node.type.rows, node.type.dims))
