"""From a recorded program to a module in the ``iam`` dialect, through ``iam.mlir``.

The function has one argument per input of the trace and one result per returned value. Every op carries the Python
lines that made it: the innermost as its location, the calls that led there as call sites.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from iam.compiler._attribution import Nested, types_of
from iam.compiler._engine import ir
from iam.compiler._recorded import Recorded
from iam.compiler._trace import (
    FeaturesType,
    Input,
    ModelType,
    Node,
    PathType,
    ScalarType,
    SourceLine,
    TensorType,
    Type,
    Value,
)
from iam.ops import COMPOSE_RULES, EDIT_MODES, PATH_RULES, SET_KINDS, STEER_MODES

__all__ = ["build_module"]


def build_module(program: Recorded) -> tuple[Any, Any]:
    """The module and its function, called as the program is. Needs the engine's lock and context."""
    from iam.mlir.dialects import func

    mlir = ir()
    with mlir.Location.unknown():
        module = mlir.Module.create()
        builder = _Builder(module)
        with mlir.InsertionPoint(module.body):
            inputs = [builder.input_type(value.type, i in program.donated) for i, value in enumerate(program.inputs)]
            kept = [value for i, value in enumerate(program.results) if i not in program.donated.values()]
            outputs = [builder.type(value.type) for value in kept]
            function = func.FuncOp(program.name, mlir.FunctionType.get(inputs, outputs))
            names = [mlir.Location.name(value.name) for value in program.inputs]
            block = function.add_entry_block(names)
            weight, nothing = {"iam.weight": mlir.UnitAttr.get()}, dict[str, Any]()
            marks = [mlir.DictAttr.get(weight if value.is_weight else nothing) for value in program.inputs]
            function.arg_attrs = mlir.ArrayAttr.get(marks)
        builder.values.update(zip(program.inputs, block.arguments, strict=True))
        with mlir.InsertionPoint(block):
            for i in program.donated:
                builder.open_donated(program.inputs[i])
            for node in program.nodes:
                with builder.location(node.frames):
                    builder.values[node] = builder.node(node)
            for i, result in program.donated.items():
                builder.write_donated(program.inputs[i], program.results[result], block.arguments[i])
            func.ReturnOp([builder.values[value] for value in kept])
    return module, function


