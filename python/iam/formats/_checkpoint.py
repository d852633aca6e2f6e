"""Reading and writing ``.pt`` files of tensors, by ``torch.load(weights_only=True)`` and never by a plain unpickler.

A file is refused before torch sees it unless it is a zip archive (torch >= 1.6) of uncompressed members that lie within the
file. It is then mapped, not read; and a tensor whose shape and strides claim more than its storage has is refused, so
that no small file makes a large allocation.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from iam.core.errors import FormatError, MissingDependencyError
from iam.formats._atomic import open_atomically
from iam.formats._lazy import LazyTensor, widen
from iam.formats._npz import open_zip
from iam.formats._safetensors import TensorInfo

__all__ = ["CheckpointFile", "write_checkpoint"]

_MAX_PICKLE = 16 << 20  # the part that is a pickle names tensors; weights are beside it


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            'iam.formats: a .pt file is read by torch (weights_only=True); install it with: pip install "iam[models]"'
        ) from error
    return torch


class CheckpointFile:
    """The tensors and numbers of a ``.pt`` state dict.

    Args:
        path: The file.

    Attributes:
        tensors: Type and shape of each tensor.
        scalars: Numbers and booleans that the dict holds, and integer tensors of one element.
        texts: Texts that it holds. What is in a dict inside the dict has a name ``outer.inner``.

    Raises:
        FormatError: missing, truncated or malformed; a pickle that holds anything but tensors and plain values; not a
            dict of tensors, or of such dicts (``format``).
        MissingDependencyError: torch is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metadata: dict[str, str] = {}
        self._check_archive()
        torch = _torch()
        try:
            loaded = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:
            reason = str(error).strip().split("\n")[0][:300]
            raise FormatError(
                f"{self.path}: torch.load(weights_only=True) refuses this file: {type(error).__name__}: {reason}. IAM opens "
                "no pickle in any other way, because one can run code; save the plain state_dict, or convert to safetensors",
                code="format",
            ) from error
        if not isinstance(loaded, Mapping):
            raise FormatError(
                f"{self.path}: expected a state dict (names to tensors), got {type(loaded).__name__}", code="format"
            )
        self._values: dict[str, Any] = {}
        self.tensors: dict[str, TensorInfo] = {}
        self.scalars: dict[str, int | float | bool] = {}
        self.texts: dict[str, str] = {}
        size = self.path.stat().st_size
        for name, value in loaded.items():
            if isinstance(value, Mapping) and isinstance(name, str):
                for inner, part in value.items():
                    self._take(torch, f"{name}.{inner}", part, size)
            else:
                self._take(torch, name, value, size)

    def _check_archive(self) -> None:
        try:
            members, _ = open_zip(self.path)
        except FormatError as error:
            if error.code != "file-header":
                raise
            raise FormatError(
                f"{self.path}: expected a .pt file as torch >= 1.6 writes it (a zip archive): {error}. Older files are bare "
                "pickles; load one with the torch that wrote it and save it again",
                code="file-header",
            ) from error
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED:
                raise FormatError(f"{self.path}: member {member.filename!r} is compressed; torch stores", code="format")
            if member.filename.endswith(".pkl") and member.file_size > _MAX_PICKLE:
                raise FormatError(
                    f"{self.path}: {member.filename} has {member.file_size} bytes; a state dict needs few",
                    code="format",
                )

    def _take(self, torch: Any, name: Any, value: Any, size: int) -> None:
        where = f"{self.path}: entry {name!r}"
        if not isinstance(name, str):
            raise FormatError(f"{where}: expected names, got {type(name).__name__}", code="format")
        if isinstance(value, (bool, int, float)):
            self.scalars[name] = value
            return
        if isinstance(value, str) and len(value) < 1000:
            self.texts[name] = value
            return
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.device.type != "cpu":
            raise FormatError(
                f"{where}: expected a dense tensor or a number, got {type(value).__name__}; this is no plain state dict",
                code="format",
            )
        nbytes = value.numel() * value.element_size()
        if nbytes > min(size, value.untyped_storage().nbytes()):
            raise FormatError(
                f"{where}: shape {tuple(value.shape)} takes {nbytes} bytes, its storage and the file have less",
                code="file-header",
            )
        kinds = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
        kind = kinds.get(value.dtype, str(value.dtype).removeprefix("torch.").upper())
        value = value.detach()
        if value.numel() == 1 and kind not in kinds.values() and not value.is_complex() and not value.is_quantized:
            self.scalars[name] = value.item()
        self.tensors[name] = TensorInfo(kind, tuple(value.shape), 0, nbytes)
        self._values[name] = value

    def lazy(self, name: str) -> LazyTensor:
        """One tensor, mapped into memory.

        Raises:
            FormatError: no such tensor (``tensor-missing``), or not of a float type (``tensor-dtype``).
        """
        torch = _torch()
        if name not in self.tensors:
            raise FormatError(
                f'{self.path}: expected a tensor "{name}", the file has: {", ".join(sorted(self.tensors)) or "none"}',
                code="tensor-missing",
            )
        value, kind = self._values[name], self.tensors[name].dtype
        if kind not in ("F64", "F32", "F16", "BF16"):
            raise FormatError(f'{self.path}: tensor "{name}": expected floats, got {kind}', code="tensor-dtype")
        array = (value.view(torch.int16) if kind == "BF16" else value).numpy()
        return LazyTensor(array.view(np.uint16) if kind == "BF16" else array, kind, f'{self.path}: tensor "{name}"')

    def read(self, name: str, *, transpose: bool = False) -> npt.NDArray[np.float32]:
        """One tensor as float32; with ``transpose`` its axes reversed. Raises as :meth:`lazy`."""
        lazy = self.lazy(name)
        stored = lazy._stored.T if transpose else lazy._stored
        values = widen(stored, lazy.stored_dtype)
        return values.copy() if np.shares_memory(values, stored) else values


def write_checkpoint(path: str | Path, tensors: Mapping[str, Any]) -> None:
    """Write a state dict of arrays and integers (as 0-d tensors), atomically, as ``torch.save`` does."""
    torch = _torch()
    state = {
        name: torch.tensor(value) if isinstance(value, (int, float)) else torch.from_numpy(np.ascontiguousarray(value))
        for name, value in tensors.items()
    }
    with open_atomically(path) as file:
        torch.save(state, file)
