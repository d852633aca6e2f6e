"""Helpers that configurations and readers share: nearest names, and checks of single values."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from iam.core.errors import IamError

__all__ = ["nearest", "suggestion", "take_bool", "take_int", "take_str"]


def nearest(name: str, options: Iterable[str]) -> str | None:
    """The option most like ``name``, or None when none is near.

    >>> nearest("jumpreul", ["topk", "jumprelu", "standard"])
    'jumprelu'
    """
    by_lower = {option.lower(): option for option in options}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def suggestion(name: str, options: Iterable[str]) -> str:
    """The tail of an error message about an unknown name.

    >>> suggestion("topkk", ["topk", "standard"])
    'did you mean "topk"? Known: standard, topk'
    """
    options = sorted(options)
    known = f"Known: {', '.join(options)}"
    near = nearest(name, options)
    return f'did you mean "{near}"? {known}' if near else known


def take_int(value: Any, *, what: str, low: int, high: int | None, error: type[IamError], code: str) -> int:
    """``value`` as an int in ``low..high``; JSON's 32.0 counts as 32, true does not count as 1."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if hasattr(value, "__index__") and not isinstance(value, bool):
        value = value.__index__()
    span = f"an integer >= {low}" if high is None else f"an integer in {low}..{high}"
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
        raise error(f"{what}: expected {span}, got {value!r}", code=code)
    return value


def take_bool(value: Any, *, what: str, error: type[IamError], code: str) -> bool:
    """``value`` if it is true or false."""
    if not isinstance(value, bool):
        raise error(f"{what}: expected true or false, got {value!r}", code=code)
    return value


def take_str(value: Any, *, what: str, options: Iterable[str], error: type[IamError], code: str) -> str:
    """``value`` if it is one of ``options``."""
    options = tuple(options)
    if not isinstance(value, str):
        raise error(f"{what}: expected one of {', '.join(sorted(options))}, got {value!r}", code=code)
    if value not in options:
        raise error(f'{what}: unknown value "{value}"; {suggestion(value, options)}', code=code)
    return value
