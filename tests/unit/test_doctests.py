"""The examples in docstrings give what they show."""

import doctest
import importlib
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "python" / "iam"


def modules() -> list[str]:
    """Python modules of the source tree that have examples, by name. MLIR's generated bindings have none of ours."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts[-1] not in ("__init__", "__main__") and ">>>" in path.read_text():
            found.append(".".join(parts))
        elif parts[-1] == "__init__" and ">>>" in path.read_text():
            found.append(".".join(parts[:-1]))
    return found


@pytest.mark.parametrize("name", modules())
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples in {name} fail; see the output above"
