"""The ``iam`` command line.

``main`` is the entry point of the installed command. It imports nothing heavy: click and rich load
when the command runs, torch and transformers only in the commands that run a model.
"""

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: Arguments without the program name; ``None`` means ``sys.argv[1:]``.
    Returns:
        0 done, 1 unexpected failure, 2 usage or bad input, 130 interrupted with Ctrl-C.
    """
    try:
        from iam.cli._app import run
    except KeyboardInterrupt:  # Ctrl-C while the command line itself was loading
        sys.stderr.write("iam: interrupted\n")
        return 130
    return run(argv)
