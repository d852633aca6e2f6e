"""Recording: run a Python function once on stand-ins for its arguments and write down what it does.

A :class:`Trace` holds the recorded program: inputs, nodes (one op of the dialect each, with the Python lines it came
from) and, through the stand-ins the function returns, its results. Nothing here touches MLIR; ``_builder`` turns a
finished trace into a module. Shapes are checked while recording, so an error names the line that made it.
"""

from __future__ import annotations

import itertools
import linecache
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np

from iam.compiler._hints import SUPPORTED, hint_for
from iam.compiler._places import Places, at_its_site
from iam.core.config import suggestion
from iam.core.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError, TraceError
from iam.core.features import SparseFeatures
from iam.core.lazy import is_torch

__all__ = [
    "FeaturesType",
    "FromArgument",
    "FromArray",
    "FromCoder",
    "Input",
    "ModelType",
    "Node",
    "PathType",
    "Rows",
    "ScalarType",
    "SourceLine",
    "TensorType",
    "Trace",
    "Traced",
    "TracedFeatures",
    "TracedPath",
    "TracedPrompt",
    "TracedScalar",
    "TracedTensor",
    "Value",
    "is_coder",
]

_INTERNAL = ("iam.compiler", "iam.core", "iam.vector", "iam.ops", "numpy", "torch", "contextlib", "functools")
"""Modules whose frames are not the user's program."""

_ARCHITECTURES = ("abstopk", "gated", "groupmax", "jumprelu", "matching_pursuit", "standard", "topk")
"""Of coders that can be recorded."""

WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
"""The arrays of a coder."""


# Types and values of the recorded program.


class Rows:
    """A number of rows. Two that must be equal are merged (union-find).

    Args:
        size: The number, if the program is made for one; None if only a call knows it.
        derived: It follows from another number by a rule that only a model knows, and equals no other one.
    """

    __slots__ = ("_parent", "_size", "derived")

    def __init__(self, size: int | None = None, *, derived: bool = False) -> None:
        self._parent: Rows | None = None
        self._size = size
        self.derived = derived

    @property
    def size(self) -> int | None:
        return self.root()._size

    def root(self) -> Rows:
        rows = self
        while rows._parent is not None:
            rows = rows._parent
        return rows

    def merge(self, other: Rows) -> Rows:
        a, b = self.root(), other.root()
        if a is not b:
            b._parent = a
            a._size = b._size if a._size is None else a._size
        return a

    def __repr__(self) -> str:
        return "rows" if self.size is None else str(self.size)


@dataclass(frozen=True, slots=True)
class ScalarType:
    """A float32 number."""

    def __str__(self) -> str:
        return "f32"


@dataclass(frozen=True, slots=True)
class TensorType:
    """float32 ``[rows, *dims]``, or ``[*dims]`` when ``rows`` is None; ``element`` is ``i32`` for indices."""

    rows: Rows | None
    dims: tuple[int, ...]
    element: str = "f32"

    @property
    def width(self) -> int:
        return self.dims[-1]

    def __str__(self) -> str:
        return "[" + ", ".join([*([] if self.rows is None else [repr(self.rows)]), *map(str, self.dims)]) + "]"


@dataclass(frozen=True, slots=True)
class FeaturesType:
    """Sparse ``[rows, n_features]``: k slots per row, or CSR when ``k`` is None."""

    rows: Rows
    n_features: int
    k: int | None

    def __str__(self) -> str:
        return f"[{self.rows!r}, {self.n_features}]" + ("" if self.k is None else f", k = {self.k}")


@dataclass(frozen=True, slots=True)
class ModelType:
    """A language model with a prompt; ``rows`` are the positions of its sequences."""

    rows: Rows
    d_model: int

    def __str__(self) -> str:
        return f"[{self.rows!r}, {self.d_model}]"


@dataclass(frozen=True, slots=True)
class PathType:
    """``steps`` points of the type ``point``, and their weights."""

    steps: int
    point: TensorType

    @property
    def rows(self) -> Rows | None:
        return self.point.rows

    def __str__(self) -> str:
        return f"of {self.steps} points {self.point}"


class SourceLine(NamedTuple):
    """A place in the user's Python."""

    file: str
    line: int
    column: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


Type = ScalarType | TensorType | FeaturesType | ModelType | PathType


class Value:
    """One SSA value; compared by identity."""

    __slots__ = ("type",)

    def __init__(self, type: Type) -> None:
        self.type = type


@dataclass(frozen=True, slots=True)
class FromArgument:
    """The value comes from a leaf of the call's arguments."""

    leaf: int


@dataclass(frozen=True, slots=True)
class FromCoder:
    """A weight of a coder."""

    array: Any


@dataclass(frozen=True, slots=True)
class FromArray:
    """An array that the function refers to; read at every call, so changes in place count."""

    array: Any


class Input(Value):
    """An argument of the compiled function."""

    __slots__ = ("name", "source")

    def __init__(self, type: Type, name: str, source: FromArgument | FromCoder | FromArray) -> None:
        super().__init__(type)
        self.name = name
        self.source = source

    @property
    def is_weight(self) -> bool:
        """Whether it is the same at every call, unless somebody writes into it."""
        return not isinstance(self.source, FromArgument)


class Node(Value):
    """One recorded op with one result. ``frames``: innermost Python line first."""

    __slots__ = ("attributes", "frames", "op", "operands")

    def __init__(
        self,
        op: str,
        operands: Sequence[Value | None],
        type: Type,
        frames: tuple[SourceLine, ...],
        attributes: dict[str, Any],
    ) -> None:
        super().__init__(type)
        self.op = op
        self.operands = tuple(operands)
        self.frames = frames
        self.attributes = attributes


# Where in the user's program are we?


def _is_internal(frame: FrameType) -> bool:
    module = frame.f_globals.get("__name__", "")
    return any(module == name or module.startswith(name + ".") for name in _INTERNAL)


