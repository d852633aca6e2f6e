"""From a module in the ``iam`` dialect to machine code: pipelines, diagnostics, the JIT engine.

One MLIR context serves the process, under one lock: compiling is short, and a context is not made for concurrent use.
Compiled programs run without the lock and without the GIL.
"""

from __future__ import annotations

import functools
import json
import linecache
import re
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from iam._tools import runtime_library
from iam.compiler import _disk, _object
from iam.compiler._once import Once
from iam.core.arrays import as_float32, check_float, shape_of
from iam.core.errors import ArgumentError, CompileError, DtypeError, InternalError, MissingDependencyError, ShapeError
from iam.core.features import SparseFeatures
from iam.core.lazy import native

if TYPE_CHECKING:
    from iam.compiler._stablehlo import StablehloProgram

__all__ = [
    "LOCK",
    "PIPELINES",
    "STAGES",
    "CompiledModule",
    "FeaturesSlot",
    "NumberSlot",
    "Pipeline",
    "Slot",
    "Stage",
    "TensorSlot",
    "build_engine",
    "compile_error",
    "compile_module",
    "context",
    "entry_of",
    "ir",
    "lower_text",
    "pipelines",
]

Stage = Literal["iam", "fused", "llvm"]
STAGES: tuple[str, ...] = get_args(Stage)

PIPELINES: dict[str, tuple[str, ...]] = {
    "iam": (),
    "fused": ("iam-fuse", "iam-attribute"),
    "llvm": ("iam-fuse", "iam-attribute", "iam-hoist", "iam-to-loops", "iam-loops-to-llvm"),
}
"""Stage -> the named pipelines that lead to it; :func:`pipelines` says what they consist of."""


class Pipeline(NamedTuple):
    """A named sequence of passes."""

    name: str
    passes: str
    why: str


def pipelines() -> list[Pipeline]:
    """The named pipelines. They are fixed in C++, in one table that ``iam-opt`` and Python share."""
    ir()
    from iam.mlir._mlir_libs import _site_initialize_0 as table

    return [Pipeline(*row) for row in table.pipelines()]


def passes_to(stage: str, donates: bool) -> tuple[str, ...]:
    """The pipelines that lead to ``stage``. Needs ``LOCK``.

    A program that writes into an argument makes its results there from the start: destinations that are new memory are
    replaced by the argument's before bufferization.
    """
    if stage != "llvm" or not donates:
        return PIPELINES[stage]
    table = {pipeline.name: pipeline.passes for pipeline in pipelines()}
    loops = table["iam-to-loops"].replace("iam-reuse-operands", "eliminate-empty-tensors,iam-reuse-operands")
    return tuple(loops if name == "iam-to-loops" else name for name in PIPELINES[stage])


LOCK = threading.RLock()
"""Held while the shared context is used."""

ENTRY = "iam_program"
"""Symbol of the compiled function: a user's function may be called ``memcpy``."""


@cache
def ir() -> Any:
    """``iam.mlir.ir``.

    Raises:
        MissingDependencyError: IAM was built without its compiler (code ``native-missing``).
    """
    try:
        import iam.mlir.ir
    except ImportError as error:
        raise MissingDependencyError(
            f"iam.mlir, the compiler of IAM, could not be loaded ({error}). It is built by `pip install .` in a checkout "
            "of IAM with IAM_BUILD_MLIR=ON (the default). `iam doctor` shows what is found.",
            code="native-missing",
        ) from error
    return iam.mlir.ir


_context: Any = None


def context() -> Any:
    """The process's MLIR context. Use it with ``LOCK`` held."""
    global _context
    if _context is None:
        made = ir().Context()
        made.enable_multithreading(False)  # programs are small: threads would cost more than they save
        _context = made
    return _context


# Diagnostics.


def _place(location: Any, source: str | None, filename: str) -> tuple[str, list[str]]:
    """A location as ``file:line:column`` and the text it points at, with a caret."""
    frames = []
    while True:
        if location.is_a_name():
            location = location.child_loc
        elif location.is_a_fused() and len(location.locations):
            location = location.locations[0]
        elif location.is_a_callsite():
            frames.append(location.caller)
            location = location.callee
        else:
            break
    if not location.is_a_file():
        return "", []
    file, line, column = location.filename, location.start_line, location.start_col
    if source is not None and file == "-":
        file, lines = filename, source.splitlines()
        text = lines[line - 1] if 0 < line <= len(lines) else ""
    else:
        text = linecache.getline(file, line).rstrip("\n")
    shown = [f"  {text}", "  " + re.sub(r"\S", " ", text[: max(column - 1, 0)]) + "^"] if text.strip() else []
    for frame in frames:
        where, _ = _place(frame, source, filename)
        if where:
            shown.append(f"  called from {where.rstrip(': ')}")
    return f"{file}:{line}:{column}: ", shown


