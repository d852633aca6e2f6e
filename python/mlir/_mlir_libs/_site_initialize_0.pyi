from iam.mlir.ir import DialectRegistry

def register_dialects(registry: DialectRegistry) -> None: ...
def opt_main(args: list[str]) -> int:
    """Run iam-opt in this process; ``args[0]`` is the program's name. Returns its exit code."""

def pipelines() -> list[tuple[str, str, str]]:
    """The named pipelines, in order: (name, passes, why)."""
