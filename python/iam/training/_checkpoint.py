"""Checkpoints: one safetensors file, its numbers as JSON in the header, so that they cannot come apart. Nothing is pickled."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from iam.core.errors import FormatError

__all__ = ["CHECKPOINT_NAME", "load_checkpoint", "save_checkpoint", "write_tensors"]

CHECKPOINT_NAME = "checkpoint.safetensors"
_KEY = "iam.training"
_VERSION = 2


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file that appears complete or not at all, as readable as any other file."""
    from safetensors.torch import save_file

    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file({name: value.contiguous() for name, value in tensors.items()}, partial, metadata=metadata)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        partial.chmod(0o666 & ~mask)  # safetensors makes it private
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def save_checkpoint(folder: Path, numbers: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    """Write the checkpoint of `folder`: whoever reads it sees the old one or the new one, never a part.

    Numbers go through JSON, which keeps Python's floats to the last bit.
    """
    path = folder / CHECKPOINT_NAME
    write_tensors(path, tensors, {_KEY: json.dumps({"version": _VERSION, **numbers}, allow_nan=False)})
    return path


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]] | None:
    """Numbers and tensors of the checkpoint in `folder`; None if there is none.

    Raises:
        FormatError: the file is damaged, or was not written by :func:`save_checkpoint` of this version.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / CHECKPOINT_NAME
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            numbers = json.loads((file.metadata() or {})[_KEY])
            # a copy: the file is mapped, and the next checkpoint replaces it
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise FormatError(f"{path}: expected a checkpoint of a training run: {error}") from error
    if numbers.get("version") != _VERSION:
        raise FormatError(f"{path}: expected a checkpoint of version {_VERSION}, got {numbers.get('version')}")
    return numbers, tensors
