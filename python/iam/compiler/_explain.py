"""What the compiler made of a recorded function: the program before and after, remarks, and estimated costs.

Costs are counted from shapes, not measured. With ``B`` rows, ``d``, ``d_in``, ``d_out`` widths, ``F`` features, ``A`` active
features in all rows together, ``n`` edited features or directions, and 4 bytes for every number and index:

========================  ====================================  ==========================================================
op                        flops                                 bytes read; written
========================  ====================================  ==========================================================
encode                    2·B·d_in·F + B·F (+ B·d_in)           B·d_in + d_in·F + F (+ d_in); B·F
topk, relu, jumprelu, ..  B·F                                   B·F (+ F); 2·A
encode_sparse             2·B·d_in·F + 2·B·F (+ B·d_in)         B·d_in + d_in·F + F (+ d_in, F); 2·A
encode_sparse gate        the same + 2·A·d_in                   the same + d_in·F + F; 2·A
decode                    2·A·d_out (+ B·d_out)                 2·A + min(A, F)·d_out (+ d_out); B·d_out
densify                   0                                     2·A; B·F
edit, delta               A + B·n                               2·A + n; 2·A of the result
sub                       A1 + A2                               2·(A1 + A2); 2·A of the result
residual                  B·d (+ 2·B·d_in·d)                    B·d + B·d_in (+ d_in·d); B·d
steer add                 2·B·d                                 B·d + d; B·d
steer ablate, clamp       4·B·d + 2·d                           B·d + d; B·d
compose                   2·n·d (orthogonal: + 4·n²·d)          n·d + n; d
project, verify           4·B·d (subspace of n rows: 4·B·n·d)   B·d + the set; B·d, B
\\+ - * / and negation     one per element                       the operands; the result
========================  ====================================  ==========================================================

``(+ ...)`` counts where the operand is there. For an ``encode_sparse`` of ``only`` some features, ``F`` is their number. ``A`` is ``B·k`` for features with k slots; ``B·min(F, 64)`` is assumed for others
unless they are arguments. Elementwise ops whose result only elementwise ops read are one loop with these: they write
nothing, and are not read. *Memory* is what the results of the ops take, and *peak* the most that is alive at one time when
every result dies after its last use; arguments are not counted.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from iam.compiler import _engine
from iam.compiler._recorded import Recorded
from iam.compiler._trace import FeaturesType, FromArgument, ScalarType
from iam.core.errors import CompileError

__all__ = ["Explanation", "OpCost", "explain"]

_ASSUMED_ACTIVE = 64
_SIZE = 4
_ELEMENTWISE = ("arith.addf", "arith.subf", "arith.mulf", "arith.divf", "arith.negf")
_HELPERS = frozenset(
    {"arith.constant", "tensor.dim", "tensor.empty", "tensor.splat", "tensor.from_elements", "linalg.broadcast"}
    | {"linalg.fill", "func.return"}
)


@dataclass(frozen=True, slots=True)
class OpCost:
    """One op: what it is, the Python line it comes from, and its estimated cost.

    Attributes:
        op: Name, with its mode.
        lines: ``file:line``, innermost; several for an op that was made of several.
        flops: Floating-point operations.
        read, written: Bytes.
        memory: Bytes that its results take.
        known: False for an op without a formula; only its operands and results are counted then.
    """

    op: str
    lines: tuple[str, ...]
    flops: int
    read: int
    written: int
    memory: int
    known: bool = True


@dataclass(frozen=True, slots=True)
class Side:
    """A program and its costs."""

    mlir: str
    ops: tuple[OpCost, ...]
    peak: int

    def total(self) -> dict[str, int]:
        names = ("flops", "read", "written", "memory")
        return {**{name: sum(getattr(op, name) for op in self.ops) for name in names}, "peak": self.peak}


@dataclass(frozen=True, slots=True)
class Explanation:
    """A program before and after the rewrites. ``print`` it, or take :meth:`to_dict`."""

    name: str
    arguments: dict[str, str]
    before: Side
    after: Side
    remarks: tuple[str, ...]
    donated: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data; sizes in bytes."""
        sides = {
            label: {"mlir": side.mlir, "ops": [asdict(op) for op in side.ops], "total": side.total()}
            for label, side in (("before", self.before), ("after", self.after))
        }
        return {
            "schema": "iam.explanation/1",
            "name": self.name,
            "arguments": self.arguments,
            **sides,
            "remarks": list(self.remarks),
            "donated": list(self.donated),
        }

    def __str__(self) -> str:
        given = ", ".join(f"{name} {shape}" for name, shape in self.arguments.items())
        lines = [f"{self.name}({given}); costs are estimated from shapes"]
        for label, side in (("as recorded", self.before), ("after the rewrites", self.after)):
            lines += ["", f"{label}:", *_table(side), "", *("  " + line for line in side.mlir.strip().splitlines())]
        lines += ["", "remarks:", *(f"  {remark}" for remark in self.remarks or ("none",))]
        if self.donated:
            lines.append(f"  written in place: {', '.join(self.donated)}")
        before, after = self.before.total(), self.after.total()
        lines += ["", "after / before: " + ", ".join(f"{n} {_ratio(after[n], before[n])}" for n in before)]
        return "\n".join(lines)