def _line_of(frame: FrameType) -> SourceLine:
    column = 0
    positions = getattr(frame.f_code, "co_positions", None)  # Python 3.11
    if positions is not None and frame.f_lasti >= 0:
        found = next(itertools.islice(positions(), frame.f_lasti // 2, None), None)
        if found is not None and found[2] is not None:
            column = found[2] + 1
    name = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)
    return SourceLine(frame.f_code.co_filename, frame.f_lineno, column, name)


def is_coder(value: Any) -> bool:
    """Whether ``value`` is a sparse coder such as :class:`iam.SAE`: it has encoder and decoder weights and a config."""
    kind = type(value)
    return hasattr(kind, "encode") and hasattr(kind, "decode") and hasattr(value, "W_dec") and hasattr(value, "cfg")


def describe(value: Any) -> str:
    """A value for an error message."""
    if isinstance(value, Traced):
        return repr(value)
    shape = getattr(value, "shape", None)
    if shape is not None and not isinstance(value, type):
        return f"{type(value).__module__.split('.')[0]} {type(value).__name__} of shape {tuple(shape)}"
    return f"{type(value).__name__} {value!r:.60}"


class Trace:
    """A program while it is being recorded.

    Args:
        name: Of the traced function, for messages.
        entry: The frame that calls the traced function; frames outside of it are not part of the program.
        allow_other_sites: Coders may read other sites than those they were trained at.
    """

    def __init__(self, name: str, entry: FrameType | None = None, *, allow_other_sites: bool = False) -> None:
        self.name = name
        self.places = Places(self, allow_other=allow_other_sites)
        self.inputs: list[Input] = []
        self.nodes: list[Node] = []
        self.coder_leaves: dict[int, int] = {}  # id of a coder argument -> leaf
        self.coders: dict[int, Any] = {}  # id -> coder: arguments, what the function refers to, what it used
        self.names: dict[int, str] = {}  # id of an object -> what the user calls it
        self._entry = entry
        self.gone: set[Value] = set()  # of nested functions that were recorded
        self.prompts: dict[Value, Any] = {}  # the prompt that stands for each while recording
        self._by_source: dict[Any, Input] = {}
        self._active = True
        self._kept: list[Any] = []  # objects whose ids are keys above
        self._statistics: dict[Value, tuple[Value, Value | None]] = {}  # of the rows of features

    def close(self) -> None:
        """Recording is over; stand-ins that escaped refuse further use."""
        self._active = False
        self._entry = None

    # Places and errors.

    def frames(self) -> tuple[SourceLine, ...]:
        """The user's lines that lead here, innermost first."""
        frame: FrameType | None = sys._getframe(1)
        lines = []
        while frame is not None and frame is not self._entry:
            if not _is_internal(frame):
                lines.append(_line_of(frame))
            frame = frame.f_back
        return tuple(lines)

    def where(self) -> str:
        lines = self.frames()
        if not lines:
            return f"in {self.name}"
        callers = "".join(f", called from {line} in {line.function}" for line in lines[1:4])
        return f"at {lines[0]} in {lines[0].function}{callers}"

    def excerpt(self) -> str:
        """The user's line that leads here, on a line of its own."""
        lines = self.frames()
        text = linecache.getline(lines[0].file, lines[0].line).strip() if lines else ""
        return f"\n  {lines[0].line} | {text}" if text else ""

    def fail(self, what: str, hint: str) -> NoReturn:
        raise TraceError(f"iam.jit({self.name}): {what} ({self.where()}). {hint}{self.excerpt()}")

    def _shape_error(self, message: str, code: str = "width") -> NoReturn:
        raise ShapeError(f"iam.jit({self.name}): {message} ({self.where()}){self.excerpt()}", code=code)

    def check_active(self) -> None:
        if not self._active:
            raise TraceError(
                f"iam.jit({self.name}): a traced value was used after its function had been recorded. It was kept in a "
                "global, an attribute or a closure; return it from the function instead."
            )

    # Inputs.

    def _add_input(self, key: Any, type: Type, name: str, source: FromArgument | FromCoder | FromArray) -> Input:
        found = self._by_source.get(key)
        if found is None:
            names = {value.name for value in self.inputs}
            unique, count = name, 1
            while unique in names:
                count += 1
                unique = f"{name}_{count}"
            found = self._by_source[key] = Input(type, unique, source)
            self.inputs.append(found)
        return found

    def argument(self, leaf: int, type: Type, name: str, prompt: Any = None) -> Traced:
        """The stand-in for leaf ``leaf`` of the call's arguments."""
        value = self._add_input(("argument", leaf), type, name, FromArgument(leaf))
        if prompt is not None:
            self.prompts[value] = prompt
        traced: Traced = self._wrap(value)
        return traced

    def weight(self, coder: Any, attribute: str) -> Value:
        """A weight of ``coder`` as an input of the program."""
        array = getattr(coder, attribute)
        name = f"{self.names.get(id(coder), 'coder')}_{attribute}"
        self.coders[id(coder)] = coder
        shape = tuple(int(n) for n in array.shape)
        return self._add_input((id(coder), attribute), TensorType(None, shape), name, FromCoder(array))

    def coder_weights(self) -> list[tuple[Any, str, Any]]:
        """The weights of every coder the program met: ``(leaf or coder, attribute, array)``.

        The program, and vectors such as ``W_dec[3]``, are bound to these arrays.
        """
        return [
            (self.coder_leaves.get(id(coder), coder), attribute, getattr(coder, attribute))
            for coder in self.coders.values()
            for attribute in WEIGHTS
            if hasattr(coder, attribute)
        ]

    def array(self, array: Any, what: str, ndim: int = 1) -> Value:
        """An array that the function refers to, as an input of the program."""
        kind = array.dtype.is_floating_point if is_torch(array) else array.dtype.kind in "fiu"
        if not kind:
            self._dtype_error(f"expected {what} of a float type, got {array.dtype}")
        if is_torch(array) and array.device.type != "cpu":
            raise ArgumentError(
                f"iam.jit({self.name}): {what} is on {array.device}; compiled programs run on the CPU, move it there with "
                f".cpu() ({self.where()})",
                code="device",
            )
        shape = tuple(int(n) for n in array.shape)
        dims = shape[1:] if ndim == 1 and len(shape) == 2 and shape[0] == 1 else shape
        if len(dims) != ndim:
            if ndim == 1:
                self.fail(
                    f"{what} has shape {shape}; only vectors [d] combine with every row",
                    "Pass arrays with rows as arguments of the function.",
                )
            self._shape_error(f"expected {what} of {ndim} dimensions, got shape {shape}", "shape")
        name = self.names.get(id(array), "vector" if ndim == 1 else "matrix")
        self._kept.append(array)
        return self._add_input(self._address(array, dims), TensorType(None, dims), name, FromArray(array))

    @staticmethod
    def _address(array: Any, dims: tuple[int, ...]) -> Any:
        """Equal for two views of the same memory: ``W_dec[3]`` taken twice is one input."""
        pointer = array.data_ptr() if is_torch(array) else array.__array_interface__["data"][0]
        strides = array.stride() if is_torch(array) else array.strides
        return ("array", pointer, str(array.dtype), dims, tuple(strides))

    def _dtype_error(self, message: str) -> NoReturn:
        raise DtypeError(f"iam.jit({self.name}): {message} ({self.where()})")

    # Values.

    def _wrap(self, value: Value) -> Any:
        if isinstance(value.type, ScalarType):
            return TracedScalar(self, value)
        if isinstance(value.type, FeaturesType):
            return TracedFeatures(self, value)
        if isinstance(value.type, ModelType):
            return TracedPrompt(self, value)
        if isinstance(value.type, PathType):
            return TracedPath(self, value)
        return TracedTensor(self, value)

    def node(self, op: str, operands: Sequence[Value | None], type: Type, **attributes: Any) -> Any:
        """Record one op; its stand-in."""
        self.check_active()
        node = Node(op, operands, type, self.frames(), attributes)
        self.nodes.append(node)
        self.places.node(node)
        return self._wrap(node)

    def own(self, traced: Traced) -> Value:
        if traced._trace is not self:
            self.fail(
                f"{traced!r} belongs to another traced function ({traced._trace.name})",
                "Pass it as an argument instead of reaching for it from outside.",
            )
        self.check_active()
        if traced._value in self.gone:
            self.fail(
                f"{traced!r} belongs to a nested function whose gradient was taken",
                "Compute it outside of that function.",
            )
        return traced._value

    def activation(self, x: Any, what: str) -> tuple[Value, TensorType]:
        """``x`` as ``[rows, d]``."""
        if isinstance(x, TracedFeatures):
            self.fail(
                f"{what}: expected an activation [rows, d], got {x!r}",
                "Decode the features first, or make them dense with .to_dense().",
            )
        if not isinstance(x, TracedTensor):
            self.fail(
                f"{what}: expected a traced activation [rows, d], got {describe(x)}",
                "Pass it as an argument of the function.",
            )
        value = self.own(x)
        assert isinstance(value.type, TensorType)
        if value.type.rows is None:
            self.fail(
                f"{what}: expected an activation [rows, d], got the vector {x!r}",
                "A one-dimensional argument beside arguments with rows is a vector; pass it as [1, d] to get one row.",
            )
        if not value.type.dims:
            self.fail(f"{what}: expected an activation [rows, d], got a number for each row, {x!r}", "Return it.")
        return value, value.type

    def features(self, f: Any, what: str) -> tuple[Value, FeaturesType]:
        if isinstance(f, SparseFeatures):
            self.fail(
                f"{what}: these SparseFeatures were computed before or outside of the traced function",
                "Pass them as an argument of the function.",
            )
        if not isinstance(f, TracedFeatures):
            self.fail(
                f"{what}: expected features, got {describe(f)}",
                "Features come from a coder's encode or an activation such as iam.ops.topk.",
            )
        value = self.own(f)
        assert isinstance(value.type, FeaturesType)
        return value, value.type

    def vector(self, v: Any, width: int | None, what: str) -> Value:
        """``v`` as ``[width]``."""
        if isinstance(v, TracedTensor):
            value = self.own(v)
        elif isinstance(v, np.ndarray) or is_torch(v):
            value = self.array(v, what)
        else:
            self.fail(f"{what}: expected a vector [d], got {describe(v)}", "Use a NumPy array or a torch tensor.")
        assert isinstance(value.type, TensorType)
        if value.type.rows is not None or len(value.type.dims) != 1:
            self._shape_error(f"expected {what} to be a vector, got {value.type}", "shape")
        if width is not None and value.type.width != width:
            self._shape_error(f"expected {what} of shape ({width},), got ({value.type.width},)")
        return value

    def matrix(self, w: Any, what: str) -> Value:
        if isinstance(w, Traced) or not (isinstance(w, np.ndarray) or is_torch(w)):
            self.fail(f"{what}: expected a weight matrix (NumPy or torch), got {describe(w)}", "Compute it beforehand.")
        return self.array(w, what, ndim=2)

    def constant(self, number: float) -> Value:
        value = self.node("constant", (), ScalarType(), value=float(number))._value
        assert isinstance(value, Value)
        return value

    def scalar(self, s: Any, what: str) -> Value:
        """``s`` as a number."""
        if isinstance(s, TracedScalar):
            return self.own(s)
        number = _as_number(s)
        if number is None:
            self.fail(f"{what}: expected a number, got {describe(s)}", "Use a Python float.")
        return self.constant(number)

    # Coders: what iam.SAE calls while it is being traced.

    @at_its_site
    def encode(self, coder: Any, x: Any) -> TracedFeatures:
        """``coder.encode(x)``."""
        cfg = coder.cfg
        if cfg.architecture not in _ARCHITECTURES:
            self.fail(
                f'coders of architecture "{cfg.architecture}" cannot be compiled',
                f"Known: {', '.join(_ARCHITECTURES)}. Call encode outside and give the features as an argument.",
            )
        if hasattr(coder.W_enc, "rows"):
            self.fail("this encoder stays in its file and cannot be compiled", "Call encode outside, or read it first.")
        value, type = self.activation(x, "encode")
        d_in, n_features = (int(n) for n in coder.W_enc.shape)
        if type.width != d_in:
            self._shape_error(f"encode: expected x of shape [..., {d_in}] (d_in of the coder), got [..., {type.width}]")
        z, statistics = self._normalise(coder, value, type)
        f = self._activate(coder, z, TensorType(type.rows, (n_features,)))
        if statistics is not None and coder._carries_statistics:
            self._statistics[f._value] = statistics
        return f

    def _activate(self, coder: Any, z: Value, type: TensorType) -> TracedFeatures:
        """The features of normalised activations; ``type`` of their pre-activations."""
        cfg = coder.cfg
        subtract = self.weight(coder, "b_dec") if cfg.apply_b_dec_to_input else None
        if cfg.architecture == "matching_pursuit":
            return self._pursue(z, self.weight(coder, "W_dec"), subtract, *coder._pursuit())
        # A gate and a magnitude of one encoder are a JumpReLU: Encoder.fused_threshold.
        fused = cfg.architecture == "gated" or getattr(cfg, "rescale_acts_by_decoder_norm", False)
        names = ("fused_W_enc", "fused_b_enc", "fused_threshold") if fused else ("W_enc", "b_enc", "threshold")
        operands = (z, self.weight(coder, names[0]), self.weight(coder, names[1]), subtract)
        pre = self.node("iam.clt.encode", operands, type)
        if cfg.architecture in ("topk", "abstopk", "groupmax"):
            return self._with_k(cfg.architecture, pre._value, cfg.k)
        if cfg.architecture in ("gated", "jumprelu"):
            return self._sparse("iam.clt.jumprelu", pre._value, self.weight(coder, names[2]))
        return self._sparse("iam.clt.relu", pre._value)

    def _normalise(self, coder: Any, x: Value, type: TensorType) -> tuple[Value, tuple[Value, Value | None] | None]:
        """``x`` as the encoder expects it, and the scale and shift of each row that undo it, where it has some."""
        kind = coder.cfg.normalize_activations
        if kind == "none":
            return x, None
        if kind == "expected_average_only_in":
            return self.node("arith.mulf", (x, self.constant(coder.cfg.norm_scale)), type)._value, None
        if kind == "covariance_whitening":
            none = self.node("constants", (), TensorType(None, type.dims), values=(0.0,) * type.width)._value
            operands = (x, self.weight(coder, "whitening_matrix"), none, self.weight(coder, "whitening_mean"))
            return self.node("iam.clt.encode", operands, type)._value, None
        of_rows = TensorType(type.rows, (1,))
        scale = self.node("row_scale", (x,), of_rows, kind=kind)._value
        shift = self.node("row_shift", (x,), of_rows, kind=kind)._value if kind == "layer_norm" else None
        return self.node("normalised", (x,), type, kind=kind)._value, (scale, shift)

    def _unnormalise(self, coder: Any, y: TracedTensor, statistics: tuple[Value, Value | None] | None) -> TracedTensor:
        """A reconstruction in the units of the activations."""
        type = y._type
        result: TracedTensor = y
        if statistics is not None:
            result = self.node("unnormalised", (y._value, *statistics), type)
        elif coder._carries_statistics and coder.cfg.normalize_activations == "expected_average_only_in":
            result = self.node("arith.divf", (y._value, self.constant(coder.cfg.norm_scale)), type)
        elif coder._carries_statistics and coder.cfg.normalize_activations == "covariance_whitening":
            operands = (y._value, self.weight(coder, "whitening_inverse"), self.weight(coder, "whitening_mean"), None)
            result = self.node("iam.clt.encode", operands, type)
        return result

    def _check_statistics(self, coder: Any, statistics: tuple[Value, Value | None] | None) -> None:
        """Features carry what their coder needs of their rows, and no other coder's."""
        kind = coder.cfg.normalize_activations if coder._carries_statistics else "none"
        needed = (kind in ("constant_norm_rescale", "layer_norm"), kind == "layer_norm")
        carried = (False, False) if statistics is None else (True, statistics[1] is not None)
        if needed != carried:
            raise ArgumentError(
                f"iam.jit({self.name}): decode: normalize_activations {coder.cfg.normalize_activations} needs "
                + ("features that carry the statistics of their rows" if needed[0] else "no statistics of rows")
                + f", got features with{'' if carried[0] else 'out'} them; they come from this coder's encode ({self.where()})",
                code="normalization",
            )

    def statistics(self, f: Value) -> tuple[Value, Value | None] | None:
        """``row_scale`` and ``row_shift`` of features, ``[rows, 1]``; None where they carry none."""
        return self._statistics.get(f)

    @at_its_site
    def decode(self, coder: Any, f: Any) -> TracedTensor:
        """``coder.decode(f)``."""
        value, type = self.features(f, "decode")
        statistics = self.statistics(value)
        self._check_statistics(coder, statistics)
        n_features, d_out = (int(n) for n in coder.W_dec.shape)
        if type.n_features != n_features:
            self._shape_error(
                f"decode: expected features [..., {n_features}] (d_sae of the coder), got [..., {type.n_features}]"
            )
        W_dec = "fused_W_dec" if getattr(coder.cfg, "rescale_acts_by_decoder_norm", False) else "W_dec"
        unbiased = coder.cfg.architecture == "matching_pursuit" and not coder.cfg.apply_b_dec_to_input
        bias = None if unbiased else self.weight(coder, "b_dec")
        y = self._decode(value, type, self.weight(coder, W_dec), bias, d_out)
        return self._unnormalise(coder, y, statistics)

    def _decode(self, f: Value, type: FeaturesType, W_dec: Value, b_dec: Value | None, d_out: int) -> TracedTensor:
        result: TracedTensor = self.node("iam.clt.decode", (f, W_dec, b_dec), TensorType(type.rows, (d_out,)))
        return result

    def _with_k(self, name: str, pre: Value, k: Any) -> TracedFeatures:
        """``topk``, ``abstopk`` or ``groupmax``: k slots per row."""
        type = pre.type
        assert isinstance(type, TensorType) and type.rows is not None
        k = self._check_k(k, type.width, name)
        if name == "groupmax" and type.width % k:
            raise ArgumentError(
                f"iam.jit({self.name}): groupmax: expected k to be a divisor of {type.width} (features), got {k} "
                f"({self.where()})",
                code="k-range",
            )
        result: TracedFeatures = self.node(f"iam.clt.{name}", (pre,), FeaturesType(type.rows, type.width, k), k=k)
        return result

    def _pursue(
        self, x: Value, W_dec: Value, subtract: Value | None, residual_threshold: float, steps: int, stop: bool
    ) -> TracedFeatures:
        assert isinstance(x.type, TensorType) and x.type.rows is not None
        assert isinstance(W_dec.type, TensorType)
        result: TracedFeatures = self.node(
            "iam.clt.matching_pursuit",
            (x, W_dec, subtract),
            FeaturesType(x.type.rows, W_dec.type.dims[0], None),
            residual_threshold=residual_threshold,
            max_iterations=steps,
            stop_on_duplicate_support=stop,
        )
        return result

    def _sparse(self, op: str, pre: Value, *others: Value, **attributes: Any) -> TracedFeatures:
        type = pre.type
        assert isinstance(type, TensorType) and type.rows is not None
        result: TracedFeatures = self.node(op, (pre, *others), FeaturesType(type.rows, type.width, None), **attributes)
        return result

    def _check_k(self, k: Any, n_features: int, op: str) -> int:
        if isinstance(k, (Traced, bool)) or not hasattr(k, "__index__"):
            self.fail(f"{op}: expected k to be an int, got {describe(k)}", "k is fixed when the program is compiled.")
        k = k.__index__()
        if not 1 <= k <= n_features:
            raise ArgumentError(
                f"iam.jit({self.name}): {op}: expected k in 1..{n_features} (features), got k={k} ({self.where()})",
                code="k-range",
            )
        assert isinstance(k, int)
        return k

    # Ops: what the functions of iam.ops call while one of their arguments is being traced.

    def op(self, name: str, *args: Any) -> Any:
        """Record the op ``name`` of :mod:`iam.ops` with its arguments in that function's order."""
        self.check_active()
        method = getattr(self, f"_op_{name}", None)
        if method is not None:
            return method(*args)
        from iam.compiler import _attribution

        recorder = getattr(_attribution, f"record_{name}", None)
        if recorder is None:
            self.fail(f'the op "{name}" cannot be recorded', "Call it outside of the traced function.")
        return recorder(self, *args)

    def run_segment(self, prompt: Any, h: Any, **arguments: Any) -> Any:
        """``Prompt.run`` of a prompt that is no argument, on a traced activation."""
        self.fail(
            f"{prompt!r} is not an argument of the function",
            "Programs run a model through a prompt that is given to them: make it a parameter.",
        )

    def _op_steer(self, h: Any, v: Any, strength: Any, mode: str) -> TracedTensor:
        value, type = self.activation(h, "steer")
        vector = self.vector(v, type.width, "steer: v")
        result: TracedTensor = self.node(
            "iam.policy.steer", (value, vector, self.scalar(strength, "steer: strength")), type, mode=mode
        )
        return result

    def _op_compose(self, vectors: Any, strengths: Any, rule: str) -> TracedTensor:
        matrix = self.matrix(vectors, "compose: vectors")
        assert isinstance(matrix.type, TensorType)
        count, width = matrix.type.dims
        if _as_number(strengths) is not None or isinstance(strengths, TracedScalar):
            self.fail(
                f"compose: strengths: expected one number for each vector, got {describe(strengths)}", "Use a list."
            )
        result: TracedTensor = self.node(
            "iam.policy.compose",
            (matrix, self._numbers(strengths, count, "compose: strengths")),
            TensorType(None, (width,)),
            rule=rule,
        )
        return result

    def _op_project(self, h: Any, kind: str, first: Any, second: Any) -> TracedTensor:
        operands, type = self._set(h, kind, first, second, "project")
        result: TracedTensor = self.node("iam.policy.project", operands, type, kind=kind)
        return result

    def _op_verify(self, h: Any, kind: str, first: Any, second: Any, tolerance: float, message: str) -> TracedTensor:
        operands, type = self._set(h, kind, first, second, "verify")
        result: TracedTensor = self.node(
            "iam.policy.verify", operands, TensorType(type.rows, ()), kind=kind, tolerance=tolerance, message=message
        )
        return result

    def _set(self, h: Any, kind: str, first: Any, second: Any, op: str) -> tuple[tuple[Value | None, ...], TensorType]:
        """``h`` and the operands of a set; the type of ``h``."""
        value, type = self.activation(h, op)
        if (second is None) != (kind == "subspace"):
            expected = "no second operand" if kind == "subspace" else "a second operand"
            self.fail(f"{op}: expected {expected} for a {kind}, got {describe(second)}", "See iam.project.")
        if kind == "subspace":
            basis = self.matrix(first, f"{op}: first")
            assert isinstance(basis.type, TensorType)
            if basis.type.width != type.width:
                self._shape_error(f"{op}: expected first of shape (n, {type.width}), got {tuple(basis.type.dims)}")
            return (value, basis, None), type
        if kind == "box":
            low, high = (
                self._numbers(bound, type.width, f"{op}: {name}")
                for bound, name in ((first, "first"), (second, "second"))
            )
            return (value, low, high), type
        return (value, self.vector(first, type.width, f"{op}: first"), self.scalar(second, f"{op}: second")), type

    def _numbers(self, given: Any, count: int, what: str) -> Value:
        """A vector, a list of numbers, or one number for all, as ``[count]``."""
        if not isinstance(given, (list, tuple)) and not isinstance(given, TracedScalar) and _as_number(given) is None:
            return self.vector(given, count, what)
        items = list(given) if isinstance(given, (list, tuple)) else [given] * count
        if len(items) != count:
            self._shape_error(f"expected {what} of shape ({count},), got ({len(items)},)", "shape")
        result: Value
        if any(isinstance(item, TracedScalar) for item in items):
            scalars = [self.scalar(item, what) for item in items]
            result = self.node("from_elements", scalars, TensorType(None, (count,)))._value
            return result
        numbers = [_as_number(item) for item in items]
        for item, number in zip(items, numbers, strict=True):
            if number is None:
                self.fail(f"{what}: expected numbers, got {describe(item)}", "Use Python floats.")
        values = tuple(float(np.float32(number)) for number in numbers if number is not None)
        result = self.node("constants", (), TensorType(None, (count,)), values=values)._value
        return result

    def _op_encode(self, x: Any, W_enc: Any, b_enc: Any, b_dec: Any = None) -> TracedTensor:
        value, type = self.activation(x, "encode")
        weight = self.matrix(W_enc, "encode: W_enc")
        assert isinstance(weight.type, TensorType)
        d_in, n_features = weight.type.dims
        if type.width != d_in:
            self._shape_error(f"encode: expected x of shape [..., {d_in}] (rows of W_enc), got [..., {type.width}]")
        bias = self.vector(b_enc, n_features, "encode: b_enc")
        subtract = None if b_dec is None else self.vector(b_dec, d_in, "encode: b_dec")
        result: TracedTensor = self.node(
            "iam.clt.encode", (value, weight, bias, subtract), TensorType(type.rows, (n_features,))
        )
        return result

    def _op_topk(self, pre: Any, k: Any) -> TracedFeatures:
        return self._with_k("topk", self.activation(pre, "topk")[0], k)

    def _op_abstopk(self, pre: Any, k: Any) -> TracedFeatures:
        return self._with_k("abstopk", self.activation(pre, "abstopk")[0], k)

    def _op_groupmax(self, pre: Any, k: Any) -> TracedFeatures:
        return self._with_k("groupmax", self.activation(pre, "groupmax")[0], k)

    def _op_matching_pursuit(
        self, x: Any, W_dec: Any, b_dec: Any, residual_threshold: float, steps: int | None, stop: bool
    ) -> TracedFeatures:
        value, type = self.activation(x, "matching_pursuit")
        weight = self.matrix(W_dec, "matching_pursuit: W_dec")
        assert isinstance(weight.type, TensorType)
        _, width = weight.type.dims
        if type.width != width:
            self._shape_error(
                f"matching_pursuit: expected x of shape [..., {width}] (width of W_dec), got [..., {type.width}]"
            )
        subtract = None if b_dec is None else self.vector(b_dec, width, "matching_pursuit: b_dec")
        return self._pursue(value, weight, subtract, residual_threshold, width if steps is None else steps, stop)

    def _op_batch_topk(self, pre: Any, k: Any) -> TracedFeatures:
        value, type = self.activation(pre, "batch_topk")
        return self._sparse("iam.clt.batch_topk", value, k=self._check_k(k, type.width, "batch_topk"))

    def _op_jumprelu(self, pre: Any, threshold: Any) -> TracedFeatures:
        value, type = self.activation(pre, "jumprelu")
        return self._sparse("iam.clt.jumprelu", value, self.vector(threshold, type.width, "jumprelu: threshold"))

    def _op_relu(self, pre: Any) -> TracedFeatures:
        return self._sparse("iam.clt.relu", self.activation(pre, "relu")[0])

    def _op_gate(self, gate_pre: Any, magnitude_pre: Any) -> TracedFeatures:
        gate, gate_type = self.activation(gate_pre, "gate: gate_pre")
        magnitude, type = self.activation(magnitude_pre, "gate: magnitude_pre")
        self._same_rows(gate_type, type, "gate")
        return self._sparse("iam.clt.gate", gate, magnitude)

    def _op_decode(self, f: Any, W_dec: Any, b_dec: Any = None) -> TracedTensor:
        value, type = self.features(f, "decode")
        weight = self.matrix(W_dec, "decode: W_dec")
        assert isinstance(weight.type, TensorType)
        n_features, d_out = weight.type.dims
        if n_features != type.n_features:
            self._shape_error(
                f"decode: expected W_dec of shape ({type.n_features}, d_out), got ({n_features}, {d_out})"
            )
        bias = None if b_dec is None else self.vector(b_dec, d_out, "decode: b_dec")
        return self._decode(value, type, weight, bias, d_out)

    def _op_densify(self, f: Any) -> TracedTensor:
        value, type = self.features(f, "densify")
        result: TracedTensor = self.node("iam.clt.densify", (value,), TensorType(type.rows, (type.n_features,)))
        return result

    def _op_residual(self, y: Any, x: Any, W_skip: Any = None) -> TracedTensor:
        left, type = self.activation(y, "residual: y")
        right, other = self.activation(x, "residual: x")
        skip = None
        if W_skip is None:
            self._same_rows(type, other, "residual")
        else:
            self._merge_rows(type, other)
            skip = self.matrix(W_skip, "residual: W_skip")
            assert isinstance(skip.type, TensorType)
            if skip.type.dims != (other.width, type.width):
                self._shape_error(
                    f"residual: expected W_skip of shape ({other.width}, {type.width}), got {skip.type.dims}"
                )
        result: TracedTensor = self.node("iam.clt.residual", (left, right, skip), type)
        return result

    def _same_rows(self, a: TensorType, b: TensorType, op: str) -> None:
        if a.dims != b.dims:
            self._shape_error(f"{op}: expected two activations of one width, got {a} and {b}")
        self._merge_rows(a, b)

    def _merge_rows(self, a: TensorType | FeaturesType, b: TensorType | FeaturesType) -> None:
        assert a.rows is not None and b.rows is not None
        if None not in (a.rows.size, b.rows.size) and a.rows.size != b.rows.size:
            self._shape_error(f"expected operands with the same number of rows, got {a} and {b}", "shape")
        if a.rows.root() is not b.rows.root() and (a.rows.root().derived or b.rows.root().derived):
            self._shape_error(
                f"{a} and {b} do not have the same rows: one has chosen positions of a prompt only", "shape"
            )
        a.rows.merge(b.rows)

    # Features.

    _EDIT_OPERANDS: ClassVar[dict[str, int]] = {"set": 1, "scale": 1, "clamp": 2, "ablate": 0}

    def _op_edit(self, f: Any, features: Any, mode: str, a: Any = None, b: Any = None) -> TracedFeatures:
        value, type = self.features(f, mode)
        index, operands = self._edit_arguments(type, features, mode, a, b)
        k = type.k if type.k is None or mode in ("scale", "ablate") else type.k + len(index)
        if not index:
            result: TracedFeatures = self._wrap(value)
            return result
        result = self.node(
            "iam.clt.edit",
            (value, *operands),
            FeaturesType(type.rows, type.n_features, k),
            mode=mode,
            features=index,
        )
        if value in self._statistics:
            self._statistics[result._value] = self._statistics[value]
        return result

    def _op_delta(self, f: Any, features: Any, mode: str, a: Any = None, b: Any = None) -> TracedFeatures:
        value, type = self.features(f, "delta")
        index, operands = self._edit_arguments(type, features, mode, a, b)
        if not index:
            self.fail("delta of no features", "Name at least one feature.")
        result: TracedFeatures = self.node(
            "iam.clt.delta",
            (value, *operands),
            FeaturesType(type.rows, type.n_features, len(index)),
            mode=mode,
            features=index,
        )
        return result

    def _op_sub(self, f1: Any, f2: Any) -> TracedFeatures:
        left, type = self.features(f1, "sub")
        right, other = self.features(f2, "sub")
        if type.n_features != other.n_features:
            self._shape_error(f"sub: expected features of one dictionary, got {type} and {other}")
        if (type.k is None) != (other.k is None):
            self.fail(
                f"sub: expected both features with k slots or both without, got {type} and {other}",
                "Subtract the decoded activations instead.",
            )
        self._merge_rows(type, other)
        k = None if type.k is None or other.k is None else type.k + other.k
        result: TracedFeatures = self.node("iam.clt.sub", (left, right), FeaturesType(type.rows, type.n_features, k))
        return result

    def _edit_arguments(
        self, type: FeaturesType, features: Any, mode: str, a: Any, b: Any
    ) -> tuple[tuple[int, ...], tuple[Value | None, Value | None]]:
        if mode not in self._EDIT_OPERANDS:
            raise ArgumentError(
                f'iam.jit({self.name}): unknown edit "{mode}"; {suggestion(str(mode), self._EDIT_OPERANDS)}'
            )
        if isinstance(features, Traced):
            self.fail(
                f"{mode}: which features are edited must be known when the program is compiled, got {features!r}",
                "Use Python ints; pass them as int arguments or refer to them from outside.",
            )
        index = features.detach().cpu().numpy() if is_torch(features) else np.asarray(features)
        if index.size == 0:
            index = index.astype(np.int64)
        if index.dtype.kind not in "iu" or index.ndim > 1:
            self._dtype_error(f"{mode}: expected features to be an int or a list of ints, got {features!r}")
        chosen = tuple(int(i) for i in index.reshape(-1))
        for i in chosen:
            if not 0 <= i < type.n_features:
                raise ArgumentError(
                    f"iam.jit({self.name}): {mode}: expected features in 0..{type.n_features - 1}, got {i} "
                    f"({self.where()})",
                    code="feature-range",
                )
        if len(set(chosen)) != len(chosen):
            twice = sorted({i for i in chosen if chosen.count(i) > 1})
            raise ArgumentError(
                f"iam.jit({self.name}): {mode}: expected distinct features, got {twice} more than once ({self.where()})",
                code="feature-duplicate",
            )
        given = (a is not None) + (b is not None)
        if given != self._EDIT_OPERANDS[mode] or (b is not None and a is None):
            raise ArgumentError(
                f"iam.jit({self.name}): {mode} takes {self._EDIT_OPERANDS[mode]} operand(s), got {given} ({self.where()})"
            )
        if not chosen:
            return (), (None, None)
        low, high = self._operand(a, len(chosen), mode), self._operand(b, len(chosen), mode)
        self._check_clamp(low, high, chosen)
        return chosen, (low, high)

    def _check_clamp(self, low: Value | None, high: Value | None, chosen: tuple[int, ...]) -> None:
        if isinstance(low, Node) and isinstance(high, Node) and low.op == high.op == "constants":
            for i, (least, most) in enumerate(zip(low.attributes["values"], high.attributes["values"], strict=True)):
                if least > most:
                    raise ArgumentError(
                        f"iam.jit({self.name}): clamp expects low <= high, got {least} > {most} for feature "
                        f"{chosen[i]} ({self.where()})"
                    )

    def _operand(self, value: Any, count: int, mode: str) -> Value | None:
        """An operand of an edit as ``[count]``: one number for each edited feature."""
        if value is None:
            return None
        what = f"{mode}: the operand"
        if isinstance(value, TracedTensor) or (
            (isinstance(value, np.ndarray) or is_torch(value)) and value.ndim == 1 and value.shape[0] == count
        ):
            return self.vector(value, count, what)
        several = isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim == 1)
        items = list(value) if several else [value]
        if len(items) not in (1, count):
            self._shape_error(
                f"{mode}: expected a number or {count} numbers, one for each feature, got {len(items)}", "shape"
            )
        numbers = [None if isinstance(item, TracedScalar) else _as_number(item) for item in items]
        for item, number in zip(items, numbers, strict=True):
            if number is None and not isinstance(item, TracedScalar):
                self.fail(f"{what}: expected a number or {count} numbers, got {describe(item)}", "Use Python floats.")
            if number is not None and not math.isfinite(number):
                raise NonFiniteError(
                    f"iam.jit({self.name}): {mode}: expected finite numbers, got {number} ({self.where()})"
                )
        repeat = count if len(items) == 1 else 1
        result: Value
        if all(number is not None for number in numbers):
            values = tuple(float(np.float32(number)) for number in numbers if number is not None) * repeat
            result = self.node("constants", (), TensorType(None, (count,)), values=values)._value
        else:
            scalars = [self.scalar(item, what) for item in items] * repeat
            result = self.node("from_elements", scalars, TensorType(None, (count,)))._value
        return result

    # Arithmetic.

    def binary(self, op: str, left: Any, right: Any) -> Any:
        """``left op right`` element by element; at least one is traced."""
        symbol = _SYMBOLS[op]
        a, b = (self._elementwise(x, f"{describe(left)} {symbol} {describe(right)}") for x in (left, right))
        for value in (a, b):
            if not isinstance(value.type, (ScalarType, TensorType)) or getattr(value.type, "element", "f32") != "f32":
                self.fail(f"{describe(left)} {symbol} {describe(right)}: expected numbers and tensors", "Return it.")
        if isinstance(a.type, ScalarType):
            return self.node(op, (a, b), b.type)
        if isinstance(b.type, ScalarType):
            return self.node(op, (a, b), a.type)
        assert isinstance(a.type, TensorType)
        assert isinstance(b.type, TensorType)
        if a.type.dims != b.type.dims:
            self._shape_error(f"{symbol}: expected two tensors of one width, got {a.type} and {b.type}")
        if a.type.rows is not None and b.type.rows is not None:
            self._merge_rows(a.type, b.type)
        return self.node(op, (a, b), a.type if a.type.rows is not None else b.type)

    def _elementwise(self, x: Any, expression: str) -> Value:
        if isinstance(x, TracedFeatures):
            self.fail(
                f"{expression}: features take part in no arithmetic but their difference",
                "Use .set, .scale, .clamp, .ablate, f - g, or .to_dense().",
            )
        if isinstance(x, Traced):
            return self.own(x)
        if isinstance(x, _RowCount):
            x._use()
        number = _as_number(x)
        if number is not None:
            return self.constant(number)
        if isinstance(x, np.ndarray) or is_torch(x):
            return self.array(x, f"an operand of {expression}")
        self.fail(f"{expression} cannot be recorded", "Operands are traced values, numbers, and vectors [d].")


