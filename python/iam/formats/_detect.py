"""Which format is this? By names of files, names and shapes of tensors, and keys of configs; never by a guess."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from iam.core.config import suggestion
from iam.core.errors import ArgumentError, FormatError
from iam.formats._raw import RawCoder, read_json

__all__ = ["FORMATS", "Detected", "detect", "load", "load_raw", "module", "save", "save_raw"]


@dataclass(frozen=True, slots=True)
class Detected:
    """What :func:`detect` found.

    Attributes:
        format: A key of :data:`FORMATS`.
        path: What to give to the format's ``read``: the folder, or one file of it.
        why: What was seen that says so.
        details: ``files``, how many weight files there are; ``tensors``, names and shapes of the first of them.
    """

    format: str
    path: Path
    why: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Format:
    """One format: its files, and what must be in them. ``tensors`` are regular expressions, all of which some name must match."""

    label: str
    weights: str
    tensors: tuple[str, ...]
    config: str | None = None
    config_keys: tuple[str, ...] = ()
    also: str | None = None
    module: str | None = None
    written: bool = True


FORMATS: dict[str, _Format] = {
    "circuit_tracer": _Format(
        "circuit-tracer transcoders", r"layer_\d+\.safetensors", (r"W_enc", r"W_dec", r"b_enc", r"b_dec")
    ),
    "circuit_tracer_clt": _Format(
        "circuit-tracer cross-layer transcoder", r"W_enc_\d+\.safetensors", (r"W_enc_\d+", r"b_enc_\d+", r"b_dec_\d+"),
        also=r"W_dec_\d+\.safetensors",
    ),
    "dictionary_learning": _Format("dictionary_learning", r"ae\.pt", (), "config.json", ("trainer",)),
    "gemma_scope": _Format(
        "Gemma Scope (npz)", r"params\.npz|[^/]*\.npz", (r"[Ww]_enc", r"[Ww]_dec", r"b_enc", r"b_dec", r"threshold")
    ),
    "gemma_scope_2": _Format(
        "Gemma Scope 2", r"params\.safetensors|params_layer_\d+\.safetensors", (r"w_enc", r"w_dec", r"b_enc", r"threshold")
    ),
    "iam": _Format(
        "IAM", r"(?:coder|layer_\d+)-[0-9a-f]{16}\.safetensors", (r"W_dec", r"b_dec"), "coder.json",
        ("schema", "kind", "config", "files"), module="native",
    ),
    "llama_scope": _Format(
        "Llama Scope", r"checkpoints/final\.safetensors", (r"encoder\.weight", r"decoder\.weight"), "hyperparams.json",
        ("d_model", "dataset_average_activation_norm"),
    ),
    "llama_scope_r1": _Format(
        "Llama Scope R1", r"sae_weights\.safetensors",
        (r"encoder\.weight", r"decoder\.weight", r"log_jumprelu_threshold"), "config.json", ("d_model", "norm_activation"),
        written=False,
    ),
    "saelens": _Format("SAELens", r"sae_weights\.safetensors", (r"W_dec", r"b_dec"), "cfg.json", ("d_in", "d_sae")),
    "sparsify": _Format("sparsify", r"sae\.safetensors", (r"encoder\.weight", r"W_dec"), "cfg.json", ("d_in", "k")),
    "state_dict": _Format("a .pt file of tensors", r"(?!ae\.pt)[^/]*\.pth?", (), written=False),
}  # fmt: skip
"""Formats by name. Each is a module ``iam.formats.<name>`` (``iam``: ``iam.formats.native``) with ``read`` and ``read_raw``
and, if it is ``written``, ``write`` and ``write_raw``."""


def module(name: str) -> ModuleType:
    """The module of a format.

    Raises:
        ArgumentError: no such format.
    """
    import importlib

    if name not in FORMATS:
        raise ArgumentError(f'iam.formats: unknown format "{name}"; {suggestion(name, FORMATS)}')
    return importlib.import_module(f"iam.formats.{FORMATS[name].module or name}")


def detect(path: str | Path) -> Detected:
    """Find out which format a folder or file is in.

    Args:
        path: A folder, or a weight file in it.

    Raises:
        FormatError: nothing there (``file-missing``), a damaged header, or files that fit no format, several, or one whose
            tensors or config say something else (``format``); the message lists what was seen.

    Only headers and configs are read.
    """
    path = Path(path)
    if not path.exists():
        raise FormatError(f"{path}: no such file or folder", code="file-missing")
    folder, only = _folder_of(path)
    names = _names(folder)
    fits: dict[str, tuple[str, Mapping[str, Any]]] = {}
    against: dict[str, str] = {}
    for name, entry in FORMATS.items():
        pattern = re.compile(entry.weights)
        files = [item for item in names if pattern.fullmatch(item)]
        if only is not None:
            files = [item for item in files if item == only]
        elif (
            name == "gemma_scope"
        ):  # any .npz may be one when it is asked about, but not when it lies beside other files
            files = [item for item in files if item == "params.npz"]
        elif name == "state_dict":
            files = []  # only when it is asked about: what lies in a folder may be anything
        if not files:
            continue
        verdict = _examine(entry, folder, files, names)
        if isinstance(verdict, str):
            against[name] = verdict
        else:
            fits[name] = verdict
    # a name that two formats share speaks against the one whose config is not there only if nothing fits
    absent = {name for name in against if FORMATS[name].config not in (None, *names)}
    if len(fits) == 1 and not set(against) - absent:
        name, (why, details) = next(iter(fits.items()))
        # of these a file is a coder by itself; in the others, and in cross-layer transcoders, it is part of a folder
        alone = name in ("circuit_tracer", "gemma_scope", "gemma_scope_2", "state_dict") and not (
            only or ""
        ).startswith("params_layer_")
        whole = only is None or not alone
        return Detected(name, folder if whole else path, why, details)
    raise FormatError(_explain(path, names, fits, against), code="format")


def _folder_of(path: Path) -> tuple[Path, str | None]:
    if path.is_dir():
        return path, None
    if path.name == "final.safetensors" and path.parent.name == "checkpoints":
        return path.parent.parent, "checkpoints/final.safetensors"
    if path.name == FORMATS["iam"].config:
        return path.parent, None
    return path.parent, path.name


def _names(folder: Path) -> list[str]:
    names = sorted(item.name for item in folder.iterdir() if item.is_file())
    if (folder / "checkpoints" / "final.safetensors").is_file():
        names.append("checkpoints/final.safetensors")
    return names


def _examine(entry: _Format, folder: Path, files: list[str], names: list[str]) -> str | tuple[str, Mapping[str, Any]]:
    """What speaks against a format whose weight files are there, or why it is the one."""
    if entry.also is not None and not any(re.fullmatch(entry.also, item) for item in names):
        return f"{files[0]} is there, but no {entry.also}"
    keys: list[str] = []
    if entry.config is not None:
        if entry.config not in names:
            return f"{files[0]} is there, but no {entry.config}"
        keys = sorted(read_json(folder / entry.config))
        missing = [key for key in entry.config_keys if key not in keys]
        if missing:
            return f"{entry.config} has no {missing[0]!r}, but {', '.join(keys[:12]) or 'nothing'}"
    details: dict[str, Any] = {"files": len(files)}
    shown = ""
    if entry.tensors:
        tensors = _tensors(folder / files[0])
        for pattern in entry.tensors:
            if not any(re.fullmatch(pattern, name) for name in tensors):
                seen = ", ".join(f"{name} {shape}" for name, shape in sorted(tensors.items())[:12]) or "no tensors"
                return f"{files[0]} has no {pattern.replace(chr(92), '')}, but {seen}"
        details["tensors"] = tensors
        shown = f" with tensors {', '.join(sorted(tensors))}"
    with_config = f", {entry.config} with {', '.join(entry.config_keys)}" if entry.config else ""
    return f"{files[0]}{shown}{with_config}", details


def _tensors(file: Path) -> dict[str, tuple[int, ...]]:
    from iam.formats._npz import NpzFile
    from iam.formats._safetensors import SafetensorsFile

    opened = NpzFile(file) if file.suffix == ".npz" else SafetensorsFile(file)
    return {name: info.shape for name, info in opened.tensors.items()}


def _explain(path: Path, names: list[str], fits: Mapping[str, Any], against: Mapping[str, str]) -> str:
    lines = [f"{path}: the files fit {'more than one format' if len(fits) > 1 else 'no format'}"]
    for name, (why, _) in fits.items():
        lines.append(f"fits {name}: {why}")
    for name, why in against.items():
        lines.append(f"looks like {name}, but {why}")
    lines.append(f"seen: {', '.join(names[:12]) or 'no files'}{' ...' if len(names) > 12 else ''}")
    pickles = [name for name in names if Path(name).suffix in (".pt", ".pth", ".bin", ".pkl") and name != "ae.pt"]
    if pickles and not fits:
        lines.append(
            f"{pickles[0]} is a pickle: name the file itself, and IAM opens it if it holds only tensors (weights_only)"
        )
    if "latest_ckpt.safetensors" in names and "conf.yaml" in names:
        lines.append("these are files of a temporal SAE, which is no function of one activation and is not read")
    if "config.yaml" in names and not against and not fits:
        lines.append(
            "if config.yaml lists transcoders by address (hf://...), iam.formats.from_pretrained of the repository gets them"
        )
    if not against and not fits:
        lines.append(
            "known: " + ", ".join(f"{name} ({entry.weights})".replace("\\", "") for name, entry in FORMATS.items())
        )
    return "; ".join(lines)


def load_raw(
    path: str | Path, format: str | None = None, *, layer: int | None = None, kind: str | None = None
) -> RawCoder:
    """The record of a coder in any format; arguments and errors as for :func:`load`."""
    target: str | Path = path
    if format is None:
        found = detect(path)
        format, target = found.format, found.path
    given = {name: value for name, value in (("layer", layer), ("kind", kind)) if value is not None}
    allowed = {"circuit_tracer": "layer", "gemma_scope": "kind"}.get(format)
    if layer is not None and allowed != "layer":
        raise ArgumentError(f"iam.formats: format {format} has no option 'layer'")
    read: Callable[..., RawCoder] = module(format).read_raw
    raw = read(target, **{name: value for name, value in given.items() if name == allowed})
    if kind is not None and raw.kind != kind:
        raise FormatError(f"{raw.source}: expected kind {kind}, the files hold a {raw.kind}", code="format")
    return raw


def load(path: str | Path, format: str | None = None, *, layer: int | None = None, kind: str | None = None) -> Any:
    """A coder, in any format.

    Args:
        path: A folder, or a weight file in it.
        format: A key of :data:`FORMATS`; by default found by :func:`detect`.
        layer: Which layer of a set of transcoders (circuit_tracer).
        kind: ``sae``, ``transcoder``, ``cross_layer`` or ``crosscoder``: what it must be. Gemma Scope's ``params.npz`` does not say
            which of the first two it holds; outside of the release's folders this does.

    Returns:
        An :class:`iam.SAE`, ``iam.Transcoder``, ``iam.CrossLayerTranscoder`` or ``iam.Crosscoder``.

    Raises:
        FormatError: as :func:`detect` and the format's ``read``.
        ArgumentError: an unknown format, or ``layer`` for another format than circuit_tracer.
    """
    from iam.formats._build import build

    return build(load_raw(path, format, layer=layer, kind=kind))


def save(coder: Any, path: str | Path, *, format: str) -> Any:
    """Write a coder in any format; returns what the format's ``write`` returns.

    Raises:
        FormatError: the format cannot hold this coder, or is only read; the message says why.
        ArgumentError: an unknown format.
    """
    return _writer(format).write(coder, path)


def save_raw(raw: RawCoder, path: str | Path, *, format: str) -> Any:
    """Write a record in any format; see :func:`save`."""
    return _writer(format).write_raw(raw, path)


def _writer(name: str) -> ModuleType:
    found = module(name)
    if not FORMATS[name].written:
        raise FormatError(
            f"iam.formats: {name} is read and not written; write saelens, or iam, which holds every coder",
            code="format",
        )
    return found
