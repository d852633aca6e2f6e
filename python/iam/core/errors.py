"""Every exception that IAM raises on purpose.

An error is an :class:`IamError` and also the built-in exception that Python users expect (``ValueError``, ``TypeError``,
``ImportError``...). Its ``code`` names a page in ``docs/errors/``. The message says which operation failed, what it
expected, what it got, where, and what to do:

>>> raise ShapeError("SAE.encode: expected x of shape [..., 576], got (3, 768)", code="width")
Traceback (most recent call last):
...
iam.core.errors.ShapeError: SAE.encode: expected x of shape [..., 576], got (3, 768)
"""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

__all__ = [
    "CODES",
    "ArgumentError",
    "CompileError",
    "DtypeError",
    "ErrorCode",
    "FormatError",
    "IamError",
    "InternalError",
    "MissingDependencyError",
    "NonFiniteError",
    "OutOfMemoryError",
    "PolicyError",
    "ShapeError",
    "SiteError",
    "TraceError",
]

ErrorCode = Literal[
    "architecture",
    "argument",
    "compile",
    "config-key",
    "config-value",
    "device",
    "dtype",
    "feature-duplicate",
    "feature-range",
    "file-header",
    "file-missing",
    "file-truncated",
    "format",
    "internal",
    "k-range",
    "missing-dependency",
    "mode",
    "native-missing",
    "non-finite",
    "normalization",
    "out-of-memory",
    "policy",
    "shape",
    "site",
    "tensor-dtype",
    "tensor-missing",
    "tensor-shape",
    "trace",
    "width",
]

CODES: tuple[str, ...] = get_args(ErrorCode)
"""All codes, sorted; one page each in ``docs/errors/``."""


class IamError(Exception):
    """Base of all IAM errors.

    Args:
        message: What failed, what was expected, what came, where, and what to do.
        code: One of :data:`CODES`; by default the code of the class.
    """

    default_code: ClassVar[str] = "internal"
    code: str

    def __init__(self, message: str = "", *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = self.default_code if code is None else code


class ArgumentError(IamError, ValueError):
    """An argument has the right type and a value that the operation does not take."""

    default_code = "argument"


class ShapeError(IamError, ValueError):
    """An array has the wrong rank or size."""

    default_code = "shape"


class DtypeError(IamError, TypeError):
    """An array has an element type that the operation does not take."""

    default_code = "dtype"


class NonFiniteError(IamError, ValueError):
    """An input holds NaN or infinity. The message names row, column and value."""

    default_code = "non-finite"


class PolicyError(IamError, ValueError):
    """An asserted policy does not hold: :func:`iam.verify`, eagerly or in a program.

    Args:
        row: The first row that breaks it, leading dimensions flattened.
        margin: Minus that row's distance from the set; NaN if the row holds NaN or infinity.
    """

    default_code = "policy"

    def __init__(
        self, message: str = "", *, code: str | None = None, row: int = -1, margin: float = float("nan")
    ) -> None:
        super().__init__(message, code=code)
        self.row = row
        self.margin = margin


class FormatError(IamError, ValueError):
    """A file is missing, truncated, malformed, or says something that this version does not read."""

    default_code = "format"


class SiteError(IamError, ValueError):
    """A place in a model that does not exist, or does not fit the coder attached to it."""

    default_code = "site"


class CompileError(IamError, ValueError):
    """A program was refused or could not be compiled. The message carries the compiler's diagnostics."""

    default_code = "compile"


class TraceError(IamError, TypeError):
    """A traced function did something that cannot be recorded as a program."""

    default_code = "trace"


class MissingDependencyError(IamError, ImportError):
    """A library that this call needs is not installed. The message names the extra to install."""

    default_code = "missing-dependency"


class InternalError(IamError, RuntimeError):
    """A broken invariant inside IAM: a bug, please report it."""

    default_code = "internal"


class OutOfMemoryError(IamError, MemoryError):
    """An allocation failed. The message says how much was asked for."""

    default_code = "out-of-memory"
