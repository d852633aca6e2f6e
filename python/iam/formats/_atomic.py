"""Files appear complete or not at all: a temporary file in the same folder, then a rename."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["open_atomically", "write_atomically"]


@contextlib.contextmanager
def open_atomically(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write into that becomes ``path`` when the block ends, and vanishes when the block raises.

    Raises:
        OSError: the folder cannot be written; ``path`` is then as it was.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)  # mkstemp makes the file private; a weight file is as readable as any other
        os.replace(name, path)
    except BaseException:
        if os.path.exists(name):
            os.unlink(name)
        raise


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path``. Whoever reads ``path`` sees the old content or the new, never a part.

    Raises:
        OSError: the folder cannot be written; ``path`` is then as it was.
    """
    with open_atomically(path) as file:
        file.write(data)