def _ratio(after: int, before: int) -> str:
    return "-" if before == 0 else f"{after / before:.3g}"


def _amount(number: int) -> str:
    for unit in ("", "k", "M", "G"):
        if number < 10_000:
            return f"{number}{unit}"
        number = round(number / 1000)
    return f"{number}T"


def _table(side: Side) -> list[str]:
    rows: list[tuple[str, ...]] = [("op", "flops", "read", "written", "memory", "line")]
    for op in side.ops:
        costs = [_amount(n) for n in (op.flops, op.read, op.written, op.memory)]
        rows.append(
            (
                op.op + ("" if op.known else " (no formula)"),
                *costs,
                ", ".join(line.rpartition("/")[2] for line in op.lines),
            )
        )
    total = side.total()
    sums = [_amount(total[name]) for name in ("flops", "read", "written", "memory")]
    rows.append(("total", *sums, f"peak memory {_amount(side.peak)}"))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return [
        "  " + row[0].ljust(widths[0]) + "".join(f"  {cell:>{w}}" for cell, w in zip(row[1:5], widths[1:], strict=True))
        + "  " + row[5]
        for row in rows
    ]  # fmt: skip


# Locations.


def _lines(location: Any) -> tuple[str, ...]:
    """``file:line`` of every place that an op was made of, innermost."""
    if location.is_a_name():
        return _lines(location.child_loc)
    if location.is_a_callsite():
        return _lines(location.callee)
    if location.is_a_fused():
        return tuple(dict.fromkeys(line for one in location.locations for line in _lines(one)))
    return (f"{location.filename}:{location.start_line}",) if location.is_a_file() else ()


# Costs.


@dataclass(slots=True)
class _Value:
    """What is known of a value: its number of elements, and for features how many are active in all rows."""

    kind: str  # number, tensor, features
    rows: int
    elements: int
    active: int = 0
    width: int = 1

    @property
    def bytes(self) -> int:
        if self.kind == "features":
            return 2 * _SIZE * self.active
        return self.elements * _SIZE if self.kind == "tensor" else 0