class _Builder:
    def __init__(self, module: Any) -> None:
        self._module = module
        self.values: dict[Input | Node | Value, Any] = {}
        self._rows: dict[Value, Any] = {}
        self._types: dict[Any, Any] = {}
        self._statistics: dict[tuple[Value, str], tuple[Any, Any]] = {}
        mlir = ir()
        self._f32 = mlir.F32Type.get()
        self._f64 = mlir.F64Type.get()
        self._index = mlir.IndexType.get()

    def type(self, type: Type) -> Any:
        mlir = ir()
        if isinstance(type, ScalarType):
            return self._f32
        if isinstance(type, ModelType):
            return mlir.Type.parse("!iam.model")
        if isinstance(type, PathType):
            point = self.type(type.point)
            return mlir.RankedTensorType.get([type.steps, *point.shape], self._f32)
        size = None if type.rows is None else type.rows.size
        key = (
            (type.rows is None, size, type.dims, type.element)
            if isinstance(type, TensorType)
            else ("features", size, type.n_features, type.k)
        )
        found = self._types.get(key)
        if found is None:
            if isinstance(type, FeaturesType):
                from iam.mlir.dialects.iam import FeaturesType as Features

                found = Features.get(size, type.n_features, self._f32, type.k)
            else:
                rows = [] if type.rows is None else [mlir.ShapedType.get_dynamic_size() if size is None else size]
                element = self._f32 if type.element == "f32" else mlir.IntegerType.get_signless(32)
                found = mlir.RankedTensorType.get([*rows, *type.dims], element)
            self._types[key] = found
        return found

    # Donated arguments are memory that the program may write into.

    def input_type(self, type: Type, is_donated: bool) -> Any:
        found = self.type(type)
        return ir().MemRefType.get(found.shape, self._f32) if is_donated else found

    def open_donated(self, value: Input) -> None:
        """Make the memory a tensor for the rest of the program."""
        ir().Context.current.dialects["bufferization"]  # loads it
        found = ir().Operation.create(
            "bufferization.to_tensor",
            results=[self.type(value.type)],
            operands=[self.values[value]],
            attributes=_in_place(),
        )
        self.values[value] = found.result

    def write_donated(self, value: Input, result: Value, memory: Any) -> None:
        """Write ``result`` into the memory of ``value``: first as tensors, so that it is made in place where it can be."""
        name = "bufferization.materialize_in_destination"
        operands = [self.values[result], self.values[value]]
        placed = ir().Operation.create(name, results=[self.type(value.type)], operands=operands).result
        ir().Operation.create(name, results=[], operands=[placed, memory], attributes=_in_place())

    @staticmethod
    def location(frames: tuple[SourceLine, ...]) -> Any:
        mlir = ir()
        if not frames:
            return mlir.Location.unknown()
        first, *callers = (mlir.Location.file(frame.file, frame.line, frame.column) for frame in frames)
        return mlir.Location.callsite(first, callers) if callers else first

    def node(self, node: Node) -> Any:
        if node.op.startswith("iam."):
            return self._iam(node)
        if node.op.startswith("arith."):
            return self._elementwise(node)
        made = getattr(self, f"_{node.op}")
        return made(node)

    # Numbers.

    def _constant(self, node: Node) -> Any:
        from iam.mlir.dialects import arith

        return arith.ConstantOp(self._f32, ir().FloatAttr.get(self._f32, node.attributes["value"])).result

    def _constants(self, node: Node) -> Any:
        from iam.mlir.dialects import arith

        mlir = ir()
        numbers = [mlir.FloatAttr.get(self._f32, value) for value in node.attributes["values"]]
        type = self.type(node.type)
        return arith.ConstantOp(type, mlir.DenseElementsAttr.get(numbers, type)).result

    def _from_elements(self, node: Node) -> Any:
        from iam.mlir.dialects import tensor

        return tensor.FromElementsOp(self.type(node.type), [self._operand(v) for v in node.operands]).result

    # Elementwise.

    def _operand(self, value: Value | None) -> Any:
        assert value is not None
        return self.values[value]

    def _row_count(self, value: Value) -> Any:
        """The number of rows of ``value`` as an index."""
        from iam.mlir.dialects import arith, tensor

        found = self._rows.get(value)
        if found is None:
            zero = arith.ConstantOp(self._index, ir().IntegerAttr.get(self._index, 0)).result
            found = self._rows[value] = tensor.DimOp(self.values[value], zero).result
        return found

    def _elementwise(self, node: Node) -> Any:
        from iam.mlir.dialects import arith

        operation = {
            "arith.addf": arith.AddFOp,
            "arith.subf": arith.SubFOp,
            "arith.mulf": arith.MulFOp,
            "arith.divf": arith.DivFOp,
            "arith.negf": arith.NegFOp,
        }[node.op]
        operands = [self._broadcast(value, node) for value in node.operands if value is not None]
        return operation(*operands).result

    def _broadcast(self, value: Value, node: Node) -> Any:
        """``value`` in the type of ``node``: a number or a vector repeated for every row."""
        from iam.mlir.dialects import linalg, tensor

        found = self.values[value]
        if not isinstance(node.type, TensorType):
            return found
        type = self.type(node.type)
        sizes = []
        if node.type.rows is not None and node.type.rows.size is None:
            with_rows = next(
                v for v in node.operands if v is not None and isinstance(v.type, TensorType) and v.type.rows is not None
            )
            if value.type != node.type and not (isinstance(value.type, TensorType) and value.type.rows is not None):
                sizes = [self._row_count(with_rows)]
        if isinstance(value.type, ScalarType):
            return tensor.SplatOp(type, found, sizes).result
        assert isinstance(value.type, TensorType)
        if value.type.rows is None and node.type.rows is not None:
            rows = sizes or [node.type.rows.size]
            target = tensor.EmptyOp([*rows, *node.type.dims], self._f32).result
            return linalg.broadcast(found, outs=[target], dimensions=[0]).results[0]
        return found

    # Normalisation by the statistics of a row: float64 in the loops, as eager coders compute.

    def _generic(self, inputs: Sequence[tuple[Any, str]], out: Any, where: str, body: Callable[..., Any]) -> Any:
        """``linalg.generic`` over rows and columns; ``where`` an operand is read or written: ``rc``, ``r`` or ``r0``."""
        from iam.mlir.dialects import linalg

        mlir = ir()
        maps = {"rc": "(r, c) -> (r, c)", "r": "(r, c) -> (r)", "r0": "(r, c) -> (r, 0)"}
        affine = [mlir.Attribute.parse(f"affine_map<{maps[name]}>") for name in (*(n for _, n in inputs), where)]
        columns = "reduction" if where == "r" else "parallel"
        iterators = [mlir.Attribute.parse(f"#linalg.iterator_type<{kind}>") for kind in ("parallel", columns)]
        operands = [value for value, _ in inputs]
        op = linalg.GenericOp([out.type], operands, [out], mlir.ArrayAttr.get(affine), mlir.ArrayAttr.get(iterators))
        elements = [value.type.element_type for value in (*operands, out)]
        block = op.regions[0].blocks.append(*elements)
        with mlir.InsertionPoint(block):
            linalg.YieldOp([body(*block.arguments)])
        return op.results[0]

    def _empty(self, x: Value, dims: Sequence[int], element: Any) -> Any:
        from iam.mlir.dialects import tensor

        assert isinstance(x.type, TensorType)
        assert x.type.rows is not None
        rows = self._row_count(x) if x.type.rows.size is None else x.type.rows.size
        return tensor.EmptyOp([rows, *dims], element).result

    def _double(self, number: float) -> Any:
        from iam.mlir.dialects import arith

        return arith.ConstantOp(self._f64, ir().FloatAttr.get(self._f64, number)).result

    def _row_sums(self, x: Value, inputs: Sequence[tuple[Any, str]], term: Callable[..., Any]) -> Any:
        """The sum of ``term`` over each row, ``[rows]`` float64."""
        from iam.mlir.dialects import arith, linalg

        zeros = linalg.fill(self._double(0.0), outs=[self._empty(x, (), self._f64)])
        return self._generic(inputs, zeros, "r", lambda *values: arith.AddFOp(values[-1], term(*values[:-1])).result)

    def _mean_and_scale(self, x: Value, kind: str) -> tuple[Any, Any]:
        """The mean (None for ``constant_norm_rescale``) and what rows are divided by, ``[rows, 1]`` float64."""
        from iam.mlir.dialects import arith, math

        if (x, kind) in self._statistics:
            return self._statistics[x, kind]
        assert isinstance(x.type, TensorType)
        width = x.type.width
        given = (self.values[x], "rc")

        def wide(value: Any) -> Any:
            return arith.ExtFOp(self._f64, value).result

        def each(sums: Any, function: Callable[[Any], Any]) -> Any:
            """``function`` of each sum, ``[rows, 1]``."""
            return self._generic([(sums, "r")], self._empty(x, (1,), self._f64), "rc", lambda v, _: function(v))

        mean = None
        if kind == "layer_norm":
            total = self._row_sums(x, [given], wide)
            mean = each(total, lambda v: arith.DivFOp(v, self._double(width)).result)

            def square(value: Any, m: Any) -> Any:
                centred = arith.SubFOp(wide(value), m).result
                return arith.MulFOp(centred, centred).result

            squares = self._row_sums(x, [given, (mean, "r0")], square)
        else:
            squares = self._row_sums(x, [given], lambda v: arith.MulFOp(wide(v), wide(v)).result)
        count = width - 1 if kind == "layer_norm" else width
        scale = each(squares, lambda v: math.SqrtOp(arith.DivFOp(v, self._double(count)).result).result)
        self._statistics[x, kind] = mean, scale
        return mean, scale

    def _row_scale(self, node: Node) -> Any:
        x = node.operands[0]
        assert x is not None
        return self._narrow(x, self._mean_and_scale(x, node.attributes["kind"])[1])

    def _row_shift(self, node: Node) -> Any:
        x = node.operands[0]
        assert x is not None
        return self._narrow(x, self._mean_and_scale(x, node.attributes["kind"])[0])

    def _narrow(self, x: Value, column: Any) -> Any:
        from iam.mlir.dialects import arith

        out = self._empty(x, (1,), self._f32)
        return self._generic([(column, "rc")], out, "rc", lambda v, _: arith.TruncFOp(self._f32, v).result)

    def _normalised(self, node: Node) -> Any:
        from iam.mlir.dialects import arith

        x = node.operands[0]
        assert x is not None
        assert isinstance(node.type, TensorType)
        mean, scale = self._mean_and_scale(x, node.attributes["kind"])

        def layer_norm(value: Any, m: Any, s: Any, _: Any) -> Any:
            centred = arith.SubFOp(arith.ExtFOp(self._f64, value).result, m).result
            divisor = arith.AddFOp(s, self._double(_LAYER_NORM_EPSILON)).result
            return arith.TruncFOp(self._f32, arith.DivFOp(centred, divisor).result).result

        def constant_norm(value: Any, s: Any, _: Any) -> Any:
            zero = arith.CmpFOp(arith.CmpFPredicate.OEQ, s, self._double(0.0)).result
            divisor = arith.SelectOp(zero, self._double(1.0), s).result  # a row of zeros stays one
            return arith.TruncFOp(self._f32, arith.DivFOp(arith.ExtFOp(self._f64, value).result, divisor).result).result

        out = self._empty(x, node.type.dims, self._f32)
        given = (self.values[x], "rc")
        if mean is None:
            return self._generic([given, (scale, "r0")], out, "rc", constant_norm)
        return self._generic([given, (mean, "r0"), (scale, "r0")], out, "rc", layer_norm)

    def _unnormalised(self, node: Node) -> Any:
        from iam.mlir.dialects import arith

        y = node.operands[0]
        assert y is not None
        assert isinstance(node.type, TensorType)
        statistics = [(self.values[v], "r0") for v in node.operands[1:] if v is not None]

        def body(value: Any, *others: Any) -> Any:
            scaled = arith.MulFOp(value, others[0]).result
            return scaled if len(statistics) == 1 else arith.AddFOp(scaled, others[1]).result

        return self._generic(
            [(self.values[y], "rc"), *statistics], self._empty(y, node.type.dims, self._f32), "rc", body
        )

    # Attribution.

    def _columns(self, node: Node) -> Any:
        from iam.mlir.dialects import tensor

        x = node.operands[0]
        assert x is not None
        assert isinstance(x.type, TensorType)
        assert x.type.rows is not None
        size = x.type.rows.size
        open_size = ir().ShapedType.get_dynamic_size()
        first, count, step = (node.attributes[name] for name in ("first", "count", "step"))
        return tensor.ExtractSliceOp(
            self.type(node.type),
            self.values[x],
            [],
            [self._row_count(x)] if size is None else [],
            [],
            [0, first],
            [open_size if size is None else size, count],
            [1, step],
        ).result

    def _row_products(self, node: Node) -> Any:
        """As an encoder with one feature: the kernel and its derivative are there."""
        from iam.mlir.dialects import arith, tensor

        mlir = ir()
        x, v = node.operands
        assert x is not None
        assert v is not None
        assert isinstance(x.type, TensorType)
        width = x.type.width
        column = mlir.RankedTensorType.get([width, 1], self._f32)
        one = mlir.RankedTensorType.get([1], self._f32)
        groups = mlir.Attribute.parse("[[0, 1]]")
        weight = tensor.ExpandShapeOp(column, self.values[v], groups, [], [width, 1]).result
        bias = arith.ConstantOp(one, mlir.DenseElementsAttr.get_splat(one, mlir.FloatAttr.get(self._f32, 0.0))).result
        products = mlir.Operation.create(
            "iam.clt.encode",
            results=[self.type(TensorType(x.type.rows, (1,)))],
            operands=[self.values[x], weight, bias],
        ).result
        size = x.type.rows.size if x.type.rows is not None else None
        open_size = mlir.ShapedType.get_dynamic_size()
        sizes = [self._row_count(x)] if size is None else []
        shape = [open_size if size is None else size, 1]
        return tensor.ExtractSliceOp(self.type(node.type), products, [], sizes, [], [0, 0], shape, [1, 1]).result

    def _stack(self, node: Node) -> Any:
        from iam.mlir.dialects import tensor

        points, like = node.operands
        assert points is not None
        assert like is not None
        assert isinstance(node.type, PathType)
        rows = node.type.rows
        assert rows is not None
        width = node.type.point.width
        sizes = [self._row_count(like)] if rows.size is None else []
        open_size = ir().ShapedType.get_dynamic_size()
        shape = [node.type.steps, open_size if rows.size is None else rows.size, width]
        groups = ir().Attribute.parse("[[0, 1], [2]]")
        return tensor.ExpandShapeOp(self.type(node.type), self.values[points], groups, sizes, shape).result

    def _second(self, node: Node) -> Any:
        """The second result of the op that the operand is the first of."""
        first = node.operands[0]
        assert first is not None
        return self.values[first].owner.results[1]

    _weights_of = _top_of = _second

    def _nested(self, nested: Nested) -> str:
        """A private function; its name."""
        from iam.mlir.dialects import func

        mlir = ir()
        symbols = {op.name.value for op in self._module.body.operations}
        base = re.sub(r"\W", "_", nested.name, flags=re.ASCII).strip("_") or "metric"
        name, count = base, 1
        while name in symbols:
            count += 1
            name = f"{base}_{count}"
        inner = _Builder(self._module)
        arguments = [nested.parameter, *nested.captures]
        types = [inner.type(value.type) for value in arguments]
        with mlir.Location.unknown(), mlir.InsertionPoint.at_block_begin(self._module.body):
            function = func.FuncOp(name, mlir.FunctionType.get(types, [inner.type(nested.result.type)]))
            function.attributes["sym_visibility"] = mlir.StringAttr.get("private")
            block = function.add_entry_block()
        inner.values.update(zip(arguments, block.arguments, strict=True))
        with mlir.InsertionPoint(block):
            for node in nested.nodes:
                with self.location(node.frames):
                    inner.values[node] = inner.node(node)
            with mlir.Location.unknown():
                func.ReturnOp([inner.values[nested.result]])
        return name

    # The dialect.

    def _iam(self, node: Node) -> Any:
        mlir = ir()
        operands = [self.values[v] for v in node.operands if v is not None]
        attributes: dict[str, Any] = {}
        for name, value in node.attributes.items():
            if value is not False:  # a unit attribute that is not set
                attributes[name] = self._attribute(node.op, name, value)
        if node.op in _SEGMENTED:
            present = [int(v is not None) for v in node.operands]
            attributes["operandSegmentSizes"] = mlir.DenseI32ArrayAttr.get(present)
        types = [self.type(node.type)]
        if node.op in ("iam.attr.path", "iam.attr.select"):
            types.append(self.type(types_of(node)[1]))
        return mlir.Operation.create(node.op, results=types, operands=operands, attributes=attributes).results[0]

    def _attribute(self, op: str, name: str, value: Any) -> Any:
        mlir = ir()
        if isinstance(value, Nested):
            return mlir.FlatSymbolRefAttr.get(self._nested(value))
        if name in ("features", "tokens", "positions"):
            return mlir.DenseI64ArrayAttr.get(list(value))
        if name in _ENUMERATIONS:
            words = _ENUMERATIONS[name][op]
            return mlir.IntegerAttr.get(mlir.IntegerType.get_signless(32), words.index(value))
        if isinstance(value, str):
            return mlir.StringAttr.get(value)
        if value is True:
            return mlir.UnitAttr.get()
        if isinstance(value, float):
            return mlir.FloatAttr.get(self._f32, value)
        return mlir.IntegerAttr.get(mlir.IntegerType.get_signless(64), value)


def _in_place() -> dict[str, Any]:
    return {"restrict": ir().UnitAttr.get(), "writable": ir().UnitAttr.get()}


_SEGMENTED = {"iam.clt.edit", "iam.clt.delta"}
_ENUMERATIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "mode": {"iam.clt.edit": EDIT_MODES, "iam.clt.delta": EDIT_MODES, "iam.policy.steer": STEER_MODES},
    "rule": {"iam.policy.compose": COMPOSE_RULES, "iam.attr.path": PATH_RULES},
    "kind": {"iam.policy.project": SET_KINDS, "iam.policy.verify": SET_KINDS},
}
"""Attributes that are enumerations of the dialect, whose numbers are the positions of these words."""

_LAYER_NORM_EPSILON = 1e-5
"""Of :func:`iam.reference.clt.normalize`."""
