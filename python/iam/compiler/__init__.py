"""The compiler: :func:`jit` records Python functions as programs, :func:`compile_module` takes programs as text."""

from iam.compiler._engine import PIPELINES, STAGES, CompiledModule, compile_module
from iam.compiler._jit import JitFunction, Lowered, jit

__all__ = ["PIPELINES", "STAGES", "CompiledModule", "JitFunction", "Lowered", "compile_module", "jit"]
