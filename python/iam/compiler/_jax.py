"""Programs in JAX: the StableHLO module called through PJRT, with derivatives.

A call runs the module itself. Its derivative, and a batch of calls under ``jax.vmap``, come from :func:`interpret`, which
says the same module once more in ``jax.lax``, op by op, so that JAX can differentiate it. The tests hold the two
against each other.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from iam.compiler._engine import FeaturesSlot, NumberSlot, TensorSlot
from iam.core.errors import ArgumentError, DtypeError, InternalError, MissingDependencyError, ShapeError
from iam.core.features import SparseFeatures

if TYPE_CHECKING:
    from iam.compiler._stablehlo import Argument, StablehloProgram

__all__ = ["JaxFunction", "SlotFeatures", "serialize", "versions"]


@functools.cache
def _jax() -> Any:
    """``jax``.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import jax
        import jax.export
        import jax.extend.mlir.dialects.stablehlo
        import jax.extend.mlir.ir
        import jax.interpreters.mlir
    except ImportError as error:
        raise MissingDependencyError(
            f"This needs JAX, which could not be loaded ({error}); install iam[jax]. StableHLO as text needs nothing."
        ) from error
    return jax


def _parse(text: str) -> Any:
    """The module, in a context of its own that JAX made, verified."""
    jax = _jax()
    with jax.interpreters.mlir.make_ir_context():
        try:
            return jax.extend.mlir.ir.Module.parse(text)
        except jax.extend.mlir.ir.MLIRError as error:
            raise InternalError(f"iam.compiler: StableHLO refuses what was written: {error}") from error


def serialize(text: str, version: str) -> bytes:
    """A module as a portable artefact for StableHLO ``version`` and later."""
    stablehlo = _jax().extend.mlir.dialects.stablehlo
    module = _parse(text)
    with module.context:
        found: bytes = stablehlo.serialize_portable_artifact_str(str(module), version)
    return found


def deserialize(data: bytes) -> str:
    """The text of a portable artefact."""
    jax = _jax()
    with jax.interpreters.mlir.make_ir_context() as context:
        return str(jax.extend.mlir.dialects.stablehlo.deserialize_portable_artifact(context, data))


def versions() -> dict[str, str]:
    """Versions of what wrote an artefact."""
    return {
        "jaxlib": importlib.metadata.version("jaxlib"),
        "stablehlo_writer": _jax().extend.mlir.dialects.stablehlo.get_current_version(),
    }


class SlotFeatures(NamedTuple):
    """Features in k-form, as JAX arrays: a pytree. Slots of value 0 are padding, their index means nothing."""

    values: Any
    """``[..., k]`` float32."""
    indices: Any
    """``[..., k]`` int32."""


class _Module:
    """The module for arguments of known shapes."""

    def __init__(self, text: str) -> None:
        jax = _jax()
        self.module = _parse(text)
        with self.module.context:
            symbols = jax.extend.mlir.ir.SymbolTable(self.module.operation)
            self.function = symbols["main"]
            inputs = [_shape(jax, type) for type in self.function.type.inputs]
            results = [_shape(jax, type) for type in self.function.type.results]
            artefact = serialize(text, jax.extend.mlir.dialects.stablehlo.get_current_version())
        # JAX calls modules that jax.export wrote. So one is written that only has the right types, and given ours.
        shapes = jax.export.export(
            jax.jit(lambda *_: tuple(jax.numpy.zeros(r.shape, r.dtype) for r in results), keep_unused=True),
            disabled_checks=[jax.export.DisabledSafetyCheck.platform()],
        )(*inputs)
        self.call: Callable[..., Any] = dataclasses.replace(shapes, mlir_module_serialized=artefact).call


def _shape(jax: Any, type: Any) -> Any:
    dtype = {"f32": np.float32, "i32": np.int32, "i64": np.int64, "f64": np.float64}[str(type.element_type)]
    return jax.ShapeDtypeStruct(tuple(type.shape), dtype)


