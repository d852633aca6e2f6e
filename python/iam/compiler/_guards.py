"""What a recorded program took from outside of its arguments, and whether that is still so.

A function may refer to coders, vectors and numbers of its closure and module. They are read while the function is
recorded; a guard notices at a later call that such a name has been bound to something else (or that a list of numbers
has changed), and the function is recorded again. The contents of an array that enters the program are read at every call;
a number or array that Python computes from one (``1 + v``) is computed while recording, so a change in place also leads to
a new recording. Of objects that the function refers to, or is given as constants (``self`` of a method), the attributes
whose names occur in its code are watched, and in the functions and methods that it calls by name. Above 4,096 elements only a sample of a NumPy array is compared.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from iam.compiler._trace import is_coder
from iam.core.lazy import is_torch

__all__ = ["Guards"]

_MISSING = object()
_SCALARS = (bool, int, float, complex, str, bytes, type(None))
_LIBRARIES = ("iam", "numpy", "torch")
_SNAPSHOT = 1024  # longest list that is compared at every call
_MOST_OBJECTS = 256
_SAMPLE = 4096  # elements of an array that are compared at every call: about a microsecond


def _same(value: Any, expected: Any) -> bool:
    return value is expected or (
        type(value) is type(expected) and isinstance(value, _SCALARS) and bool(value == expected)
    )


def _snapshot(value: Any) -> Any:
    """A copy of a small mutable value that may decide what is recorded, or None."""
    if isinstance(value, (list, tuple, set, frozenset)) and len(value) <= _SNAPSHOT:
        items = tuple(value)
        if all(isinstance(item, _SCALARS) for item in items):
            return items
    elif isinstance(value, dict) and len(value) <= _SNAPSHOT:
        if all(isinstance(item, _SCALARS) for pair in value.items() for item in pair):
            return tuple(value.items())
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return _sample(value)
    elif is_torch(value):
        # In-place operations raise the version; tensors of inference mode have none.
        return _sample(value.detach().cpu().numpy()) if value.is_inference() else value._version
    return None


def _sample(array: np.ndarray) -> bytes:
    if array.size > _SAMPLE:
        array = array.flat[:: array.size // _SAMPLE]
    return array.tobytes()


class Guards:
    """The names that ``function`` and the functions it calls by name refer to, with their values now.

    Args:
        constants: Arguments that are known while recording; functions and objects among them are looked into.
    """

    def __init__(self, function: Callable[..., Any], constants: Sequence[tuple[str, Any]] = ()) -> None:
        self.names: dict[int, str] = {}  # id of a referenced object -> its name
        self.coders: list[Any] = []
        self._cells: list[tuple[types.CellType, Any]] = []
        self._globals: list[tuple[dict[str, Any], str, Any]] = []  # modules' names, and attributes of objects
        self._mutable: list[tuple[Any, Any]] = []
        self._words: set[str] = set()  # names in the code: attributes among them
        self._objects: dict[int, Any] = {}
        self._read: set[tuple[int, str]] = set()
        seen: set[int] = set()
        pending = [function]
        for name, value in constants:
            if not isinstance(value, _SCALARS):
                pending.extend(self._note(name, value))
        while pending:
            found = pending.pop()
            if isinstance(found, types.MethodType):
                self._keep_object(found.__self__)
                found = found.__func__
            wrapped = getattr(found, "__wrapped__", None)
            if wrapped is not None and callable(wrapped):
                pending.append(wrapped)
            if isinstance(found, types.FunctionType) and id(found) not in seen:
                seen.add(id(found))
                if (found.__module__ or "").split(".")[0] not in _LIBRARIES or found is function:
                    self._words |= _global_names(found.__code__)
                    pending.extend(self._collect(found))
            if not pending:
                pending.extend(self._look_into_objects())

    def _keep_object(self, value: Any) -> None:
        """Look into ``value`` later, if it is an object of the user's with attributes."""
        theirs = (type(value).__module__ or "").split(".")[0] in (*_LIBRARIES, "builtins")
        if theirs or isinstance(value, (types.ModuleType, type)) or not hasattr(value, "__dict__"):
            return
        if len(self._objects) < _MOST_OBJECTS:
            self._objects[id(value)] = value

    def _look_into_objects(self) -> list[Any]:
        """Note the attributes that the code names; the methods among them, to be followed."""
        methods: list[Any] = []
        waiting = list(self._objects.values())
        while waiting:
            value, known = waiting.pop(), len(self._objects)
            attributes = vars(value)
            for name in sorted(self._words):
                if (id(value), name) in self._read:
                    continue
                if name in attributes:
                    self._read.add((id(value), name))
                    self._globals.append((attributes, name, attributes[name]))
                    methods.extend(self._note(name, attributes[name]))
                elif isinstance(found := getattr(type(value), name, None), types.FunctionType):
                    self._read.add((id(value), name))
                    methods.append(found)
            waiting.extend(list(self._objects.values())[known:])
        return methods

    def _collect(self, function: types.FunctionType) -> Iterator[Any]:
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            value = _content(cell)
            if value is not _MISSING:
                yield from self._note(name, value)
            self._cells.append((cell, value))
        scope = function.__globals__
        for name in sorted(_global_names(function.__code__)):
            value = scope.get(name, _MISSING)
            if value is _MISSING or isinstance(value, (types.ModuleType, type, types.BuiltinFunctionType)):
                continue
            self._globals.append((scope, name, value))
            yield from self._note(name, value)

    def _note(self, name: str, value: Any) -> Iterator[Any]:
        self.names.setdefault(id(value), name)
        if is_coder(value):
            self.coders.append(value)
        snapshot = _snapshot(value)
        if snapshot is not None:
            self._mutable.append((value, snapshot))
        if isinstance(value, (types.FunctionType, types.MethodType)) or hasattr(value, "__wrapped__"):
            yield value
        elif snapshot is None and not is_coder(value):
            self._keep_object(value)

    def hold(self) -> bool:
        """Whether every name still means what it meant."""
        for cell, expected in self._cells:
            value = _content(cell)
            if value is not expected and not _same(value, expected):
                return False
        for scope, name, expected in self._globals:
            value = scope.get(name, _MISSING)
            if value is not expected and not _same(value, expected):
                return False
        return all(_snapshot(value) == snapshot for value, snapshot in self._mutable)

    def changed(self) -> list[str]:
        """The names that mean something else now, for a message."""
        found = [
            self.names.get(id(expected), "a name of the closure")
            for cell, expected in self._cells
            if not _same(_content(cell), expected)
        ]
        found += [name for scope, name, expected in self._globals if not _same(scope.get(name, _MISSING), expected)]
        found += [
            self.names.get(id(value), "a list") for value, snapshot in self._mutable if _snapshot(value) != snapshot
        ]
        return list(dict.fromkeys(found))


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not bound
        return _MISSING


def _global_names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names
