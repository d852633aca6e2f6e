"""``iam.jit``: record a function once, compile it, call the machine code."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import pickle
import re
import sys
import threading
import time
import types
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

import numpy as np

from iam.compiler import _engine, _pytree
from iam.compiler._donate import pair
from iam.compiler._engine import Stage
from iam.compiler._explain import Explanation, explain
from iam.compiler._guards import Guards
from iam.compiler._once import Once
from iam.compiler._pytree import ARRAY, CODER, FEATURES, NUMBER, PROMPT, Static, TracedArgumentError, kind_of
from iam.compiler._recorded import Recorded
from iam.compiler._recording import Constant, Record, Specialization, WithStatistics, rows_of
from iam.compiler._trace import (
    FeaturesType,
    FromArgument,
    ModelType,
    Rows,
    ScalarType,
    TensorType,
    Trace,
    Traced,
    TracedPath,
    TracedPrompt,
    TracedScalar,
    Type,
    Value,
    describe,
)
from iam.core.arrays import shape_of
from iam.core.config import suggestion
from iam.core.errors import ArgumentError, DtypeError, TraceError
from iam.core.lazy import is_torch
from iam.core.sites import Site

if TYPE_CHECKING:
    from iam.compiler._stablehlo import StablehloProgram

__all__ = ["JitFunction", "Lowered", "jit"]

P = ParamSpec("P")
R = TypeVar("R")

_MAX_KEYS = 64
"""Kinds of calls for which one function keeps recordings; the least recently recorded goes first."""

_WARN_AFTER = 3
"""Recordings that could not be kept before the user is told."""

_MAX_PER_KEY = 4
"""Recordings kept for one kind of call: what the function refers to may alternate."""


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

    def __init__(self, specialization: Specialization) -> None:
        self._specialization = specialization

    def mlir(self, stage: Stage = "iam") -> str:
        """The program at a stage: ``iam`` as recorded, ``fused`` after the rewrites, ``llvm`` before machine code."""
        donates = bool(self._specialization.program.donated)
        return _engine.lower_text(self._specialization.text, stage, donates=donates)

    def stablehlo(self) -> StablehloProgram:
        """The program for XLA and other StableHLO compilers."""
        from iam.compiler._stablehlo import from_recording

        return from_recording(self._specialization)

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
        self._cache: OrderedDict[Any, list[Specialization]] = OrderedDict()
        self._last: Specialization | None = None
        self._for_one_call = 0
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
                    key.append(("keyword", name))
                    _pytree.flatten(kwargs[name], leaves, key)
            return tuple(key)
        args, kwargs = self._marked(args, kwargs)
        named = [(_pytree.parameter_of(self.function, i), arg) for i, arg in enumerate(args)]
        for i, (name, arg) in enumerate([*named, *((name, kwargs[name]) for name in sorted(kwargs))]):
            first = len(leaves)
            if i >= len(args):
                key.append(("keyword", name))
            _pytree.flatten(arg, leaves, key)
            if self._options.rows_are_static(name):
                key.append(tuple(rows_of(leaf) for leaf in leaves[first:]))
        return tuple(key)

    def _marked(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments with those that are known while recording marked."""
        static = self._options.static_argnames
        if not static:
            return args, kwargs
        names = [_pytree.parameter_of(self.function, i) for i in range(len(args))]
        marked = tuple(Static(arg) if name in static else arg for name, arg in zip(names, args, strict=True))
        return marked, {name: Static(arg) if name in static else arg for name, arg in kwargs.items()}

    def _find(self, key: Any, leaves: list[Any]) -> Specialization | None:
        for found in self._cache.get(key, ()):
            if found.holds(leaves):
                return found
        return None

    def _prepare(self, key: Any, leaves: list[Any], args: Any, kwargs: Any) -> Specialization:
        with self._lock:
            found = self._find(key, leaves)
            if found is None:
                start = time.perf_counter()
                found = self._record(key, leaves, args, kwargs)
                self._counters["recordings"] += 1
                self._counters["record_ms"] += (time.perf_counter() - start) * 1e3
                if found.holds(leaves):
                    self._keep(key, found)
                else:  # a name was bound anew meanwhile: it is right for this call only
                    self._not_kept(found)
            self._last = found
            made = found.compile(self._options.opt_level)
            if made is not None:
                self._counters["compilations"] += 1
                self._counters["cache_hits"] += made.from_disk
                self._counters["compile_ms"] += made.compile_ms
            return found

    def _not_kept(self, made: Specialization) -> None:
        self._for_one_call += 1
        if self._for_one_call == _WARN_AFTER:
            changed = made.guards.changed()
            warnings.warn(
                f"iam.jit({self.name}): recorded anew for {_WARN_AFTER} calls, because "
                f"{', '.join(changed) or 'weights of a coder'} changed while it was recorded. Do that outside of the function: "
                "compiled calls have no side effects.",
                RuntimeWarning,
                stacklevel=4,
            )

    def _keep(self, key: Any, made: Specialization) -> None:
        self._cache[key] = [made, *self._cache.pop(key, ())][:_MAX_PER_KEY]
        while len(self._cache) > _MAX_KEYS:
            self._cache.popitem(last=False)

    def _record(self, key: Any, leaves: list[Any], args: Any, kwargs: Any) -> Specialization:
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
            (kind == ARRAY and leaf.ndim >= 2) or kind in (FEATURES, PROMPT)
            for leaf, kind in zip(leaves, kinds, strict=True)
        )
        for i, (leaf, name) in enumerate(zip(leaves, leaf_names, strict=True)):
            kind = kinds[i]
            if kind == CODER:
                trace.coder_leaves.setdefault(id(leaf), i)
                trace.coders[id(leaf)] = leaf
                trace.names[id(leaf)] = name
                coders[i] = weakref.ref(leaf, forget)
            rows = Rows(rows_of(leaf) if self._options.rows_are_static(parameters[i]) else None)
            type = self._type_of(leaf, kind, name, rows_given, rows)
            rows_given = rows_given or (kind == ARRAY and leaf.ndim == 1)
            prompt = leaf if kind == PROMPT else None
            stand_ins.append(leaf if type is None else trace.argument(i, type, name, prompt))
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
        return Specialization(program, trace, tree, guards, leaf_names, coders)

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
        if kind == PROMPT:
            return ModelType(rows, leaf.model.d_model)
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
        if isinstance(returned, (TracedPath, TracedPrompt)):
            raise TraceError(
                f"iam.jit({self.name}): the function returned {returned!r}; programs return tensors and features"
            )
        if isinstance(returned, Traced):
            value = trace.own(returned)
            found = [value, *(v for v in trace.statistics(value) or () if v is not None)]
            results.extend(v for v in found if v not in results)
            first, *statistics = (results.index(v) for v in found)
            return WithStatistics(first, *statistics) if statistics else first
        if isinstance(returned, (tuple, list)):
            return type(returned), [self._results(trace, item, results) for item in returned]
        if isinstance(returned, dict):
            return {name: self._results(trace, item, results) for name, item in returned.items()}
        if (names := _pytree.fields_of(returned)) is not None:
            items = [self._results(trace, getattr(returned, name), results) for name in names]
            return Record(type(returned), _pytree.others_of(returned, names), names, items)
        if returned is None or isinstance(returned, (bool, int, float, str)):
            return Constant(returned)
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
        return explain(found.text, found.program, leaves, rows_of)

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

    def stablehlo(self, *args: P.args, **kwargs: P.kwargs) -> StablehloProgram:
        """Record for arguments like these; the program for XLA and other StableHLO compilers.

        Nothing is run, and no machine code is made: ops that only StableHLO has a lowering for work, too.
        """
        leaves: list[Any] = []
        try:
            key = self._key(args, kwargs, leaves)
        except TracedArgumentError:
            raise TraceError(f"iam.jit({self.name}).stablehlo: expected example arrays, got traced values") from None
        return Lowered(self._find(key, leaves) or self._record(key, leaves, args, kwargs)).stablehlo()

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
        ``record_ms``, ``weight_inits``.

        A recording whose program equals one that is already compiled costs no compilation. ``weight_inits`` says how often the
        recordings that are kept have computed what depends on weights only; see docs/jit.md.
        """
        with self._lock:
            return {**self._counters, "weight_inits": sum(once.runs for once in self._onces())}

    def _onces(self) -> list[Once]:
        return [one.once for kept in list(self._cache.values()) for one in kept if one.once is not None]

    def weights_changed(self) -> None:
        """Compute what depends on weights only again at the next call.

        Changes of weights are noticed, with the exceptions in docs/jit.md: a few elements of a large NumPy array, what is written
        into a tensor through ``.data``. Call this after such a change.
        """
        with self._lock:
            for once in self._onces():
                once.forget()


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
