"""One recording of a function: how the arguments of a call reach its machine code, and its results the caller."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from iam.compiler import _engine, _pytree
from iam.compiler._builder import build_module
from iam.compiler._donate import check_memory
from iam.compiler._engine import FeaturesSlot, Native, NumberSlot, Slot, TensorSlot
from iam.compiler._guards import Guards
from iam.compiler._once import Once
from iam.compiler._pytree import ARRAY, FEATURES, PROMPT, kind_of
from iam.compiler._recorded import Recorded
from iam.compiler._trace import (
    FeaturesType,
    FromArgument,
    FromArray,
    FromCoder,
    Input,
    ModelType,
    Rows,
    ScalarType,
    TensorType,
    Trace,
    Type,
)
from iam.core.arrays import as_float32, check_float, from_numpy
from iam.core.errors import ArgumentError, ShapeError
from iam.core.features import SparseFeatures
from iam.core.lazy import is_torch, torch_if_loaded

__all__ = ["Constant", "Record", "Specialization", "WithStatistics", "rows_of"]


# Fetching: how each argument of the machine code is found at a call.

_Fetch = Callable[[list[Any], list[Any]], None]


def _to_kernel(leaf: Any, what: str) -> Any:
    """An array argument as float32 NumPy; shares memory when it already is."""
    if is_torch(leaf):
        if leaf.device.type != "cpu":
            raise ArgumentError(
                f"{what} is on {leaf.device}; compiled programs run on the CPU and copy nothing behind your back. Move it "
                "with .cpu(), or call the uncompiled function (.function), which runs on the tensor's device",
                code="device",
            )
        if leaf.requires_grad and torch_if_loaded().is_grad_enabled():
            raise ArgumentError(
                f"{what} records gradients, which compiled programs do not; call it under torch.no_grad() or with "
                ".detach(), or call the uncompiled function (.function), which is differentiable"
            )
    check_float(leaf, op=what, name="it")
    return as_float32(leaf)


_FLOAT32 = np.dtype(np.float32)


def _fetch_rows(leaf: int, width: int, what: str) -> _Fetch:
    def fetch(leaves: list[Any], out: list[Any]) -> None:
        x = array = leaves[leaf]
        if type(x) is not np.ndarray:
            try:
                array = x.numpy()  # refuses other devices, recorded gradients, sparse layouts
            except (AttributeError, RuntimeError, TypeError):
                array = _to_kernel(x, what)
        if array.dtype is not _FLOAT32:
            array = _to_kernel(x, what)
        if array.ndim != 2:
            array = array.reshape(math.prod(array.shape[:-1]), width)
        out.append(array)

    return fetch


def _fetch_vector(leaf: int, what: str) -> _Fetch:
    def fetch(leaves: list[Any], out: list[Any]) -> None:
        out.append(_to_kernel(leaves[leaf], what))

    return fetch


def _fetch_number(leaf: int) -> _Fetch:
    def fetch(leaves: list[Any], out: list[Any]) -> None:
        out.append(float(leaves[leaf]))

    return fetch


def _fetch_prompt(leaf: int) -> _Fetch:
    def fetch(leaves: list[Any], out: list[Any]) -> None:
        out.append(leaves[leaf].__iam_handle__())

    return fetch


def _fetch_features(leaf: int, what: str) -> _Fetch:
    def fetch(leaves: list[Any], out: list[Any]) -> None:
        values, *others = leaves[leaf].components
        out.append(_to_kernel(values, what))
        out.extend(c.numpy() if is_torch(c) else c for c in others if c is not None)

    return fetch


def _fetch_bound(array: Any) -> _Fetch:
    def fetch(leaves: list[Any], out: list[Any]) -> None:
        out.append(array)

    return fetch


def _fetch_array(array: Any, shape: tuple[int, ...], what: str) -> _Fetch:
    """An array the function refers to. Only one of another type than float32 is converted, at every call."""
    ready = array.detach().numpy() if is_torch(array) and array.dtype == torch_if_loaded().float32 else array

    def fetch(leaves: list[Any], out: list[Any]) -> None:
        found = ready if isinstance(ready, np.ndarray) and ready.dtype == np.float32 else np.asarray(_any_float(ready))
        out.append(found.reshape(shape))

    return fetch


def _any_float(array: Any) -> Any:
    return array.detach().float().numpy() if is_torch(array) else array.astype(np.float32)


# Recordings.


class Constant:
    """A result that is the same at every call."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Record:
    """A dataclass among the results."""

    def __init__(self, kind: type, extra: dict[str, Any], names: list[str], items: list[Any]) -> None:
        self.kind, self.extra, self.names, self.items = kind, extra, names, items