def _diagnostic(found: Any, source: str | None, filename: str, kind: str = "error") -> list[str]:
    where, shown = _place(found.location, source, filename)
    lines = [f"{where}{kind}: {found.message}", *shown]
    for note in found.notes:
        if "see current operation" not in note.message:
            lines.extend(_diagnostic(note, source, filename, "note"))
    return lines


def compile_error(error: Any, what: str, *, source: str | None = None, filename: str = "-") -> CompileError:
    """An ``MLIRError`` as a CompileError: every diagnostic with file, line, column and the line it points at."""
    lines = []
    for found in error.error_diagnostics:
        lines.extend(_diagnostic(found, source, filename))
    return CompileError("\n".join([f"{what}:", *(lines or [str(error.message)])]))


# Pipelines.


def run_pipelines(module: Any, names: Sequence[str], *, verify: bool = True, source: str | None = None) -> None:
    """Run named pipelines over ``module``. Needs ``LOCK`` and the context."""
    from iam.mlir.passmanager import PassManager

    if not names:
        return
    try:
        manager = PassManager.parse(f"builtin.module({','.join(names)})")
    except ValueError as error:
        raise InternalError(f"iam.compiler: pipelines {', '.join(names)} are not registered: {error}") from error
    manager.enable_verifier(verify)
    try:
        manager.run(module.operation)
    except ir().MLIRError as error:
        raise compile_error(error, "iam.compiler: the program could not be lowered", source=source) from None


def parse(source: str | bytes, filename: str = "-") -> Any:
    """A module from text or bytecode. Needs ``LOCK`` and the context.

    Raises:
        CompileError: it does not parse or verify, with line, column and the text there.
    """
    try:
        return ir().Module.parse(source)
    except ir().MLIRError as error:
        text = source if isinstance(source, str) else None
        raise compile_error(error, "iam.compiler: not a valid program", source=text, filename=filename) from None


def check_stage(stage: str) -> None:
    if stage not in STAGES:
        from iam.core.config import suggestion

        raise ArgumentError(f'iam.compiler: unknown stage "{stage}"; {suggestion(str(stage), STAGES)}')


def lower_text(source: str, stage: str, *, donates: bool = False) -> str:
    """The program at ``stage``, from its text at stage ``iam``."""
    check_stage(stage)
    with LOCK, context():
        module = parse(source)
        run_pipelines(module, passes_to(stage, donates))
        return print_module(module)


def print_module(module: Any, *, locations: bool = False) -> str:
    text: str = module.operation.get_asm(enable_debug_info=locations, use_name_loc_as_prefix=True)
    return text


# Signatures.


@dataclass(frozen=True, slots=True)
class NumberSlot:
    """A number by value."""

    dtype: str


@dataclass(frozen=True, slots=True)
class TensorSlot:
    """A tensor; None for a size that only a call knows."""

    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class FeaturesSlot:
    """Features: two components in k-form, three in CSR form."""

    rows: int | None
    n_features: int
    k: int | None


Slot = NumberSlot | TensorSlot | FeaturesSlot

_DTYPES = ("f32", "i32", "i64", "f64")


def _slot(type: Any, what: str) -> Slot:
    from iam.mlir.dialects.iam import FeaturesType

    mlir = ir()
    text = str(type)
    if isinstance(type, FeaturesType):
        return FeaturesSlot(type.rows, type.dictionary, type.k)
    if isinstance(type, mlir.RankedTensorType):
        dtype = str(type.element_type)
        if dtype in _DTYPES and type.encoding is None:
            shape = tuple(None if type.is_dynamic_dim(i) else type.get_dim_size(i) for i in range(type.rank))
            return TensorSlot(dtype, shape)
    elif text in _DTYPES:
        return NumberSlot(text)
    raise CompileError(
        f"iam.compiler: {what} has type {text}; a compiled function takes and returns tensors and numbers of "
        f"{', '.join(_DTYPES)}, and features"
    )


