"""Heavy libraries load where they are used, never at ``import iam``."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from iam.core.errors import MissingDependencyError

__all__ = ["is_torch", "native", "require", "torch_if_loaded"]


def torch_if_loaded() -> Any:
    """The ``torch`` module if somebody imported it, else None. Never imports it: an object can only be a tensor if
    its library is loaded."""
    return sys.modules.get("torch")


def is_torch(value: object) -> bool:
    """Whether ``value`` is a torch tensor."""
    torch = torch_if_loaded()
    return torch is not None and hasattr(torch, "Tensor") and isinstance(value, torch.Tensor)


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import ``module``, or say which extra of IAM brings it.

    Raises:
        MissingDependencyError: it is not installed (code ``missing-dependency``).
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and not (module + ".").startswith(error.name + "."):
            raise  # the module is there; something inside it is not
        raise MissingDependencyError(
            f'{purpose} needs "{module}", which is not installed; in a checkout of IAM: pip install ".[{extra}]"'
        ) from error


_native: ModuleType | None = None


def native() -> Any:
    """``iam._runtime``, the compiled kernels.

    Raises:
        MissingDependencyError: the package was not built, or its library does not load here (code ``native-missing``).
    """
    global _native
    if _native is None:
        try:
            _native = importlib.import_module("iam._runtime")
        except ImportError as error:
            raise MissingDependencyError(
                "iam._runtime, the compiled part of IAM, could not be loaded "
                f"({error}). It is built by `pip install .` in a checkout of IAM; if you run from the source tree "
                "without installing, do that first. `iam doctor` shows what is found.",
                code="native-missing",
            ) from error
    return _native