class JaxFunction:
    """A program as a function of JAX arrays.

    ``f(*inputs)`` takes the arguments that are no weights, in order: arrays ``[..., d]``, vectors, numbers, and features
    (:class:`SlotFeatures`, :class:`iam.SparseFeatures`; those without k as a dense array). It returns float32 arrays, for
    features in k-form :class:`SlotFeatures`, for other features a dense array. ``f.call(weights, *inputs)`` takes the
    weights, too: ``jax.grad(f.call)(f.weights, x)`` differentiates by them.

    Both work under ``jax.jit``, ``jax.grad``, ``jax.jvp`` and ``jax.vmap``, on every device of JAX. Activations that are
    kept are piecewise constant in their choice: derivatives go through the values, not through which features are active.

    Attributes:
        weights: The weights of the program, as JAX arrays on the default device.
    """

    def __init__(self, program: StablehloProgram) -> None:
        jax = _jax()
        self.program = program
        self.weights: dict[str, Any] = {name: jax.numpy.asarray(array) for name, array in program.weights.items()}
        self._modules: dict[tuple[int, ...], _Module] = {}
        self._run = self._make()

    def __repr__(self) -> str:
        inputs = ", ".join(a.name for a in self.program.arguments if not a.is_weight)
        return f"JaxFunction({self.program.name}({inputs}))"

    def __call__(self, *inputs: Any) -> Any:
        return self.call(self.weights, *inputs)

    def call(self, weights: Mapping[str, Any], *inputs: Any) -> Any:
        """The program with weights given as a dictionary.

        Raises:
            ArgumentError: too few or too many inputs, or a weight is missing.
            ShapeError: an array that does not fit its argument.
            DtypeError: not an array or a number.
        """
        program = self.program
        expected = [a.name for a in program.arguments if not a.is_weight]
        if len(inputs) != len(expected):
            raise ArgumentError(
                f"{self!r}: expected {len(expected)} arguments ({', '.join(expected)}), got {len(inputs)}"
            )
        remaining = iter(inputs)
        tensors: list[Any] = []
        prefixes: list[tuple[int, ...]] = []
        for argument in program.arguments:
            if argument.is_weight:
                if argument.name not in weights:
                    raise ArgumentError(f"{self!r}: the weight {argument.name} is missing")
                given = weights[argument.name]
            else:
                given = next(remaining)
            prefixes.append(self._add(tensors, argument, given))
        found = iter(self._run(*tensors))
        results = [self._result(i, argument, found, prefixes) for i, argument in enumerate(program.results)]
        if program.assemble is not None:
            return program.assemble(results)
        return results[0] if len(results) == 1 else tuple(results)

    # Arguments and results.

    def _add(self, tensors: list[Any], argument: Argument, given: Any) -> tuple[int, ...]:
        """Append the tensors that stand for an argument; its leading dimensions."""
        numpy = _jax().numpy
        slot = argument.slot
        if isinstance(given, SparseFeatures):
            given = SlotFeatures(given.values, given.indices) if given.k is not None else given.to_dense()
        if isinstance(slot, FeaturesSlot) and slot.k is not None:
            if not isinstance(given, tuple) or len(given) != 2:
                raise DtypeError(
                    f"{self!r}: argument {argument.name}: expected SlotFeatures(values, indices) or SparseFeatures with "
                    f"k = {slot.k}, got {type(given).__name__}"
                )
            parts = [numpy.asarray(given[0], numpy.float32), numpy.asarray(given[1], numpy.int32)]
        else:
            try:
                array = numpy.asarray(given)
            except TypeError:
                raise DtypeError(
                    f"{self!r}: argument {argument.name}: expected an array or a number, got {type(given).__name__}"
                ) from None
            dtype = argument.tensors[0][0]
            parts = [array.astype({"f32": numpy.float32, "i32": numpy.int32}.get(dtype, dtype))]
        prefix: tuple[int, ...] = ()
        for part, (_, shape) in zip(parts, argument.tensors, strict=True):
            if shape and shape[0] is None and len(shape) == 2 and part.ndim != 2 and part.ndim >= 1:
                prefix = part.shape[:-1]
                part = part.reshape(-1 if part.size else int(np.prod(prefix)), part.shape[-1])
            else:
                prefix = part.shape[:-1]
            if len(shape) != part.ndim or any(w not in (None, n) for w, n in zip(shape, part.shape, strict=True)):
                wanted = ", ".join("rows" if n is None else str(n) for n in shape)
                raise ShapeError(f"{self!r}: argument {argument.name}: expected shape ({wanted}), got {part.shape}")
            tensors.append(part)
        return prefix

    def _result(self, i: int, argument: Argument, found: Any, prefixes: Sequence[tuple[int, ...]]) -> Any:
        parts = [next(found) for _ in argument.tensors]
        which = None if self.program.prefix is None else self.program.prefix[i]
        if which is not None:
            parts = [part.reshape(*prefixes[which], part.shape[-1]) for part in parts]
        return parts[0] if len(parts) == 1 else SlotFeatures(*parts)

    # Running.

    def _sizes(self, tensors: Sequence[Any]) -> tuple[int, ...]:
        """The sizes that the arguments leave open, in their order."""
        sizes: list[int] = []
        remaining = iter(tensors)
        for argument in self.program.arguments:
            first, *_ = [next(remaining) for _ in argument.tensors]
            if isinstance(argument.slot, NumberSlot):
                continue
            shape = argument.tensors[0][1] if isinstance(argument.slot, TensorSlot) else (argument.slot.rows,)
            sizes.extend(n for n, known in zip(first.shape, shape, strict=False) if known is None)
        return tuple(int(n) for n in sizes)

    def _module(self, tensors: Sequence[Any]) -> _Module:
        sizes = self._sizes(tensors)
        found = self._modules.get(sizes)
        if found is None:
            text = self.program.text(sizes or None)
            try:
                found = self._modules[sizes] = _Module(text)
            except InternalError as error:
                if len(set(sizes)) == 1:
                    raise
                raise ShapeError(
                    f"{self!r}: arguments with {', '.join(map(str, sizes))} rows do not fit: {error}"
                ) from None
        return found

    def _make(self) -> Callable[..., tuple[Any, ...]]:
        """The program as a function of tensors that JAX can transform."""
        jax = _jax()

        def again(*tensors: Any) -> tuple[Any, ...]:
            return interpret(self._module(tensors).function, tensors)

        @jax.custom_batching.custom_vmap
        def run(*tensors: Any) -> tuple[Any, ...]:
            return tuple(self._module(tensors).call(*tensors))

        @run.def_vmap
        def batched(axis_size: int, is_batched: Sequence[bool], *tensors: Any) -> Any:
            axes = [0 if yes else None for yes in is_batched]
            results = jax.vmap(again, in_axes=axes, axis_size=axis_size)(*tensors)
            return results, (True,) * len(results)

        differentiable = jax.custom_jvp(run)
        differentiable.defjvp(lambda primals, tangents: jax.jvp(again, primals, tangents))
        made: Callable[..., tuple[Any, ...]] = jax.jit(differentiable)  # a call is traced once for each shape
        return made