def flat(slots: Sequence[Slot]) -> list[tuple[str, int]]:
    """What ``iam._runtime.Program`` calls a signature: element type and rank of each component, rank -1 for numbers."""
    components = []
    for slot in slots:
        if isinstance(slot, NumberSlot):
            components.append((slot.dtype, -1))
        elif isinstance(slot, TensorSlot):
            components.append((slot.dtype, len(slot.shape)))
        elif slot.k is not None:
            components += [("f32", 2), ("i32", 2)]
        else:
            components += [("f32", 1), ("i32", 1), ("i64", 1)]
    return components


def first_components(slots: Sequence[Slot]) -> list[int]:
    """Where the components of each slot begin."""
    return [len(flat(slots[:i])) for i in range(len(slots))]


# The engine.


@dataclass(frozen=True, slots=True, eq=False)
class Init:
    """The init function that ``iam-hoist-weights`` made; see :mod:`iam.compiler._once`.

    Attributes:
        program: ``iam._runtime.Program``: weights to hoisted components.
        weights: Numbers of the arguments of the compiled function that it takes.
    """

    program: Any
    weights: tuple[int, ...]


@dataclass(frozen=True, eq=False)  # no slots: it is held by weak references
class Native:
    """Machine code. ``program`` is a ``iam._runtime.Program``; it is valid as long as ``engine`` is alive."""

    program: Any
    engine: Any
    compile_ms: float
    from_disk: bool = False
    init: Init | None = None
    """What computes the last arguments of ``program`` from weights, if there is something to compute."""


_PROGRAMS: weakref.WeakValueDictionary[Any, Native] = weakref.WeakValueDictionary()
"""Machine code by program: functions that record the same program share it. Use it with ``LOCK`` held."""


def find_or_build(
    fingerprint: str | None,
    module: Callable[[], Any],
    inputs: Sequence[Slot],
    results: Sequence[Slot],
    *,
    opt_level: int,
    verify: bool = False,
    donates: bool = False,
) -> tuple[Native, bool]:
    """Machine code of a program: from this process, from the disk, or made now. Needs ``LOCK``.

    Args:
        fingerprint: Equal for programs with equal machine code; None where only the module's text says it.
        module: Makes the module with the prepared entry, in the context; not called if the program is known.

    Returns:
        The code, and whether it is new to this process.
    """
    made = None
    if fingerprint is None:
        with context():
            made = module()
            fingerprint = made.operation.get_asm(enable_debug_info=False)
    options = f"{','.join(PIPELINES['llvm'])} -O{opt_level}{' donates' if donates else ''}"
    found = _PROGRAMS.get((fingerprint, options))
    if found is not None:
        return found, False
    start = time.perf_counter()
    key = _disk.key_of(fingerprint, options)
    image = _disk.load(key)
    linked = None if image is None else _link(image.address, image.note, inputs, results)
    if linked is not None:
        spent = (time.perf_counter() - start) * 1e3
        found = Native(linked[0], image, spent, from_disk=True, init=linked[1])
    else:
        with context():
            found = build_engine(
                made or module(),
                inputs,
                results,
                opt_level=opt_level,
                verify=verify,
                donates=donates,
                keep=functools.partial(_disk.store, key),
            )
    _PROGRAMS[(fingerprint, options)] = found
    return found, True


_INIT = f"{ENTRY}.init"


def _packed(function: str) -> str:
    """The packed form of a function, ``void(void**)``: what ``raw_lookup("_mlir_ciface_...")`` gives."""
    return f"_mlir__mlir_ciface_{function}"


def _link(
    address: Callable[[str], int | None], note: str, inputs: Sequence[Slot], results: Sequence[Slot]
) -> tuple[Any, Init | None] | None:
    """The programs at these addresses, or None if one is missing. ``note``: what :func:`_note` made of the module."""
    entry = address(_packed(ENTRY))
    if not entry:
        return None
    program = native().Program
    if not note:
        return program(entry, flat(inputs), flat(results)), None
    about = json.loads(note)
    hoisted = [(dtype, rank) for dtype, rank in about["hoisted"]]
    init = address(_packed(_INIT))
    if not init:
        return None
    weights = tuple(about["weights"])
    taken = flat([inputs[i] for i in weights])
    return program(entry, [*flat(inputs), *hoisted], flat(results)), Init(program(init, taken, hoisted), weights)