_SYMBOLS = {"arith.addf": "+", "arith.subf": "-", "arith.mulf": "*", "arith.divf": "/"}


def _as_number(x: Any) -> float | None:
    """A Python or NumPy number, or a 0-dimensional array, as a float; None for everything else."""
    if isinstance(x, (int, float, np.integer, np.floating)):
        return float(x)
    if (isinstance(x, np.ndarray) and x.ndim == 0 and x.dtype.kind in "iuf") or (is_torch(x) and x.ndim == 0):
        return float(x)
    return None


# Stand-ins.


class _NoAttributeError(TraceError, AttributeError):
    """Both a TraceError and what ``hasattr`` expects."""


def _refuse(what: str, hint: str) -> Callable[..., Any]:
    def method(self: Traced, *_args: Any, **_kwargs: Any) -> Any:
        self._trace.check_active()
        self._trace.fail(f"{what} {self!r}", hint)

    return method


_UNKNOWN = "Its numbers do not exist while the function is being recorded. "
_BRANCH = _UNKNOWN + (
    "Branch on Python values (int, bool and str arguments, closures), or return the tensor and decide outside."
)
_READ = _UNKNOWN + "Return it and read it from the result."
_VALUES = SUPPORTED


class Traced:
    """A stand-in for a value of the program being recorded."""

    __slots__ = ("_trace", "_value")

    def __init__(self, trace: Trace, value: Value) -> None:
        self._trace = trace
        self._value = value

    @property
    def __iam_trace__(self) -> Trace:
        self._trace.check_active()
        return self._trace

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self._value.type if not isinstance(self._value.type, ScalarType) else ''}"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        self._trace.check_active()
        raise _NoAttributeError(
            f"iam.jit({self._trace.name}): .{name} of {self!r} cannot be recorded ({self._trace.where()}). {hint_for(name)}"
            f"{self._trace.excerpt()}"
        )

    __hash__ = object.__hash__
    __bool__ = _refuse("no truth value (if, while, and, or, not) for", _BRANCH)
    __float__ = _refuse("no float() of", _READ)
    __int__ = _refuse("no int() of", _READ)
    __index__ = _refuse("no int index from", _READ)
    __complex__ = _refuse("no complex() of", _READ)
    __array__ = _refuse("no NumPy array of", _READ)
    __eq__ = _refuse("no comparison of", _BRANCH)
    __ne__ = _refuse("no comparison of", _BRANCH)
    __lt__ = _refuse("no comparison of", _BRANCH)
    __le__ = _refuse("no comparison of", _BRANCH)
    __gt__ = _refuse("no comparison of", _BRANCH)
    __ge__ = _refuse("no comparison of", _BRANCH)
    __len__ = _refuse("no len() of", "The number of rows is only known to a call; one program serves every batch size.")
    __iter__ = _refuse("no iteration over", "Programs act on all rows alike; loop outside of the traced function.")
    __getitem__ = _refuse("no indexing of", "Index the arguments before the call, or the results after it.")
    __setitem__ = _refuse("no assignment into", "Traced values do not change; features have .set, .scale, .clamp.")
    __contains__ = _refuse("no `in` for", _BRANCH)
    __matmul__ = _refuse("no @ with", "Matrix products are recorded through coders or iam.ops.encode(x, W, b).")
    __rmatmul__ = __matmul__
    __pow__ = _refuse("no ** of", _VALUES)
    __rpow__ = __pow__
    __mod__ = _refuse("no % of", _VALUES)
    __rmod__ = __mod__
    __floordiv__ = _refuse("no // of", _VALUES)
    __rfloordiv__ = __floordiv__
    __abs__ = _refuse("no abs() of", _VALUES)
    __round__ = _refuse("no round() of", _VALUES)
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = _refuse("no & | ^ of", _BRANCH)
    __invert__ = _refuse("no ~ of", _BRANCH)

    # NumPy and torch functions that meet a stand-in.

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        op = _UFUNCS.get(ufunc.__name__)
        if op is not None and method == "__call__" and not kwargs:
            return self._trace.binary(op, *inputs)
        if ufunc.__name__ == "negative" and method == "__call__" and not kwargs:
            return self._trace.node("arith.negf", (self._trace.own(self),), self._value.type)
        self._trace.check_active()
        self._trace.fail(f"numpy.{ufunc.__name__} of {self!r} cannot be recorded", hint_for(ufunc.__name__))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        self._trace.check_active()
        self._trace.fail(f"numpy.{func.__name__} of {self!r} cannot be recorded", hint_for(func.__name__))

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", str(func))
        traced = _first_traced([*args, *(kwargs or {}).values()])
        assert traced is not None
        op = _TORCH.get(name)
        if op is not None and len(args) == 2 and not kwargs:
            left, right = reversed(args) if name in _TORCH_REVERSED else args
            return traced._trace.binary(op, left, right)
        traced._trace.check_active()
        traced._trace.fail(f"torch.{name} of {traced!r} cannot be recorded", hint_for(name))


