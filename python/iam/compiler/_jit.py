"""``iam.jit``: record a function once, compile it, call the machine code."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import math
import pickle
import re
import sys
import threading
import time
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar, overload

import numpy as np

from iam.compiler import _engine, _pytree
from iam.compiler._builder import build_module
from iam.compiler._donate import check_memory, pair
from iam.compiler._engine import FeaturesSlot, Native, NumberSlot, Slot, Stage, TensorSlot
from iam.compiler._explain import Explanation, explain
from iam.compiler._guards import Guards
from iam.compiler._pytree import ARRAY, CODER, FEATURES, NUMBER, Static, TracedArgumentError, kind_of
from iam.compiler._recorded import Recorded
from iam.compiler._trace import (
    FeaturesType,
    FromArgument,
    FromArray,
    FromCoder,
    Input,
    Rows,
    ScalarType,
    TensorType,
    Trace,
    Traced,
    TracedScalar,
    Type,
    Value,
    describe,
)
from iam.core.arrays import as_float32, check_float, from_numpy, shape_of
from iam.core.config import suggestion
from iam.core.errors import ArgumentError, DtypeError, ShapeError, TraceError
from iam.core.features import SparseFeatures
from iam.core.lazy import is_torch, torch_if_loaded
from iam.core.sites import Site

__all__ = ["JitFunction", "Lowered", "jit"]

P = ParamSpec("P")
R = TypeVar("R")

_MAX_KEYS = 64
"""Kinds of calls for which one function keeps recordings; the least recently recorded goes first."""

_MAX_PER_KEY = 4
"""Recordings kept for one kind of call: what the function refers to may alternate."""


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


class _Constant:
    """A result that is the same at every call."""

    def __init__(self, value: Any) -> None:
        self.value = value


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """What :func:`jit` was told beside the function."""

    opt_level: int = 2
    static_argnames: tuple[str, ...] = ()
    static_rows: bool | tuple[str, ...] = False
    sites: tuple[tuple[str, Site], ...] = ()
    allow_other_sites: bool = False
    donate: tuple[str, ...] = ()

    def rows_are_static(self, parameter: str) -> bool:
        return parameter in self.static_rows if isinstance(self.static_rows, tuple) else self.static_rows


class _Record:
    """A dataclass among the results."""

    def __init__(self, kind: type, extra: dict[str, Any], names: list[str], items: list[Any]) -> None:
        self.kind, self.extra, self.names, self.items = kind, extra, names, items


class _Specialization:
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
            self._prefix_leaf.append(None if rows is None else groups[rows.root()][0])
        self._like_leaves = [
            value.source.leaf
            for value in program.inputs
            if isinstance(value.source, FromArgument) and not isinstance(value.type, ScalarType)
        ]
        # Results that are written into an argument -> its leaf; and where that is among the components.
        self._written: dict[int, int] = {}
        self._donated: list[tuple[int, int, str]] = []
        starts = np.cumsum([0, *(_components_of(slot) for slot in self.inputs)])
        for i, number in program.donated.items():
            source = program.inputs[i].source
            assert isinstance(source, FromArgument)
            self._written[number] = source.leaf
            self._donated.append((source.leaf, int(starts[i]), f"{self._what}: argument {leaf_names[source.leaf]}"))
        self._text: str | None = None

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
        if isinstance(value.type, FeaturesType):
            return _fetch_features(source.leaf, what)
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
            self.native, is_new = _engine.find_or_build(
                self.program.fingerprint(),
                self._entry,
                self.inputs,
                [slot for i, slot in enumerate(self.results) if i not in self._written],
                opt_level=opt_level,
                donates=bool(self._written),
            )
            return self.native if is_new else None

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
                array = array.reshape(*prefix, array.shape[-1])
            wrapped.append(wrap(array))
        return _fill(self._tree, wrapped)

    def _container(self, leaves: list[Any]) -> Callable[[Any], Any]:
        """What makes a result of an array: torch if an argument is a tensor, in the float type of that argument."""
        like = None
        for i in self._like_leaves:
            leaf = leaves[i]
            if type(leaf) is SparseFeatures:
                leaf = leaf.components[0]
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


def _as_it_is(result: Any) -> Any:
    return result


def _prefix(leaf: Any) -> tuple[int, ...]:
    return tuple(leaf.shape[:-1])


def _fill(tree: Any, values: list[Any]) -> Any:
    if type(tree) is int:
        return values[tree]
    if isinstance(tree, _Constant):
        return tree.value
    if isinstance(tree, dict):
        return {name: _fill(item, values) for name, item in tree.items()}
    if isinstance(tree, _Record):
        return _pytree.new_like(tree.kind, tree.extra, tree.names, [_fill(item, values) for item in tree.items])
    kind, items = tree
    filled = [_fill(item, values) for item in items]
    return kind(*filled) if hasattr(kind, "_fields") else kind(filled)


def _slot(type: Type) -> Slot:
    if isinstance(type, ScalarType):
        return NumberSlot("f32")
    if isinstance(type, FeaturesType):
        return FeaturesSlot(type.rows.size, type.n_features, type.k)
    return TensorSlot("f32", (*([type.rows.size] if type.rows is not None else []), *type.dims))


def _components_of(slot: Slot) -> int:
    return 1 if not isinstance(slot, FeaturesSlot) else 3 if slot.k is None else 2


def _rows_of(leaf: Any) -> int | None:
    """The number of rows of an argument; None for one without."""
    kind = kind_of(leaf)
    if kind == FEATURES or (kind == ARRAY and leaf.ndim >= 1):
        return math.prod(_prefix(leaf))
    return None


class _Forget:
    """Called when a coder that was an argument is gone: its recordings hold its weights and can go, too."""

    def __init__(self, function: weakref.ref[JitFunction[Any, Any]], key: Any) -> None:
        self._function = function
        self._key = key

    def __call__(self, _: Any) -> None:
        function = self._function()
        if function is not None:
            function._cache.pop(self._key, None)


class Lowered:
    """One recording of a function: what :meth:`JitFunction.lower` returns."""

    def __init__(self, specialization: _Specialization) -> None:
        self._specialization = specialization

    def mlir(self, stage: Stage = "iam") -> str:
        """The program at a stage: ``iam`` as recorded, ``fused`` after the rewrites, ``llvm`` before machine code."""
        donates = bool(self._specialization.program.donated)
        return _engine.lower_text(self._specialization.text, stage, donates=donates)

    def __repr__(self) -> str:
        return f"Lowered({self._specialization.name})"


def _symbol(name: str) -> str:
    return re.sub(r"\W", "_", name, flags=re.ASCII).strip("_") or "f"


class JitFunction(Generic[P, R]):
    """A function that is recorded and compiled at its first call; see :func:`jit`."""

    def __init__(self, function: Callable[P, R], *, name: str | None = None, options: _Options | None = None) -> None:
        functools.update_wrapper(self, function)
        #: The uncompiled function: runs eagerly, on any device, differentiable.
        self.function = function
        self.name = _symbol(name or getattr(function, "__name__", None) or type(function).__name__)
        self._options = options or _Options()
        # Calls of functions with such options are looked at argument by argument.
        self._is_plain = not self._options.static_argnames and not self._options.static_rows
        self._lock = threading.RLock()
        self._cache: OrderedDict[Any, list[_Specialization]] = OrderedDict()
        self._last: _Specialization | None = None
        self._counters = {"compilations": 0, "cache_hits": 0, "recordings": 0, "compile_ms": 0.0, "record_ms": 0.0}

    def __repr__(self) -> str:
        return f"<iam.jit {self.name}>"

    # A function is itself wherever it is copied to, and is pickled by its name, as every function of Python.

    def __copy__(self) -> JitFunction[P, R]:
        return self

    def __deepcopy__(self, memo: Any) -> JitFunction[P, R]:
        return self

    def __reduce__(self) -> Any:
        module, qualname = self.__dict__.get("__module__"), self.__dict__.get("__qualname__")
        found = _look_up(module, qualname)
        if found is self or found is self.function:
            return _restore, (module, qualname, self.name, self._options)
        raise pickle.PicklingError(
            f"iam.jit({self.name}): a compiled function is pickled by the name of its source, and {module}.{qualname} does not "
            "lead back to it. Define it at the top of a module (not as a lambda, not inside of another function)."
        )

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the compiled function.

        Raises:
            TraceError: the function does something that no program can say; names the line.
            ShapeError: arrays that do not fit each other or a coder.
            NonFiniteError: NaN or infinity where a kernel forbids it.
            CompileError: the recorded program was refused.
        """
        leaves: list[Any] = []
        try:
            key = self._key(args, kwargs, leaves)
        except TracedArgumentError:
            return self.function(*args, **kwargs)
        found = self._find(key, leaves)
        if found is None or found.native is None:
            found = self._prepare(key, leaves, args, kwargs)
        self._last = found
        result: R = found.run(leaves)
        return result

    def _key(self, args: Any, kwargs: Any, leaves: list[Any]) -> Any:
        """Fill ``leaves``; what calls that share a recording have in common."""
        key: list[Any] = []
        if self._is_plain:
            for arg in args:
                _pytree.flatten(arg, leaves, key)
            if kwargs:
                for name in sorted(kwargs):
                    key.append(name)
                    _pytree.flatten(kwargs[name], leaves, key)
            return tuple(key)
        args, kwargs = self._marked(args, kwargs)
        named = [(_pytree.parameter_of(self.function, i), arg) for i, arg in enumerate(args)]
        for i, (name, arg) in enumerate([*named, *((name, kwargs[name]) for name in sorted(kwargs))]):
            first = len(leaves)
            if i >= len(args):
                key.append(name)
            _pytree.flatten(arg, leaves, key)
            if self._options.rows_are_static(name):
                key.append(tuple(_rows_of(leaf) for leaf in leaves[first:]))
        return tuple(key)

    def _marked(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments with those that are known while recording marked."""
        static = self._options.static_argnames
        if not static:
            return args, kwargs
        names = [_pytree.parameter_of(self.function, i) for i in range(len(args))]
        marked = tuple(Static(arg) if name in static else arg for name, arg in zip(names, args, strict=True))
        return marked, {name: Static(arg) if name in static else arg for name, arg in kwargs.items()}

    def _find(self, key: Any, leaves: list[Any]) -> _Specialization | None:
        for found in self._cache.get(key, ()):
            if found.holds(leaves):
                return found
        return None

    def _prepare(self, key: Any, leaves: list[Any], args: Any, kwargs: Any) -> _Specialization:
        with self._lock:
            found = self._find(key, leaves)
            if found is None:
                start = time.perf_counter()
                found = self._record(key, leaves, args, kwargs)
                self._counters["recordings"] += 1
                self._counters["record_ms"] += (time.perf_counter() - start) * 1e3
                if found.holds(leaves):  # else a name was bound anew meanwhile: it is right for this call only
                    self._keep(key, found)
            self._last = found
            made = found.compile(self._options.opt_level)
            if made is not None:
                self._counters["compilations"] += 1
                self._counters["cache_hits"] += made.from_disk
                self._counters["compile_ms"] += made.compile_ms
            return found

    def _keep(self, key: Any, made: _Specialization) -> None:
        self._cache[key] = [made, *self._cache.pop(key, ())][:_MAX_PER_KEY]
        while len(self._cache) > _MAX_KEYS:
            self._cache.popitem(last=False)

    def _record(self, key: Any, leaves: list[Any], args: Any, kwargs: Any) -> _Specialization:
        args, kwargs = self._marked(args, {name: kwargs[name] for name in sorted(kwargs)})
        leaf_names, parameters, sites = _pytree.leaves_of(self.function, args, kwargs)
        static = self._options.static_argnames
        kinds = [
            _pytree.CONSTANT if parameter in static else kind_of(leaf)
            for leaf, parameter in zip(leaves, parameters, strict=True)
        ]
        constants = [
            (name, leaf) for leaf, name, kind in zip(leaves, leaf_names, kinds, strict=True) if kind == _pytree.CONSTANT
        ]
        guards = Guards(self.function, constants)
        trace = Trace(self.name, sys._getframe(), allow_other_sites=self._options.allow_other_sites)
        trace.names.update(guards.names)
        trace.coders.update((id(coder), coder) for coder in guards.coders)
        coders: dict[int, Any] = {}
        forget = _Forget(weakref.ref(self), key)
        stand_ins = []
        rows_given = any(
            (kind == ARRAY and leaf.ndim >= 2) or kind == FEATURES for leaf, kind in zip(leaves, kinds, strict=True)
        )
        for i, (leaf, name) in enumerate(zip(leaves, leaf_names, strict=True)):
            kind = kinds[i]
            if kind == CODER:
                trace.coder_leaves.setdefault(id(leaf), i)
                trace.coders[id(leaf)] = leaf
                trace.names[id(leaf)] = name
                coders[i] = weakref.ref(leaf, forget)
            rows = Rows(_rows_of(leaf) if self._options.rows_are_static(parameters[i]) else None)
            type = self._type_of(leaf, kind, name, rows_given, rows)
            rows_given = rows_given or (kind == ARRAY and leaf.ndim == 1)
            stand_ins.append(leaf if type is None else trace.argument(i, type, name))
            self._place(trace, stand_ins[-1], parameters[i], sites[i])
        remaining = iter(stand_ins)
        new_args = [_pytree.rebuild(arg, remaining) for arg in args]
        new_kwargs = {name: _pytree.rebuild(arg, remaining) for name, arg in kwargs.items()}
        try:
            returned = self.function(*new_args, **new_kwargs)
            results: list[Value] = []
            tree = self._results(trace, returned, results)
        finally:
            trace.close()
        if not results:
            raise TraceError(
                f"iam.jit({self.name}): the function returned {describe(returned)}, nothing that depends on its array "
                "arguments. Return traced tensors or features, alone or in tuples, lists, dicts and dataclasses."
            )
        donated = [
            (i, value, leaf_names[value.source.leaf])
            for i, value in enumerate(trace.inputs)
            if isinstance(value.source, FromArgument) and parameters[value.source.leaf] in self._options.donate
        ]
        program = Recorded(
            self.name, tuple(trace.inputs), tuple(trace.nodes), tuple(results), pair(self.name, donated, results)
        )
        return _Specialization(program, trace, tree, guards, leaf_names, coders)

    def _place(self, trace: Trace, stand_in: Any, parameter: str, site: Site | None) -> None:
        """Note the site of an argument: from the key it came under, else from ``sites=``."""
        if not isinstance(stand_in, Traced):
            return
        if site is not None:
            trace.places.put(stand_in._value, site, "the key that it is given under")
        elif (told := dict(self._options.sites).get(parameter)) is not None:
            trace.places.put(stand_in._value, told, f"sites= of iam.jit for argument {parameter}")

    def _type_of(self, leaf: Any, kind: int, name: str, rows_given: bool, rows: Rows) -> Type | None:
        """The traced type of a leaf, or None for one that is passed as it is.

        A one-dimensional array is a vector, unless no argument has rows: then the first is one row.
        """
        if kind == NUMBER or (kind == ARRAY and leaf.ndim == 0):
            return ScalarType()
        if kind == FEATURES:
            if leaf.row_scale is not None:
                raise TraceError(
                    f"iam.jit({self.name}): argument {name} are features that carry statistics of their rows (a coder that "
                    "normalises each activation). Compiled programs have no place for these; use the features outside."
                )
            return FeaturesType(rows, leaf.n_features, leaf.k)
        if kind != ARRAY:
            return None
        what = f"iam.jit({self.name}): argument {name}"
        if (leaf.dtype.is_floating_point if is_torch(leaf) else leaf.dtype.kind == "f") is False:
            raise DtypeError(
                f"{what}: expected an array of a float type, got {leaf.dtype} of shape {shape_of(leaf)}. Convert it to "
                "float32; indices of features are given as a tuple or list of ints."
            )
        width = int(leaf.shape[-1])
        return TensorType(None, (width,)) if leaf.ndim == 1 and rows_given else TensorType(rows, (width,))

    def _results(self, trace: Trace, returned: Any, results: list[Value]) -> Any:
        if isinstance(returned, TracedScalar):
            raise TraceError(
                f"iam.jit({self.name}): the function returned a number that depends on its arguments; programs return "
                "tensors and features. Compute it outside."
            )
        if isinstance(returned, Traced):
            value = trace.own(returned)
            if value not in results:
                results.append(value)
            return results.index(value)
        if isinstance(returned, (tuple, list)):
            return type(returned), [self._results(trace, item, results) for item in returned]
        if isinstance(returned, dict):
            return {name: self._results(trace, item, results) for name, item in returned.items()}
        if (names := _pytree.fields_of(returned)) is not None:
            items = [self._results(trace, getattr(returned, name), results) for name in names]
            return _Record(type(returned), _pytree.others_of(returned, names), names, items)
        if returned is None or isinstance(returned, (bool, int, float, str)):
            return _Constant(returned)
        raise TraceError(
            f"iam.jit({self.name}): a result is {describe(returned)}; results are traced tensors and features, alone or "
            "in tuples, lists, dicts and dataclasses, and constants (None, numbers, str)"
        )

    # What the compiler makes of it.

    def lower(self, *args: P.args, **kwargs: P.kwargs) -> Lowered:
        """Record and compile for arguments like these, without running. Later calls with such arguments are ready."""
        leaves: list[Any] = []
        try:
            key = self._key(args, kwargs, leaves)
        except TracedArgumentError:
            raise TraceError(f"iam.jit({self.name}).lower: expected example arrays, got traced values") from None
        return Lowered(self._prepare(key, leaves, args, kwargs))

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """What the compiler makes of a call with arguments like these: nothing is compiled or run.

        Returns:
            The program before and after the rewrites, remarks that name your lines, and estimated flops, bytes and memory of
            every op; ``print`` it, or take ``.to_dict()``. The formulas are in :mod:`iam.compiler._explain` and docs/jit.md.
        """
        leaves: list[Any] = []
        try:
            key = self._key(args, kwargs, leaves)
        except TracedArgumentError:
            raise TraceError(f"iam.jit({self.name}).explain: expected example arrays, got traced values") from None
        found = self._find(key, leaves) or self._record(key, leaves, args, kwargs)
        return explain(found.text, found.program, leaves, _rows_of)

    def check_at(self, site: Site | str, width: int) -> None:
        """Record the function for activations ``[rows, width]`` of ``site``, its only argument, and run nothing.

        Raises:
            SiteError: a coder that it uses was trained at another site; names the line.
            ShapeError: a coder or vector of another width.
            TraceError: it cannot be recorded, or takes other arguments.
        """
        leaf = np.empty((1, width), np.float32)
        options = dataclasses.replace(
            self._options, sites=((_pytree.parameter_of(self.function, 0), Site.parse(site)),), donate=()
        )
        JitFunction(self.function, name=self.name, options=options)._record((), [leaf], (leaf,), {})

    def mlir(self, stage: Stage = "iam") -> str:
        """The program of the last call or :meth:`lower`, at a stage.

        Args:
            stage: ``iam``: as recorded. ``fused``: after the rewrites. ``llvm``: what becomes machine code.

        Raises:
            ArgumentError: unknown stage, or the function was not recorded yet.
        """
        _engine.check_stage(stage)
        if self._last is None:
            raise ArgumentError(
                f"iam.jit({self.name}).mlir: the function was not recorded yet; call it, or .lower(...) with example arguments"
            )
        return Lowered(self._last).mlir(stage)

    def stats(self) -> dict[str, float]:
        """Counters: ``compilations`` (``cache_hits`` of them read from the disk), ``compile_ms`` (the sum), ``recordings``,
        ``record_ms``.

        A recording whose program equals one that is already compiled costs no compilation.
        """
        with self._lock:
            return dict(self._counters)


def _look_up(module: Any, qualname: Any) -> Any:
    """What a name means in an imported module, or None."""
    found = sys.modules.get(module)
    for part in str(qualname).split("."):
        found = getattr(found, part, None)
    return found


def _restore(module: str, qualname: str, name: str, options: _Options) -> JitFunction[Any, Any]:
    """The function that :meth:`JitFunction.__reduce__` named: nothing but an import, and a name looked up in it."""
    importlib.import_module(module)
    found = _look_up(module, qualname)
    if isinstance(found, JitFunction):
        return found
    if not isinstance(found, types.FunctionType):
        raise ArgumentError(
            f"iam.jit({name}): this function was pickled as {module}.{qualname}, which is {describe(found)} here; it is found "
            "by its name in its source"
        )
    return JitFunction(found, name=name, options=options)


def _names(given: str | Sequence[str], what: str, function: Any) -> tuple[str, ...]:
    """Names of parameters, checked."""
    names = (given,) if isinstance(given, str) else tuple(given)
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return names
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return names
    for name in names:
        if name not in parameters:
            raise ArgumentError(f'iam.jit: {what} names "{name}"; {suggestion(str(name), list(parameters))}')
    return names


@overload
def jit(
    fn: Callable[P, R],
    /,
    *,
    name: str | None = None,
    static_argnames: str | Sequence[str] = (),
    static_rows: bool | str | Sequence[str] = False,
    donate: str | Sequence[str] = (),
    sites: Mapping[str, Site | str] | None = None,
    allow_other_sites: bool = False,
) -> JitFunction[P, R]: ...


@overload
def jit(
    fn: None = None,
    /,
    *,
    name: str | None = None,
    static_argnames: str | Sequence[str] = (),
    static_rows: bool | str | Sequence[str] = False,
    donate: str | Sequence[str] = (),
    sites: Mapping[str, Site | str] | None = None,
    allow_other_sites: bool = False,
) -> Callable[[Callable[P, R]], JitFunction[P, R]]: ...


def jit(
    fn: Any = None,
    /,
    *,
    name: str | None = None,
    static_argnames: str | Sequence[str] = (),
    static_rows: bool | str | Sequence[str] = False,
    donate: str | Sequence[str] = (),
    sites: Mapping[str, Site | str] | None = None,
    allow_other_sites: bool = False,
) -> Any:
    """Compile a function over activations.

    At the first call the function runs once on stand-ins, which record what it does as a program of the ``iam`` dialect.
    The compiler rewrites it (encode and activation become one kernel, an edit that is decoded and subtracted touches only
    the edited features, ...) and makes machine code, which this and later calls run. One compilation serves every number
    of rows, 0 and 1 included.

    Arguments may be activations ``[..., d]`` (NumPy or torch), vectors ``[d]``, floats (given anew at every call), coders,
    features, and hashable constants (int, bool, str, ...: one compilation for each value), in lists, tuples, dicts and dataclasses.
    A one-dimensional array is a vector; if no argument has rows, the first is one row. The function may refer to coders,
    arrays and numbers outside of it: coders and arrays become arguments of the compiled function, without a copy; numbers
    become constants, and a changed one is noticed.

    Results are tensors ``[..., d]`` and :class:`iam.SparseFeatures`, alone or in tuples, lists, dicts and dataclasses: torch if an
    argument is a torch tensor, in the float type of that argument, never sharing memory with an argument. The arithmetic
    is float32; gradients are not recorded.

    Args:
        fn: The function. Without it, ``jit`` returns a decorator.
        name: What it is called in programs and messages; by default the function's name.
        static_argnames: Parameters whose values are known while the function is recorded, floats included: it may branch on
            them. One recording for each value.
        static_rows: Make a program for each number of rows, which ``x.shape[0]`` then is: of all arguments, or of the named
            parameters.
        donate: Parameters whose memory a result is written into: the result *is* that array. Refused, with the reason, where
            no result can be made there. After an error, its content is undefined.
        sites: Parameter -> the site its activations come from. A coder that was trained at another one is refused.
        allow_other_sites: Let coders read other sites, and let sites mix.

    Raises:
        ArgumentError: an option that names no parameter, or contradicts another one.

    >>> import iam
    >>> @iam.jit
    ... def double(x):
    ...     return x + x
    >>> double(np.ones((2, 3), np.float32))  # doctest: +SKIP
    array([[2., 2., 2.],
           [2., 2., 2.]], dtype=float32)
    """
    given: dict[str, Any] = {
        "name": name,
        "static_argnames": static_argnames,
        "static_rows": static_rows,
        "donate": donate,
        "sites": sites,
        "allow_other_sites": allow_other_sites,
    }
    if fn is None:
        return lambda function: jit(function, **given)
    if not callable(fn):
        raise DtypeError(f"iam.jit: expected a function, got {describe(fn)}")
    if isinstance(fn, JitFunction):
        fn = fn.function
    options = _Options(
        static_argnames=_names(static_argnames, "static_argnames", fn),
        static_rows=static_rows if isinstance(static_rows, bool) else _names(static_rows, "static_rows", fn),
        donate=_names(donate, "donate", fn),
        sites=tuple(
            (parameter, Site.parse(site))
            for parameter, site in zip(_names(tuple(sites or ()), "sites", fn), (sites or {}).values(), strict=True)
        ),
        allow_other_sites=allow_other_sites,
    )
    for parameter in options.static_argnames:
        if parameter in options.donate or parameter in dict(options.sites):
            raise ArgumentError(
                f"iam.jit: {parameter} is in static_argnames; a value that is known is not an activation"
            )
    return JitFunction(fn, name=name, options=options)