def _note(module: Any) -> str:
    """What has to be known of the init function of a module after ``iam-hoist``; empty without one."""
    for op in module.body.operations:
        if op.operation.name == "func.func" and op.name.value == _INIT:
            weights = [op.arg_attrs[i]["iam.argument"].value for i in range(len(op.type.inputs))]
            slots = [_slot(t, f"result {i} of @{_INIT}") for i, t in enumerate(op.type.results)]
            return json.dumps({"weights": weights, "hoisted": flat(slots)})
    return ""


_OURS = ("iam_rt_", "_mlir_ciface_iam_rt_", "_mlir_memref_to_llvm_")
"""What the runtime exports to compiled programs."""


def _is_empty(function: Any) -> bool:
    return len(function.operation.regions[0].blocks) == 0


def build_engine(
    module: Any,
    inputs: Sequence[Slot],
    results: Sequence[Slot],
    *,
    opt_level: int,
    verify: bool,
    donates: bool = False,
    keep: Callable[[bytes, str], None] | None = None,
) -> Native:
    """Compile the function ``ENTRY`` of ``module``, which is consumed. Needs ``LOCK`` and the context.

    ``keep`` is given the object code and what :func:`_note` says.
    """
    from iam.mlir.execution_engine import ExecutionEngine

    start = time.perf_counter()
    steps = passes_to("llvm", donates)
    hoisted = steps.index("iam-hoist") + 1 if "iam-hoist" in steps else 0
    run_pipelines(module, steps[:hoisted], verify=verify)
    note = _note(module) if hoisted else ""
    run_pipelines(module, steps[hoisted:], verify=verify)
    declared = [
        op.attributes["sym_name"].value
        for op in module.body.operations
        if op.operation.name == "llvm.func" and _is_empty(op)
    ]
    try:
        engine = ExecutionEngine(module, opt_level=opt_level, shared_libs=[str(runtime_library())])
    except RuntimeError as error:
        raise InternalError(f"iam.compiler: no machine code could be made for this program: {error}") from error
    linked = _link(lambda name: engine.raw_lookup(name.removeprefix("_mlir_")), note, inputs, results)
    if linked is None:
        names = ", ".join("@" + name for name in declared if not name.startswith(_OURS))
        raise CompileError(
            "iam.compiler: the program could not be linked"
            + (f"; it declares {names} without a body, and at least one of them is not there" if names else "")
        )
    spent = (time.perf_counter() - start) * 1e3
    if keep is not None and _object.supported() is None:
        keep(_object_code(engine), note)
    return Native(linked[0], engine, spent, init=linked[1])


def _object_code(engine: Any) -> bytes:
    with tempfile.TemporaryDirectory(prefix="iam-") as folder:
        path = Path(folder) / "program.o"
        engine.dump_to_object_file(str(path))
        return path.read_bytes() if path.exists() else b""


def prepare_entry(function: Any) -> None:
    """Name and mark ``function`` as the entry of the compiled module. Needs ``LOCK`` and the context."""
    mlir = ir()
    function.attributes["sym_name"] = mlir.StringAttr.get(ENTRY)
    function.attributes["llvm.emit_c_interface"] = mlir.UnitAttr.get()


# Programs given as text.

_OF_ROWS = ("iam.policy.steer", "iam.policy.project", "iam.policy.verify")
"""Ops of the policy family whose results have the rows of their first operand."""

_NUMPY = {"f32": np.float32, "i32": np.int32, "i64": np.int64, "f64": np.float64}