def _first_traced(values: Any) -> Traced | None:
    for value in values:
        if isinstance(value, Traced):
            return value
        if isinstance(value, (list, tuple)) and (found := _first_traced(value)) is not None:
            return found
    return None


_UFUNCS = {
    "add": "arith.addf",
    "subtract": "arith.subf",
    "multiply": "arith.mulf",
    "divide": "arith.divf",
    "true_divide": "arith.divf",
}
_TORCH = {
    **_UFUNCS,
    "sub": "arith.subf",
    "mul": "arith.mulf",
    "div": "arith.divf",
    "__add__": "arith.addf",
    "__radd__": "arith.addf",
    "__sub__": "arith.subf",
    "__rsub__": "arith.subf",
    "rsub": "arith.subf",
    "__mul__": "arith.mulf",
    "__rmul__": "arith.mulf",
    "__truediv__": "arith.divf",
    "__rtruediv__": "arith.divf",
    "__rdiv__": "arith.divf",
}
_TORCH_REVERSED = {"__radd__", "__rsub__", "rsub", "__rmul__", "__rtruediv__", "__rdiv__"}


class _Arithmetic(Traced):
    __slots__ = ()

    def __add__(self, other: Any) -> Any:
        return self._trace.binary("arith.addf", self, other)

    def __radd__(self, other: Any) -> Any:
        return self._trace.binary("arith.addf", other, self)

    def __sub__(self, other: Any) -> Any:
        return self._trace.binary("arith.subf", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._trace.binary("arith.subf", other, self)

    def __mul__(self, other: Any) -> Any:
        return self._trace.binary("arith.mulf", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self._trace.binary("arith.mulf", other, self)

    def __truediv__(self, other: Any) -> Any:
        return self._trace.binary("arith.divf", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._trace.binary("arith.divf", other, self)

    def __neg__(self) -> Any:
        trace = self._trace
        return trace.node("arith.negf", (trace.own(self),), self._value.type)

    def __pos__(self) -> Any:
        return self


class TracedScalar(_Arithmetic):
    """A number that every call gives anew."""

    __slots__ = ()


class _RowCount:
    """Stands where a shape has the number of rows."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def __repr__(self) -> str:
        return "rows"

    def _use(self, *_: Any) -> Any:
        self._trace.fail(
            "the number of rows is not known while the function is being recorded",
            "One program serves every batch size: use the shape of the argument outside of the function, or "
            "iam.jit(static_rows=True), which makes a program for each number of rows.",
        )

    __hash__ = object.__hash__
    __index__ = __int__ = __float__ = __bool__ = _use
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _use
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _use


def _row_count(traced: TracedTensor | TracedFeatures) -> Any:
    rows = traced._type.rows
    return _RowCount(traced._trace) if rows is None or rows.size is None else rows.size


class TracedTensor(_Arithmetic):
    """An activation ``[rows, d]`` or a vector ``[d]`` of the program being recorded.

    ``+ - * /`` and unary minus with tensors, vectors of width d and numbers; coders and :mod:`iam.ops` do the rest.
    """

    __slots__ = ()

    @property
    def _type(self) -> TensorType:
        assert isinstance(self._value.type, TensorType)
        return self._value.type

    @property
    def shape(self) -> tuple[Any, ...]:
        """``(rows, d)`` with a placeholder for rows that only a call knows, or ``(d,)``."""
        return self._type.dims if self._type.rows is None else (_row_count(self), *self._type.dims)

    @property
    def ndim(self) -> int:
        return len(self._type.dims) + (self._type.rows is not None)

    @property
    def dtype(self) -> Any:
        """float32: compiled arithmetic, whatever float type comes in."""
        return np.dtype(np.float32)

    def __getitem__(self, index: Any) -> TracedTensor:
        """``x[:, j]``: a number for each row; ``x[:, a:b]``: columns."""
        from iam.compiler import _attribution

        return _attribution.columns(self._trace, self, index)

    def __matmul__(self, other: Any) -> TracedTensor:
        """``x @ v`` with a vector ``[d]``: a number for each row."""
        from iam.compiler import _attribution

        return _attribution.row_products(self._trace, self, other)


class TracedPath(Traced):
    """The points of a path, for :func:`iam.ops.grad`."""

    __slots__ = ()


class TracedPrompt(Traced):
    """A :class:`iam.models.Prompt` in the program being recorded."""

    __slots__ = ("_prompt",)

    def __init__(self, trace: Trace, value: Value) -> None:
        super().__init__(trace, value)
        assert isinstance(value, Input)
        self._prompt = trace.prompts[value]

    def run(
        self, h: Any = None, *, from_: Any = None, to: Any, tokens: Any = None, positions: Any = None
    ) -> TracedTensor:
        """See :meth:`iam.models.Prompt.run`."""
        from iam.compiler import _attribution

        return _attribution.run(self._trace, self, h, from_=from_, to=to, tokens=tokens, positions=positions)


class TracedFeatures(Traced):
    """Sparse features ``[rows, n_features]`` of the program being recorded; the methods of :class:`SparseFeatures`."""

    __slots__ = ()

    @property
    def _type(self) -> FeaturesType:
        assert isinstance(self._value.type, FeaturesType)
        return self._value.type

    @property
    def shape(self) -> tuple[Any, ...]:
        return (_row_count(self), self._type.n_features)

    @property
    def ndim(self) -> int:
        return 2

    @property
    def n_features(self) -> int:
        return self._type.n_features

    @property
    def k(self) -> int | None:
        """Slots per row, or None in CSR form."""
        return self._type.k

    def set(self, features: Any, value: Any) -> TracedFeatures:
        """See :meth:`SparseFeatures.set`; ``value`` may be a traced number or vector."""
        return self._trace._op_edit(self, features, "set", value)

    def scale(self, features: Any, factor: Any) -> TracedFeatures:
        """See :meth:`SparseFeatures.scale`."""
        return self._trace._op_edit(self, features, "scale", factor)

    def clamp(self, features: Any, low: Any, high: Any) -> TracedFeatures:
        """See :meth:`SparseFeatures.clamp`."""
        return self._trace._op_edit(self, features, "clamp", low, high)

    def ablate(self, features: Any) -> TracedFeatures:
        """See :meth:`SparseFeatures.ablate`."""
        return self._trace._op_edit(self, features, "ablate")

    def to_dense(self) -> TracedTensor:
        """``[rows, n_features]``."""
        return self._trace._op_densify(self)

    def __sub__(self, other: Any) -> TracedFeatures:
        return self._trace._op_sub(self, other)

    def __rsub__(self, other: Any) -> TracedFeatures:
        return self._trace._op_sub(other, self)

    def _no_arithmetic(self, other: Any) -> Any:
        self._trace._elementwise(self, f"arithmetic of {self!r} and {describe(other)}")

    __add__ = __radd__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _no_arithmetic