# The module in jax.lax.


class _Sorted(NamedTuple):
    """One result of the descending sort of ``keys`` with its positions, before the first of them are taken."""

    keys: Any
    which: int


def interpret(function: Any, arguments: Sequence[Any]) -> tuple[Any, ...]:
    """What a function of a StableHLO module with known shapes returns, computed with ``jax.lax``.

    Knows the ops that ``iam-to-stablehlo`` writes.
    """
    with function.context:
        return _block(function.regions[0].blocks[0], arguments)


def _block(block: Any, arguments: Sequence[Any]) -> tuple[Any, ...]:
    values: dict[Any, Any] = dict(zip(block.arguments, arguments, strict=True))
    *operations, last = block.operations
    for op in operations:
        results = _evaluate(op.operation, [values[operand] for operand in op.operands])
        values.update(zip(op.results, results if isinstance(results, tuple) else (results,), strict=True))
    return tuple(values[operand] for operand in last.operands)


def _evaluate(op: Any, operands: list[Any]) -> Any:
    lax = _jax().lax
    name = op.name.removeprefix("stablehlo.")
    simple = {
        "abs": lax.abs, "add": lax.add, "and": lax.bitwise_and, "divide": lax.div, "maximum": lax.max,
        "minimum": lax.min, "multiply": lax.mul, "negate": lax.neg, "not": lax.bitwise_not, "or": lax.bitwise_or, "select": lax.select,
        "sqrt": lax.sqrt, "subtract": lax.sub,
    }.get(name)  # fmt: skip
    if simple is not None:
        return simple(*operands)
    special = _SPECIAL.get(name)
    if special is None:
        raise InternalError(f"iam.compiler: {op.name} has no derivative here")
    return special(op, *operands)


def _ints(op: Any, attribute: str) -> tuple[int, ...]:
    return tuple(int(n) for n in op.attributes[attribute])


def _result_shape(op: Any) -> tuple[int, ...]:
    return tuple(op.results[0].type.shape)


def _constant(op: Any) -> Any:
    return _jax().numpy.asarray(np.array(op.attributes["value"]))


def _compare(op: Any, a: Any, b: Any) -> Any:
    jax = _jax()
    direction = jax.extend.mlir.dialects.stablehlo.ComparisonDirectionAttr(op.attributes["comparison_direction"]).value
    return getattr(jax.lax, direction.lower())(a, b)