class _Counting:
    """Walks the ops of a function in order."""

    def __init__(self, rows: Sequence[int | None], active: Sequence[int | None]) -> None:
        """``rows``, ``active``: of every argument."""
        self._given = list(zip(rows, active, strict=True))
        self._values: dict[Any, _Value] = {}
        self._rows: dict[Any, int] = {}  # of sizes: values of type index

    def run(self, function: Any) -> tuple[list[OpCost], int]:
        block = function.regions[0].blocks[0]
        for argument, (rows, active) in zip(block.arguments, self._given, strict=True):
            self._values[argument] = self._value(argument.type, rows or 1, active)
        operations = [op.operation for op in block.operations]
        fused = _fused_away(operations)
        costs, sizes = [], []
        for operation in operations:
            cost, size = self._cost(operation, fused)
            sizes.append(size)
            if cost is not None:
                costs.append(cost)
        return costs, _peak(operations, sizes)

    def _value(self, type: Any, rows: int, active: int | None = None) -> _Value:
        from iam.mlir.dialects.iam import FeaturesType as Features

        mlir = _engine.ir()
        if isinstance(type, Features):
            rows = rows if type.rows is None else type.rows
            slots = type.k if type.k is not None else min(type.dictionary, _ASSUMED_ACTIVE)
            codes = rows * slots if active is None else active
            return _Value("features", rows, rows * type.dictionary, codes, type.dictionary)
        if isinstance(type, (mlir.RankedTensorType, mlir.MemRefType)):
            shape = [rows if type.is_dynamic_dim(i) else type.get_dim_size(i) for i in range(type.rank)]
            elements = 1
            for size in shape:
                elements *= size
            width = shape[-1] if shape else 1
            return _Value("tensor", elements // max(width, 1), elements, width=width)
        return _Value("number", 1, 1)

    def _cost(self, operation: Any, fused: set[Any]) -> tuple[OpCost | None, int]:
        """The cost, and the bytes of its results; no cost for an op that only prepares another one."""
        operands = [self._values[value] for value in operation.operands]
        rows = next((self._rows[value] for value in operation.operands if value in self._rows), None)
        for value, known in zip(operation.operands, operands, strict=True):
            if rows is None and known.kind != "number" and "?" in str(value.type):
                rows = known.rows
        for result in operation.results:
            if str(result.type) == "index":
                self._rows[result] = rows or 1
            some = len(operation.attributes["only"]) if "only" in operation.attributes else None
            active = None if some is None else (rows or operands[0].rows) * min(some, _ASSUMED_ACTIVE)
            self._values[result] = self._value(result.type, rows or 1, active)
        results = [self._values[result] for result in operation.results]
        if operation.name in _HELPERS:
            return None, 0
        flops = _flops(operation, operands, results)
        read = sum(_read(operation, i, operands) for i in range(len(operands)) if not _is_fused(operation, i, fused))
        gone = operation.name in _ELEMENTWISE and operation.results[0] in fused
        size = 0 if gone else sum(value.bytes for value in results)
        cost = OpCost(_label(operation), _lines(operation.location), flops or 0, read, size, size, flops is not None)
        return cost, size


def _label(operation: Any) -> str:
    found = re.search(re.escape(operation.name) + r"( [a-z_]+)? %", str(operation))
    return operation.name + (found[1] or "" if found else "")


def _fused_away(operations: list[Any]) -> set[Any]:
    """Results of elementwise ops that only elementwise ops read, and what is repeated for their sake: never in memory."""
    fused = set()
    for operation in operations:
        if operation.name in (*_ELEMENTWISE, "tensor.splat", "linalg.broadcast") and len(operation.results) == 1:
            result = operation.results[0]
            users = [use.owner for use in result.uses]
            if users and all(user.operation.name in (*_ELEMENTWISE, "tensor.dim") for user in users):
                fused.add(result)
    return fused


def _is_fused(operation: Any, index: int, fused: set[Any]) -> bool:
    return operation.name in _ELEMENTWISE and operation.operands[index] in fused


def _read(operation: Any, index: int, operands: list[_Value]) -> int:
    value = operands[index]
    if operation.name == "iam.clt.decode" and index == 1:  # the rows of active features
        return min(operands[0].active, value.rows) * value.width * _SIZE
    if (
        operation.name == "iam.clt.encode_sparse" and index > 0 and value.width == operands[1].width
    ):  # W_enc, b_enc, ...
        return value.elements // value.width * _encoded(operation, operands) * _SIZE
    return value.bytes


def _encoded(operation: Any, operands: list[_Value]) -> int:
    """The features that an encode computes: those of its weights, or of ``only``."""
    return len(operation.attributes["only"]) if "only" in operation.attributes else operands[1].width


def _flops(operation: Any, operands: list[_Value], results: list[_Value]) -> int | None:
    name = operation.name
    out = results[0] if results else None
    if out is None:
        return None
    if name in _ELEMENTWISE:
        return out.elements
    if name in ("iam.clt.encode", "iam.clt.encode_sparse"):
        x, features = operands[0], _encoded(operation, operands)
        subtract = len(operands) > 3 and operands[3].elements == x.width
        magnitudes = 2 * x.width * out.active if _label(operation).endswith(" gate") else 0  # of open gates
        return (
            2 * x.elements * features
            + x.rows * features * (1 if name.endswith("encode") else 2)
            + subtract * x.elements
            + magnitudes
        )
    if name.startswith("iam.clt.") and (operands[0].kind, out.kind) == ("tensor", "features"):
        return operands[0].elements if operands[0].width == out.width else None  # activations of pre-activations
    if name == "iam.clt.decode":
        return 2 * operands[0].active * out.width + (out.elements if len(operands) > 2 else 0)
    if name == "iam.clt.densify":
        return 0
    if name in ("iam.clt.edit", "iam.clt.delta"):
        return operands[0].active + out.rows * len(operation.attributes["features"])
    if name == "iam.clt.sub":
        return operands[0].active + operands[1].active
    if name == "iam.clt.residual":
        return out.elements + (2 * operands[1].elements * out.width if len(operands) > 2 else 0)
    if name == "iam.policy.steer":
        add = _label(operation).endswith("add")
        return 2 * out.elements if add else 4 * out.elements + 2 * out.width
    if name == "iam.policy.compose":
        vectors = operands[0]
        orthogonal = _label(operation).endswith("orthogonal")
        return 2 * vectors.elements + (4 * vectors.rows * vectors.elements if orthogonal else 0)
    if name in ("iam.policy.project", "iam.policy.verify"):
        directions = operands[1].rows if _label(operation).endswith("subspace") else 1
        return 4 * operands[0].elements * directions
    return None


def _peak(operations: list[Any], sizes: list[int]) -> int:
    """The most bytes of results that are alive at one time."""
    number = {operation: i for i, operation in enumerate(operations)}
    last = list(range(len(operations)))
    for i, operation in enumerate(operations):
        for result in operation.results:
            for use in result.uses:
                last[i] = max(last[i], number.get(use.owner.operation, len(operations)))
    alive = [sum(size for j, size in enumerate(sizes) if j <= i <= last[j]) for i in range(len(operations))]
    return max(alive, default=0)


# Remarks.


def _changes(before: Sequence[OpCost], after: Sequence[OpCost]) -> list[str]:
    """What became of the ops of each line of the user's Python, where it is something else now."""
    group: dict[str, str] = {}

    def root(line: str) -> str:
        while group.setdefault(line, line) != line:
            line = group[line]
        return line

    for op in (*before, *after):
        for line in op.lines[1:]:
            group[root(line)] = root(op.lines[0])
    ops: dict[str, tuple[Counter[str], Counter[str]]] = {}
    for side, listed in enumerate((before, after)):
        for op in listed:
            if op.lines:
                ops.setdefault(root(op.lines[0]), (Counter(), Counter()))[side][op.op] += 1
    remarks = []
    for first, (old, new) in ops.items():
        if old != new:
            lines = sorted({line for line in group if root(line) == first}, key=_by_number)
            gone, made = _listed(old - new), _listed(new - old)
            what = f"{gone} became {made}" if gone and made else f"{gone} removed" if gone else f"{made} added"
            remarks.append(f"{', '.join(lines)}: {what}")
    return remarks


def _by_number(line: str) -> tuple[str, int]:
    file, _, number = line.rpartition(":")
    return file, int(number)


def _listed(ops: Counter[str]) -> str:
    return ", ".join(f"{count} × {op}" if count > 1 else op for op, count in ops.items())


class _Listening:
    """Collects the remarks and warnings that passes emit."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __call__(self, diagnostic: Any) -> bool:
        kind = str(diagnostic.severity).rpartition(".")[2].lower()
        if kind not in ("remark", "warning"):
            return False
        if diagnostic.message.startswith("became "):  # what `_changes` says of whole lines
            return True
        where = ", ".join(_lines(diagnostic.location))
        self.found.append(f"{where + ': ' if where else ''}{kind}: {diagnostic.message}")
        return True


def explain(text: str, program: Recorded, leaves: Sequence[Any], rows_of: Any) -> Explanation:
    """See :meth:`JitFunction.explain`. ``text`` is that of ``program``; ``leaves`` are the arguments of a call."""
    rows: list[int | None] = []
    active: list[int | None] = []
    arguments: dict[str, str] = {}
    for value in program.inputs:
        leaf = leaves[value.source.leaf] if isinstance(value.source, FromArgument) else None
        is_number = isinstance(value.type, ScalarType)
        rows.append(None if leaf is None or is_number else rows_of(leaf))
        codes = leaf.components[0] if leaf is not None and isinstance(value.type, FeaturesType) else None
        active.append(None if codes is None else math.prod(codes.shape))
        if leaf is not None:
            arguments[value.name] = "number" if is_number else str(tuple(leaf.shape))
    with _engine.LOCK, _engine.context() as context:
        listening = _Listening()
        handler = context.attach_diagnostic_handler(listening)
        try:
            module = _engine.parse(text)
            sides = []
            for stage in ("iam", "fused"):
                _engine.run_pipelines(module, _engine.PIPELINES[stage])
                function = next(op for op in module.body.operations if op.operation.name == "func.func")
                costs, peak = _Counting(rows, active).run(function)
                sides.append(Side(_engine.print_module(module), tuple(costs), peak))
            try:
                _engine.run_pipelines(module, _engine.passes_to("llvm", bool(program.donated)))
            except CompileError as error:
                listening.found.append(f"not compiled: {error}")
        finally:
            handler.detach()
    remarks = [*_changes(sides[0].ops, sides[1].ops), *dict.fromkeys(listening.found)]
    donated = tuple(program.inputs[i].name for i in program.donated)
    return Explanation(program.name, arguments, sides[0], sides[1], tuple(remarks), donated)
