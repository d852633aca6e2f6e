"""The exceptions of IAM (implementation: :mod:`iam.core.errors`)."""

from iam.core.errors import (
    CODES,
    ArgumentError,
    CompileError,
    DtypeError,
    ErrorCode,
    FormatError,
    IamError,
    InternalError,
    MissingDependencyError,
    NonFiniteError,
    OutOfMemoryError,
    PolicyError,
    ShapeError,
    SiteError,
    TraceError,
)

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
