"""Where the compiled part of IAM is installed, and the console entry of ``iam-opt``."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import NoReturn

__all__ = ["iam_opt", "install_root", "runtime_library"]


@cache
def install_root() -> Path:
    """The folder with ``_runtime``, ``lib/``, ``mlir/`` and ``bin/``.

    In an editable install this is not the folder of the Python files.

    Raises:
        MissingDependencyError: IAM was not built (code ``native-missing``).
    """
    from importlib.util import find_spec

    from iam.core.errors import MissingDependencyError

    spec = find_spec("iam._runtime")
    if spec is None or spec.origin is None:
        raise MissingDependencyError(
            "iam._runtime, the compiled part of IAM, is not installed; run `pip install .` in a checkout of IAM",
            code="native-missing",
        )
    return Path(spec.origin).parent


def runtime_library() -> Path:
    """``libiam_runtime``, the library of kernels that compiled programs call."""
    suffix = "dylib" if sys.platform == "darwin" else "so"
    return install_root() / "lib" / f"libiam_runtime.{suffix}"


def iam_opt() -> NoReturn:
    """Console entry: become the ``iam-opt`` binary."""
    executable = install_root() / "bin" / "iam-opt"
    if not executable.exists():
        sys.exit(
            f"iam-opt: {executable} is missing; IAM was built without its compiler, run `pip install .` in a checkout"
        )
    os.execv(executable, [str(executable), *sys.argv[1:]])