class WithStatistics(NamedTuple):
    """Features that carry statistics of their rows: which results they are."""

    features: int
    row_scale: int
    row_shift: int | None = None

    def of(self, found: list[Any]) -> SparseFeatures:
        f: SparseFeatures = found[self.features]
        scale, shift = (None if i is None else found[i] for i in (self.row_scale, self.row_shift))
        if f.is_torch:
            torch = torch_if_loaded()
            scale, shift = (None if n is None else torch.from_numpy(n) for n in (scale, shift))
        values, indices, offsets = f.components
        kept = f.n_features, f.prefix
        return SparseFeatures(values, indices, offsets, *kept, validate=False, row_scale=scale, row_shift=shift)


def _statistics_in(tree: Any) -> set[int]:
    """Which results are statistics of rows."""
    if isinstance(tree, WithStatistics):
        return {i for i in tree[1:] if i is not None}
    if isinstance(tree, dict):
        return set().union(*map(_statistics_in, tree.values()))
    if isinstance(tree, Record):
        return set().union(*map(_statistics_in, tree.items))
    if isinstance(tree, tuple):
        return set().union(*map(_statistics_in, tree[1]))
    return set()


class Specialization:
    """One recording of a function: its program, how its arguments are found, and, once compiled, its machine code."""

    def __init__(
        self,
        program: Recorded,
        trace: Trace,
        tree: Any,
        guards: Guards,
        leaf_names: list[str],
        coders: dict[int, Any],
    ) -> None:
        """``coders``: a weak reference to each leaf that is a coder."""
        self.name = program.name
        self.guards = guards
        self.native: Native | None = None
        self.program = program
        self._tree = tree
        self._float32 = _statistics_in(tree)  # results that stay NumPy float32
        self._coders = coders
        self._what = f"iam.jit({self.name})"
        self.inputs = [_slot(value.type) for value in program.inputs]
        self.results = [_slot(value.type) for value in program.results]
        self._fetches = [self._fetch(value, leaf_names) for value in program.inputs]
        self._weights = trace.coder_weights()
        self._widths = [slot.n_features if isinstance(slot, FeaturesSlot) else None for slot in self.results]
        # Which leaf gives the leading dimensions of each result, and which leaves must agree.
        groups: dict[Rows, list[int]] = {}
        for value in program.inputs:
            rows = None if isinstance(value.type, ScalarType) else value.type.rows
            if rows is not None and isinstance(value.source, FromArgument):
                groups.setdefault(rows.root(), []).append(value.source.leaf)
        self._agree = [(leaves, [leaf_names[i] for i in leaves]) for leaves in groups.values() if len(leaves) > 1]
        self._prefix_leaf: list[int | None] = []
        for result in program.results:
            rows = None if isinstance(result.type, ScalarType) else result.type.rows
            self._prefix_leaf.append(None if rows is None else groups.get(rows.root(), [None])[0])
        self._like_leaves = [
            value.source.leaf
            for value in program.inputs
            if isinstance(value.source, FromArgument) and not isinstance(value.type, ScalarType)
        ]
        # Results that are written into an argument -> its leaf; and where that is among the components.
        self._written: dict[int, int] = {}
        self._donated: list[tuple[int, int, str]] = []
        self._starts = _engine.first_components(self.inputs)
        for i, number in program.donated.items():
            source = program.inputs[i].source
            assert isinstance(source, FromArgument)
            self._written[number] = source.leaf
            self._donated.append((source.leaf, self._starts[i], f"{self._what}: argument {leaf_names[source.leaf]}"))
        self._text: str | None = None
        # What depends on weights only; the weights, and where they are among the components.
        self.once: Once | None = None
        self._hoisted: tuple[list[Any], list[int]] = [], []

    @property
    def text(self) -> str:
        """The program in the ``iam`` dialect, with locations."""
        if self._text is None:
            with _engine.LOCK, _engine.context():
                self._text = _engine.print_module(self._module()[0], locations=True)
        return self._text

    def _module(self) -> tuple[Any, Any]:
        """The module and its function, verified. Needs the engine's lock and context."""
        module, function = build_module(self.program)
        try:
            module.operation.verify()
        except _engine.ir().MLIRError as error:
            raise _engine.compile_error(error, f"{self._what}: the recorded program is not valid") from None
        return module, function

    def _fetch(self, value: Input, names: list[str]) -> _Fetch:
        source = value.source
        if isinstance(source, FromCoder):
            what = f"{self._what}: {value.name}"
            return _fetch_bound(np.ascontiguousarray(_to_kernel(source.array, what)))
        if isinstance(source, FromArray):
            assert isinstance(value.type, TensorType)
            return _fetch_array(source.array, value.type.dims, self._what)
        what = f"{self._what}: argument {names[source.leaf]}"
        if isinstance(value.type, ScalarType):
            return _fetch_number(source.leaf)
        if isinstance(value.type, ModelType):
            return _fetch_prompt(source.leaf)
        if isinstance(value.type, FeaturesType):
            return _fetch_features(source.leaf, what)
        assert isinstance(value.type, TensorType)
        if value.type.rows is None:
            return _fetch_vector(source.leaf, what)
        return _fetch_rows(source.leaf, value.type.width, what)

    def holds(self, leaves: list[Any]) -> bool:
        """Whether this recording is right for a call with its key."""
        for leaf, coder in self._coders.items():
            if coder() is not leaves[leaf]:  # another object at the address of one that is gone
                return False
        for leaf_or_coder, attribute, array in self._weights:
            coder = leaves[leaf_or_coder] if type(leaf_or_coder) is int else leaf_or_coder
            if getattr(coder, attribute) is not array:  # folded, moved, replaced
                return False
        return self.guards.hold()

    def compile(self, opt_level: int) -> Native | None:
        """Make the machine code, unless an equal program already has it; what was made, or read from the disk."""
        with _engine.LOCK:
            if self.native is not None:
                return None
            native, is_new = _engine.find_or_build(
                self.program.fingerprint(),
                self._entry,
                self.inputs,
                [slot for i, slot in enumerate(self.results) if i not in self._written],
                opt_level=opt_level,
                donates=bool(self._written),
            )
            if native.init is not None:
                taken = native.init.weights
                sources = [self.program.inputs[i].source for i in taken]
                self._hoisted = (
                    [s.array for s in sources if not isinstance(s, FromArgument)],
                    [self._starts[i] for i in taken],
                )
                self.once = Once(native.init.program)
            self.native = native  # last: calls look at nothing else, and take no lock
            return native if is_new else None

    def _entry(self) -> Any:
        module, function = self._module()
        _engine.prepare_entry(function)
        return module

    def run(self, leaves: list[Any]) -> Any:
        components: list[Any] = []
        for fetch in self._fetches:
            fetch(leaves, components)
        for group, names in self._agree:
            first = _prefix(leaves[group[0]])
            for i, name in zip(group[1:], names[1:], strict=True):
                if _prefix(leaves[i]) != first:
                    raise ShapeError(
                        f"{self._what}: expected arguments {names[0]} and {name} of the same leading dimensions, got "
                        f"{first} and {_prefix(leaves[i])}"
                    )
        for leaf_number, component, what in self._donated:
            check_memory(leaves[leaf_number], components, component, what)
        assert self.native is not None
        if self.once is not None:
            weights, places = self._hoisted
            components.extend(self.once.values(weights, [components[i] for i in places]))
        found = self.native.program(*components)
        wrap = self._container(leaves)
        wrapped: list[Any] = []
        at = 0
        for i, (n_features, leaf, slot) in enumerate(zip(self._widths, self._prefix_leaf, self.results, strict=True)):
            if i in self._written:
                wrapped.append(leaves[self._written[i]])
                continue
            if n_features is not None:
                assert leaf is not None
                assert isinstance(slot, FeaturesSlot)
                values, indices = wrap(found[at]), wrap(found[at + 1])
                offsets = wrap(found[at + 2]) if slot.k is None else None
                prefix = _prefix(leaves[leaf])
                wrapped.append(SparseFeatures(values, indices, offsets, n_features, prefix, validate=False))
                at += 2 if slot.k is not None else 3
                continue
            array = found[at]
            at += 1
            if leaf is not None and len(prefix := _prefix(leaves[leaf])) != 1:
                array = array.reshape(*prefix, *array.shape[1:])
            if isinstance(slot, TensorSlot) and slot.dtype != "f32":
                wrapped.append(torch_if_loaded().from_numpy(array) if is_torch(wrap(_NOTHING)) else array)
                continue
            wrapped.append(array if i in self._float32 else wrap(array))
        return _fill(self._tree, wrapped)

    def _container(self, leaves: list[Any]) -> Callable[[Any], Any]:
        """What makes a result of an array: torch if an argument is a tensor, in the float type of that argument."""
        like = None
        for i in self._like_leaves:
            leaf = leaves[i]
            if type(leaf) is SparseFeatures:
                leaf = leaf.components[0]
            elif kind_of(leaf) == PROMPT:
                leaf = leaf.like
            if type(leaf) is not np.ndarray and is_torch(leaf):
                like = leaf
                break
            if like is None:
                like = leaf
        if type(like) is np.ndarray:
            return _as_it_is if like.dtype is _FLOAT32 else lambda result: from_numpy(result, like)
        torch = torch_if_loaded()
        if torch is not None and like is not None and like.dtype is torch.float32:
            made: Callable[[Any], Any] = torch.from_numpy
            return made
        return lambda result: from_numpy(result, like)


