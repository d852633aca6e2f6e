"""Arguments and results of a call as trees: what is a leaf, what is a container, and which calls share a recording.

Containers are lists, tuples (named ones, too), dicts, and dataclasses that hold arrays. A call's arguments are flattened
into leaves and a key that says what kind each leaf is; calls with one key share a recording. Rows do not enter the key.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from iam.compiler._trace import Traced, describe, is_coder
from iam.core.errors import TraceError
from iam.core.features import SparseFeatures
from iam.core.lazy import is_torch
from iam.core.sites import Site

__all__ = [
    "ARRAY",
    "CODER",
    "CONSTANT",
    "FEATURES",
    "NUMBER",
    "PROMPT",
    "Static",
    "TracedArgumentError",
    "fields_of",
    "flatten",
    "kind_of",
    "leaves_of",
    "new_like",
    "rebuild",
]  # fmt: skip

ARRAY, NUMBER, CODER, FEATURES, CONSTANT, TRACED, PROMPT = range(7)


class TracedArgumentError(Exception):
    """The function is called from one that is being recorded."""


class Static:
    """Around an argument that is known while recording, whatever it is."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def kind_of(leaf: Any) -> int:
    if isinstance(leaf, np.ndarray) or is_torch(leaf):
        return ARRAY
    if isinstance(leaf, (float, np.floating)):
        return NUMBER
    if isinstance(leaf, SparseFeatures):
        return FEATURES
    if isinstance(leaf, Traced):
        return TRACED
    if is_coder(leaf):
        return CODER
    if hasattr(type(leaf), "__iam_handle__"):
        return PROMPT
    return CONSTANT


_KINDS: dict[type, int] = {np.ndarray: ARRAY, float: NUMBER, SparseFeatures: FEATURES}
"""Kinds of the types that are common, so that a call does not have to find them out."""


def fields_of(value: Any) -> list[str] | None:
    """The fields of a dataclass that is a container: one that holds arrays or cannot be hashed. None for anything else.

    Other dataclasses are constants: a frozen config decides what is recorded.
    """
    if not hasattr(type(value), "__dataclass_fields__") or is_coder(value) or isinstance(value, SparseFeatures):
        return None
    names = [field.name for field in dataclasses.fields(value)]
    if type(value).__hash__ is not None and not any(_holds_arrays(getattr(value, name, None)) for name in names):
        return None
    return names


def _holds_arrays(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_holds_arrays(item) for item in value)
    if isinstance(value, dict):
        return any(_holds_arrays(item) for item in value.values())
    if fields_of(value) is not None:
        return True
    return kind_of(value) not in (CONSTANT, NUMBER)


def new_like(kind: type, extra: dict[str, Any], names: list[str], items: list[Any]) -> Any:
    """A dataclass of these fields, made without ``__init__``, which may want arrays where a recording has stand-ins."""
    made: Any = object.__new__(kind)
    for name, item in (*extra.items(), *zip(names, items, strict=True)):
        object.__setattr__(made, name, item)
    return made


def others_of(value: Any, names: list[str]) -> dict[str, Any]:
    """What a dataclass has beside its fields."""
    return {name: item for name, item in getattr(value, "__dict__", {}).items() if name not in names}


def flatten(value: Any, leaves: list[Any], key: list[Any]) -> None:
    kind = _KINDS.get(type(value))
    if kind is None:
        if isinstance(value, (list, tuple)):
            key.append((type(value), len(value)))
            for item in value:
                flatten(item, leaves, key)
            return
        if isinstance(value, dict):
            key.append((dict, tuple(value)))
            for item in value.values():
                flatten(item, leaves, key)
            return
        if type(value) is Static:
            _constant(value.value, leaves, key)
            return
        kind = kind_of(value)
        if kind == TRACED:
            raise TracedArgumentError
        if kind == ARRAY:
            _KINDS[type(value)] = kind
        elif kind == CONSTANT and (names := fields_of(value)) is not None:
            key.append((type(value), tuple(names)))
            for name in names:
                flatten(getattr(value, name), leaves, key)
            return
    if kind == CONSTANT:
        _constant(value, leaves, key)
        return
    leaves.append(value)
    if kind == ARRAY:
        ndim = value.ndim
        if ndim >= 2:
            key.append(("rows", value.shape[-1]))
        elif ndim == 1:
            key.append(("vector", value.shape[0]))
        else:
            key.append("number")
    elif kind == NUMBER:
        key.append("number")
    elif kind == CODER:
        key.append(("coder", id(value)))
    elif kind == PROMPT:
        key.append(("prompt", value.signature))
    else:
        key.append(("features", value.n_features, value.k, value.row_scale is None))


def _constant(value: Any, leaves: list[Any], key: list[Any]) -> None:
    leaves.append(value)
    try:
        hash(value)
    except TypeError:
        raise TraceError(
            f"iam.jit: an argument is {describe(value)}; arguments are arrays, numbers, coders, features, hashable "
            "constants, and lists, tuples, dicts and dataclasses of them"
        ) from None
    # 0.0 == -0.0, and NaN is not NaN: floats go by their text
    key.append((type(value), value.hex() if isinstance(value, float) else value))


def rebuild(value: Any, leaves: Iterator[Any]) -> Any:
    """``value`` with its leaves replaced, in the order of :func:`flatten`."""
    if isinstance(value, (list, tuple)):
        items = [rebuild(item, leaves) for item in value]
        if isinstance(value, list):
            return items
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, dict):
        return {name: rebuild(item, leaves) for name, item in value.items()}
    if type(value) is not Static and (names := fields_of(value)) is not None:
        items = [rebuild(getattr(value, name), leaves) for name in names]
        return new_like(type(value), others_of(value, names), names, items)
    return next(leaves)


def leaves_of(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[str], list[str], list[Site | None]]:
    """Of every leaf: a name, made of its parameter's and the path into containers; the parameter; the site.

    Under a key that is a :class:`Site`, as in what ``LanguageModel.capture`` returns, is an activation of that site.
    """
    names: list[str] = []
    parameters: list[str] = []
    sites: list[Site | None] = []

    def walk(value: Any, name: str, parameter: str, site: Site | None) -> None:
        if isinstance(value, (list, tuple)):
            labels = getattr(value, "_fields", None) or range(len(value))
            for label, item in zip(labels, value, strict=True):
                walk(item, f"{name}_{label}", parameter, site)
        elif isinstance(value, dict):
            for i, (label, item) in enumerate(value.items()):
                if isinstance(label, Site):
                    walk(item, f"{name}_{label.kind}_{label.layer}", parameter, label)
                else:
                    walk(item, f"{name}_{label if _is_word(label) else i}", parameter, site)
        elif type(value) is not Static and (fields := fields_of(value)) is not None:
            for field in fields:
                walk(getattr(value, field), f"{name}_{field}", parameter, site)
        else:
            names.append(name)
            parameters.append(parameter)
            sites.append(site)

    for i, arg in enumerate(args):
        name = parameter_of(function, i)
        walk(arg, name, name, None)
    for name, arg in kwargs.items():
        walk(arg, name, name, None)
    return names, parameters, sites


def _is_word(label: Any) -> bool:
    return isinstance(label, str) and label.isidentifier() and label.isascii()


def parameter_of(function: Callable[..., Any], position: int) -> str:
    """The name of the parameter that takes the argument at ``position``."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    if position < len(parameters) and parameters[position].kind in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        return parameters[position].name
    return f"arg{position}"