def _dot(op: Any, a: Any, b: Any) -> Any:
    jax = _jax()
    numbers = jax.extend.mlir.dialects.stablehlo.DotDimensionNumbers(op.attributes["dot_dimension_numbers"])
    contracted = (tuple(numbers.lhs_contracting_dimensions), tuple(numbers.rhs_contracting_dimensions))
    return jax.lax.dot_general(a, b, (contracted, ((), ())), precision=jax.lax.Precision.HIGHEST)


def _reduce(op: Any, x: Any, start: Any) -> Any:
    lax = _jax().lax
    body = op.regions[0].blocks[0].operations[0].operation.name.removeprefix("stablehlo.")
    combine = {"add": lax.add, "maximum": lax.max, "minimum": lax.min, "or": lax.bitwise_or}[body]
    return lax.reduce(x, start, combine, _ints(op, "dimensions"))


def _sort(op: Any, keys: Any, positions: Any) -> Any:
    return _Sorted(keys, 0), _Sorted(keys, 1)


def _slice(op: Any, x: Any) -> Any:
    lax = _jax().lax
    limits = _ints(op, "limit_indices")
    if isinstance(x, _Sorted):
        return lax.top_k(x.keys, limits[-1])[x.which]
    return lax.slice(x, _ints(op, "start_indices"), limits, _ints(op, "strides"))


def _while(op: Any, counter: Any, *values: Any) -> Any:
    """A loop that counts from 0 to a constant: the number of steps is known, so that JAX can differentiate it."""
    jax = _jax()
    (limit,) = (o for o in op.regions[0].blocks[0].operations if o.operation.name == "stablehlo.constant")
    steps = int(np.array(limit.attributes["value"]))
    body = op.regions[1].blocks[0]

    def step(i: Any, carried: tuple[Any, ...]) -> tuple[Any, ...]:
        return _block(body, [jax.numpy.asarray(i, np.int32), *carried])[1:]

    return (jax.numpy.int32(steps), *jax.lax.fori_loop(0, steps, step, values))


def _gather(op: Any, x: Any, indices: Any) -> Any:
    jax = _jax()
    numbers = jax.extend.mlir.dialects.stablehlo.GatherDimensionNumbers(op.attributes["dimension_numbers"])
    return jax.lax.gather(
        x,
        indices[..., None],
        jax.lax.GatherDimensionNumbers(
            offset_dims=tuple(numbers.offset_dims),
            collapsed_slice_dims=tuple(numbers.collapsed_slice_dims),
            start_index_map=tuple(numbers.start_index_map),
            operand_batching_dims=tuple(numbers.operand_batching_dims),
            start_indices_batching_dims=tuple(numbers.start_indices_batching_dims),
        ),
        _ints(op, "slice_sizes"),
        mode=jax.lax.GatherScatterMode.CLIP,
    )


def _scatter(op: Any, x: Any, indices: Any, updates: Any) -> Any:
    jax = _jax()
    numbers = jax.extend.mlir.dialects.stablehlo.ScatterDimensionNumbers(op.attributes["scatter_dimension_numbers"])
    adds = op.regions[0].blocks[0].operations[0].operation.name == "stablehlo.add"
    scatter = jax.lax.scatter_add if adds else jax.lax.scatter
    return scatter(
        x,
        indices[..., None],
        updates,
        jax.lax.ScatterDimensionNumbers(
            update_window_dims=tuple(numbers.update_window_dims),
            inserted_window_dims=tuple(numbers.inserted_window_dims),
            scatter_dims_to_operand_dims=tuple(numbers.scattered_dims_to_operand_dims),
            operand_batching_dims=tuple(numbers.input_batching_dims),
            scatter_indices_batching_dims=tuple(numbers.scatter_indices_batching_dims),
        ),
        unique_indices=not adds,
        mode=jax.lax.GatherScatterMode.FILL_OR_DROP,
    )


_SPECIAL: dict[str, Callable[..., Any]] = {
    "broadcast_in_dim": lambda op, x: _jax().lax.broadcast_in_dim(
        x, _result_shape(op), _ints(op, "broadcast_dimensions")
    ),
    "compare": _compare,
    "concatenate": lambda op, *xs: _jax().lax.concatenate(xs, int(op.attributes["dimension"])),
    "constant": _constant,
    "dot_general": _dot,
    "gather": _gather,
    "iota": lambda op: _jax().lax.broadcasted_iota(np.int32, _result_shape(op), int(op.attributes["iota_dimension"])),
    "reduce": _reduce,
    "reshape": lambda op, x: _jax().lax.reshape(x, _result_shape(op)),
    "scatter": _scatter,
    "slice": _slice,
    "sort": _sort,
    "while": _while,
}
