"""Where a result comes from: versions and hashes of its inputs. Nothing heavy is imported to find out."""

import hashlib
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

_WEIGHT_SUFFIXES = {".safetensors", ".gguf", ".json", ".bin", ".pt", ".model", ".txt"}


def package_version(name: str) -> str | None:
    """The installed version of a distribution, ``None`` if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, Any]:
    """Versions of what a result depends on, and the machine it was computed on."""
    import iam
    from iam.cli._doctor import mlir_version

    names = ("numpy", "torch", "transformers", "gguf", "safetensors")
    return {
        "iam": iam.__version__,
        "mlir": mlir_version(),
        **{name: package_version(name) for name in names},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def hash_text(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, as ``sha256:...``."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def hash_path(path: Path) -> str:
    """SHA-256 of a file, or of a folder's weight and config files (names and contents, sorted by name)."""
    digest = hashlib.sha256()
    if path.is_dir():
        files = sorted(item for item in path.iterdir() if item.is_file() and item.suffix in _WEIGHT_SUFFIXES)
        for item in files:
            digest.update(item.name.encode() + b"\0")
            _update(digest, item)
    else:
        _update(digest, path)
    return "sha256:" + digest.hexdigest()


def _update(digest: "hashlib._Hash", path: Path) -> None:
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