class CompiledModule:
    """A compiled function of a module that was given as text, bytecode or ``iam.mlir.ir.Module``.

    Call it with one argument for each of the function's: arrays (NumPy or CPU torch), numbers, SparseFeatures. It
    returns NumPy arrays and SparseFeatures, one or a tuple.
    """

    def __init__(
        self,
        name: str,
        source: str,
        inputs: list[Slot],
        results: list[Slot],
        native: Native,
        equal_sizes: list[list[tuple[int, int]]],
    ) -> None:
        """``equal_sizes``: groups of ``(argument, dimension)`` that a call must give one size."""
        self.name = name
        self.inputs = tuple(inputs)
        self.results = tuple(results)
        self.compile_ms = native.compile_ms
        self._source = source
        self._native = native
        self._once = None if native.init is None else Once(native.init.program)
        self._first = first_components(inputs)
        self._equal_sizes = equal_sizes

    def __repr__(self) -> str:
        return f"CompiledModule(@{self.name}, {len(self.inputs)} inputs, {len(self.results)} results)"

    def mlir(self, stage: Stage = "iam") -> str:
        """The program at a stage: ``iam``, ``fused`` or ``llvm``."""
        return lower_text(self._source, stage)

    def weights_changed(self) -> None:
        """Compute what depends on arguments marked ``iam.weight`` again at the next call; docs/jit.md says when to call this."""
        if self._once is not None:
            self._once.forget()

    def stablehlo(self) -> StablehloProgram:
        """The program for XLA and other StableHLO compilers."""
        from iam.compiler._stablehlo import from_text

        return from_text(self._source, entry=self.name)

    def __call__(self, *args: Any) -> Any:
        if len(args) != len(self.inputs):
            raise ArgumentError(f"@{self.name}: expected {len(self.inputs)} arguments, got {len(args)}")
        components: list[Any] = []
        for i, (slot, arg) in enumerate(zip(self.inputs, args, strict=True)):
            components.extend(_components(slot, arg, f"@{self.name}: argument {i}"))
        for (first, dimension), *others in self._equal_sizes:
            size = shape_of(args[first])[dimension]
            for other, at in others:
                if shape_of(args[other])[at] != size:
                    raise ShapeError(
                        f"@{self.name}: expected dimension {at} of argument {other} to be that of dimension {dimension} of "
                        f"argument {first}, {size}; got {shape_of(args[other])[at]}"
                    )
        if self._once is not None and self._native.init is not None:
            weights = self._native.init.weights
            taken = [components[self._first[i]] for i in weights]
            components.extend(self._once.values([args[i] for i in weights], taken))
        found = iter(self._native.program(*components))
        wrapped = []
        for slot in self.results:
            if isinstance(slot, FeaturesSlot):
                parts = [next(found) for _ in range(3 if slot.k is None else 2)]
                offsets = parts[2] if slot.k is None else None
                wrapped.append(SparseFeatures(parts[0], parts[1], offsets, slot.n_features, validate=False))
            else:
                wrapped.append(next(found))
        return wrapped[0] if len(wrapped) == 1 else tuple(wrapped)


def _components(slot: Slot, arg: Any, what: str) -> list[Any]:
    if isinstance(slot, NumberSlot):
        try:
            if isinstance(arg, (str, bytes)):  # float("2") is 2.0
                raise TypeError
            return [float(arg) if slot.dtype.startswith("f") else int(arg)]
        except (TypeError, ValueError):
            raise DtypeError(f"{what}: expected a number, got {type(arg).__name__}") from None
    if isinstance(slot, FeaturesSlot):
        if not isinstance(arg, SparseFeatures):
            raise DtypeError(f"{what}: expected SparseFeatures, got {type(arg).__name__}")
        if arg.n_features != slot.n_features or arg.k != slot.k or slot.rows not in (None, arg.rows):
            raise ShapeError(
                f"{what}: expected features [{'?' if slot.rows is None else slot.rows}, {slot.n_features}] with "
                f"{'offsets' if slot.k is None else f'k = {slot.k}'}, got shape {arg.shape} with "
                f"{'offsets' if arg.k is None else f'k = {arg.k}'}"
            )
        values, indices, offsets = arg.to_numpy().components
        return [as_float32(values), indices, *([] if offsets is None else [offsets])]
    if slot.dtype == "f32":
        check_float(arg, op=what, name="it")
        array = as_float32(arg)
    else:
        array = np.asarray(arg)
        if array.dtype != _NUMPY[slot.dtype]:
            raise DtypeError(f"{what}: expected {slot.dtype}, got {array.dtype}")
    shape = shape_of(array)
    if len(shape) != len(slot.shape) or any(
        want not in (None, got) for want, got in zip(slot.shape, shape, strict=True)
    ):
        expected = "x".join("?" if n is None else str(n) for n in slot.shape)
        raise ShapeError(f"{what}: expected shape {expected}, got {'x'.join(map(str, shape)) or 'a number'}")
    return [array]


