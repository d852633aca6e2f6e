"""The compiler: :func:`jit` records Python functions as programs, :func:`compile_module` takes programs as text."""

from iam.compiler._engine import PIPELINES, STAGES, CompiledModule, Pipeline, compile_module, pipelines
from iam.compiler._jit import JitFunction, Lowered, jit

__all__ = [
    "PIPELINES",
    "STAGES",
    "CompiledModule",
    "JitFunction",
    "Lowered",
    "Pipeline",
    "compile_module",
    "jit",
    "pipelines",
]
