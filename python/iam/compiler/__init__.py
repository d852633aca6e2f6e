"""The compiler: :func:`jit` records Python functions as programs, :func:`compile_module` takes programs as text."""

from iam.compiler._disk import cache_info, clear_cache
from iam.compiler._engine import PIPELINES, STAGES, CompiledModule, Pipeline, compile_module, pipelines
from iam.compiler._explain import Explanation
from iam.compiler._jit import JitFunction, Lowered, jit
from iam.compiler._stablehlo import StablehloProgram

__all__ = [
    "PIPELINES",
    "STAGES",
    "CompiledModule",
    "Explanation",
    "JitFunction",
    "Lowered",
    "Pipeline",
    "StablehloProgram",
    "cache_info",
    "clear_cache",
    "compile_module",
    "jit",
    "pipelines",
]
