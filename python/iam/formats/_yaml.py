"""Small YAML configs, read by ``yaml.safe_load`` where PyYAML is installed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iam.core.errors import FormatError, MissingDependencyError
from iam.formats._atomic import write_atomically

__all__ = ["read_yaml", "write_yaml"]

_MAX = 64 << 10


def _yaml(what: str) -> Any:
    try:
        return importlib.import_module("yaml")
    except ImportError as error:
        raise MissingDependencyError(
            f'{what}: reading and writing YAML needs PyYAML; install it with: pip install pyyaml (or "iam[models]")'
        ) from error


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML mapping of plain values. Anchors are refused: a few of them can unpack to gigabytes.

    Raises:
        FormatError: no YAML mapping, or longer than a config is (``format``).
        MissingDependencyError: PyYAML is not installed.
    """
    yaml = _yaml(str(file))
    if file.stat().st_size > _MAX:
        raise FormatError(f"{file}: expected a config of at most {_MAX} bytes", code="format")
    try:
        text = file.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise FormatError(f"{file}: aliases (*name) are not read in configs", code="format")
        raw = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError, KeyError, OverflowError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{file}: expected YAML: {error}", code="format") from error
    if raw is None:
        raw = {}
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise FormatError(f"{file}: expected a YAML mapping, got {type(raw).__name__}", code="format")
    return raw


def write_yaml(file: Path, record: Mapping[str, Any]) -> None:
    """Write a YAML mapping atomically, in the order given."""
    text = _yaml(str(file)).safe_dump(dict(record), sort_keys=False)
    write_atomically(file, text.encode("utf-8"))