def _equal_sizes(function: Any) -> list[list[tuple[int, int]]]:
    """Dynamic dimensions of the arguments that elementwise ops combine: MLIR takes their sizes to be equal.

    The rows of an ``iam`` op are followed, too; that its own operands fit, its kernel checks.
    """
    parents: dict[Any, Any] = {}

    def root(place: Any) -> Any:
        while parents.setdefault(place, place) != place:
            place = parents[place]
        return place

    block = function.regions[0].blocks[0]
    for op in (op.operation for op in block.operations):
        values = [v for v in (*op.operands, *op.results) if hasattr(v.type, "rank") or hasattr(v.type, "dictionary")]
        if op.name.startswith(("arith.", "math.")):
            dimensions = range(min((v.type.rank for v in values if hasattr(v.type, "rank")), default=0))
        elif op.name.startswith("iam.clt.") or op.name in _OF_ROWS:
            values, dimensions = [*values[:1], *op.results], range(1)
        else:
            continue
        for dimension in dimensions:
            for value in values[1:]:
                parents[root((value, dimension))] = root((values[0], dimension))
    groups: dict[Any, list[tuple[int, int]]] = {}
    for number, argument in enumerate(block.arguments):
        for dimension in range(getattr(argument.type, "rank", 1 if hasattr(argument.type, "dictionary") else 0)):
            if (argument, dimension) in parents:
                groups.setdefault(root((argument, dimension)), []).append((number, dimension))
    return [group for group in groups.values() if len(group) > 1]


def _is_private(function: Any) -> bool:
    attributes = function.attributes
    return "sym_visibility" in attributes and attributes["sym_visibility"].value == "private"


def entry_of(program: Any, entry: str | None, filename: str, what: str) -> tuple[Any, Any]:
    """A module from text, bytecode or a module, and its function ``entry``. Needs ``LOCK`` and the context.

    ``what`` begins the messages; the rest is as for :func:`compile_module`.
    """
    if not isinstance(program, (str, bytes)):
        if not isinstance(program, ir().Module):
            raise DtypeError(f"{what}: expected text, bytecode or iam.mlir.ir.Module, got {type(program).__name__}")
        program = program.operation.get_asm(enable_debug_info=True)
    module = parse(program, filename)
    functions = {
        op.name.value: op for op in module.body.operations if op.operation.name == "func.func" and not op.is_external
    }
    if entry is None:
        public = [name for name, op in functions.items() if not _is_private(op)]
        if len(public) != 1:
            raise CompileError(
                f"{what}: expected one public function with a body, got {len(public)}"
                + (f" ({', '.join('@' + name for name in public)}); choose one with entry=" if public else "")
            )
        entry = public[0]
    if entry not in functions:
        raise CompileError(
            f"{what}: there is no function @{entry} with a body; there are "
            f"{', '.join('@' + name for name in functions) or 'none'}"
        )
    return module, functions[entry]


def compile_module(
    program: Any, *, entry: str | None = None, filename: str = "-", opt_level: Literal[0, 1, 2, 3] = 2
) -> CompiledModule:
    """Compile a function of a module in the ``iam`` dialect.

    Args:
        program: Text, bytecode, or an ``iam.mlir.ir.Module`` (which stays as it is).
        entry: The function; by default the only public one.
        filename: Where the text came from, for messages.
        opt_level: LLVM's optimisation level.

    Raises:
        CompileError: the program does not parse, verify or lower, with line, column and the text there; or it has no
            function ``entry``.

    >>> double = compile_module('''
    ...     func.func @double(%x: tensor<?xf32>) -> tensor<?xf32> {
    ...       %y = arith.addf %x, %x : tensor<?xf32>
    ...       return %y : tensor<?xf32>
    ...     }''')  # doctest: +SKIP
    >>> double(np.ones(2, np.float32))  # doctest: +SKIP
    array([2., 2.], dtype=float32)
    """
    with LOCK, context():
        module, function = entry_of(program, entry, filename, "compile_module")
        entry = function.name.value
        inputs = [_slot(t, f"argument {i} of @{entry}") for i, t in enumerate(function.type.inputs)]
        results = [_slot(t, f"result {i} of @{entry}") for i, t in enumerate(function.type.results)]
        for i, slot in enumerate(results):
            if isinstance(slot, NumberSlot):
                raise CompileError(f"compile_module: result {i} of @{entry} is a number; return a tensor")
        text = print_module(module, locations=True)
        equal_sizes = _equal_sizes(function)
        prepare_entry(function)
        built, _ = find_or_build(None, lambda: module, inputs, results, opt_level=opt_level, verify=True)
    return CompiledModule(entry, text, inputs, results, built, equal_sizes)