_NOTHING = np.empty(0, np.float32)


def _as_it_is(result: Any) -> Any:
    return result


def _prefix(leaf: Any) -> tuple[int, ...]:
    return tuple(leaf.shape[:-1])


def _fill(tree: Any, values: list[Any]) -> Any:
    if type(tree) is int:
        return values[tree]
    if isinstance(tree, Constant):
        return tree.value
    if isinstance(tree, dict):
        return {name: _fill(item, values) for name, item in tree.items()}
    if isinstance(tree, WithStatistics):
        return tree.of(values)
    if isinstance(tree, Record):
        return _pytree.new_like(tree.kind, tree.extra, tree.names, [_fill(item, values) for item in tree.items])
    kind, items = tree
    filled = [_fill(item, values) for item in items]
    return kind(*filled) if hasattr(kind, "_fields") else kind(filled)


def _slot(type: Type) -> Slot:
    if isinstance(type, ScalarType):
        return NumberSlot("f32")
    if isinstance(type, FeaturesType):
        return FeaturesSlot(type.rows.size, type.n_features, type.k)
    if isinstance(type, ModelType):
        return NumberSlot("i64")
    assert isinstance(type, TensorType)
    return TensorSlot(type.element, (*([type.rows.size] if type.rows is not None else []), *type.dims))


def rows_of(leaf: Any) -> int | None:
    """The number of rows of an argument; None for one without."""
    kind = kind_of(leaf)
    if kind in (FEATURES, PROMPT) or (kind == ARRAY and leaf.ndim >= 1):
        return math.prod(_prefix(leaf))
    return None
