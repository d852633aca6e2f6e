"""``iam inspect``: what is in a weight directory, read from headers and configs; nothing is unpickled."""

import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import iam
from iam.cli._contexts import FILE_NAME as CONTEXTS_NAME
from iam.cli._contexts import load_contexts
from iam.core.errors import FormatError, MissingDependencyError, SiteError
from iam.formats import FORMATS, SafetensorsFile, detect, native
from iam.formats._checkpoint import CheckpointFile
from iam.formats._detect import load_raw
from iam.formats._lazy import LazyTensor, as_float32
from iam.formats._npz import NpzFile
from iam.formats._raw import RawCoder, TensorFile

_CODER_CONFIG = "cfg.json"
_CODER_WEIGHTS = "sae_weights.safetensors"
_READ_AT_MOST = 4 << 30  # bytes of weights whose norms are worth waiting for
_MODEL_CONFIG = "config.json"
_PICKLES = {".pt", ".pth", ".bin", ".pkl", ".ckpt"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRow:
    """One tensor: where, what, how large; the norms are over all its elements, ``None`` if it was not read."""

    file: str
    name: str
    dtype: str
    shape: list[int]
    bytes: int
    norm: float | None = None
    mean_abs: float | None = None
    max_abs: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was found.

    Attributes:
        path: What was looked at.
        kind: ``coder``, ``model`` or ``weights``.
        format: The format by name.
        facts: What the config and the weights say, in the order in which it should be read.
        tensors: Every tensor.
        notes: What a reader should know, such as files that were left alone.
    """

    path: str
    kind: str
    format: str
    facts: dict[str, Any]
    tensors: list[TensorRow]
    notes: list[str] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        """Number of stored elements."""
        return sum(math.prod(row.shape) for row in self.tensors)

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(row.bytes for row in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "schema": "iam.inspection/1",
            **dataclasses.asdict(self),
            "parameters": self.parameters,
            "bytes": self.total_bytes,
        }


def inspect_path(path: Path) -> Inspection:
    """Look into a coder's folder, a model's folder, or one ``.safetensors`` or ``.gguf`` file.

    Raises:
        FormatError: nothing there, a format that is not known, or a damaged file; the message says which part of it.
    """
    if not path.exists():
        raise FormatError(f"iam inspect: no such file or folder: {path}{_similar(path)}", code="file-missing")
    if path.is_file():
        return _inspect_file(path)
    names = {item.name for item in path.iterdir() if item.is_file()}
    if _CODER_CONFIG in names or _is_coder(path, names):
        return _inspect_coder(path)
    if _MODEL_CONFIG in names:
        return _inspect_model(path, names)
    weights = sorted(path / name for name in names if Path(name).suffix in (".safetensors", ".gguf"))
    if len(weights) == 1:
        return _inspect_file(weights[0])
    if weights:
        found = f"{len(weights)} weight files and no config: {', '.join(file.name for file in weights[:4])}; name one"
    elif pickles := sorted(name for name in names if Path(name).suffix in _PICKLES):
        found = (
            f"only {pickles[0]}, a pickle, which IAM does not open because it can run code; convert it to safetensors"
        )
    else:
        found = ", ".join(sorted(names)[:6]) or "no files"
    raise FormatError(
        f"iam inspect: {path}: expected {_CODER_CONFIG} and {_CODER_WEIGHTS} (a coder in SAELens format), a coder in another "
        f"format ({', '.join(sorted(set(FORMATS) - {'saelens'}))}), {_MODEL_CONFIG} (a Hugging Face model), or one "
        f".safetensors, .npz or .gguf file; found {found}",
        code="format",
    )


def _is_coder(folder: Path, names: Iterable[str]) -> bool:
    """Whether a weight file of one of our formats is here, by its name."""
    listed = [*names, *(["checkpoints/final.safetensors"] if (folder / "hyperparams.json").exists() else [])]
    patterns = [entry.weights for name, entry in FORMATS.items() if name != "gemma_scope"] + [r"params\.npz"]
    return any(re.fullmatch(pattern, name) for pattern in patterns for name in listed)


def _similar(path: Path) -> str:
    from iam.core.config import nearest

    if not path.parent.is_dir():
        return ""
    near = nearest(path.name, [item.name for item in path.parent.iterdir()])
    return f'; did you mean "{path.with_name(near)}"?' if near else ""


def _inspect_file(path: Path) -> Inspection:
    if path.suffix == ".safetensors":
        file = SafetensorsFile(path)
        facts: dict[str, Any] = {f"metadata: {key}": value for key, value in sorted(file.metadata.items())}
        return Inspection(
            path=str(path), kind="weights", format="safetensors", facts=facts, tensors=_rows(file, read=True)
        )
    if path.suffix == ".npz":
        arrays = NpzFile(path)
        return Inspection(path=str(path), kind="weights", format="npz", facts={}, tensors=_rows(arrays, read=True))
    if path.suffix == ".gguf":
        return _inspect_gguf(path)
    reason = "a pickle, which can run code" if path.suffix in _PICKLES else "not a format that IAM reads"
    raise FormatError(
        f"iam inspect: {path}: expected a .safetensors, .npz or .gguf file, this is {reason}", code="format"
    )


def _rows(file: TensorFile, *, read: bool) -> list[TensorRow]:
    """The tensors of a file in the order of its data; with ``read``, floats get their norms."""
    rows = []
    for name, info in sorted(file.tensors.items(), key=lambda item: item[1].begin):
        norms: dict[str, float | None] = {}
        if read and info.dtype in ("F16", "BF16", "F32", "F64"):
            norms = _norms(file.read(name))
        rows.append(
            TensorRow(
                file=file.path.name,
                name=name,
                dtype=info.dtype,
                shape=list(info.shape),
                bytes=info.nbytes,
                **norms,
            )
        )
    return rows


def _norms(values: Any) -> dict[str, float | None]:
    wide = np.abs(values.astype(np.float64, copy=False))
    found = {
        "norm": float(np.sqrt((wide * wide).sum())),
        "mean_abs": float(wide.mean()) if wide.size else 0.0,
        "max_abs": float(wide.max(initial=0.0)),
    }
    # A tensor with NaN or infinity has no norm that JSON could hold; the note says so.
    return {key: value if math.isfinite(value) else None for key, value in found.items()}


def _inspect_coder(folder: Path) -> Inspection:
    found = detect(folder)
    layers = None
    if found.format == "circuit_tracer":
        from iam.formats import circuit_tracer

        layers = circuit_tracer.layers(folder)
    raw = load_raw(
        folder, found.format, layer=layers[0] if layers else None
    )  # checks config, names, shapes, types, values
    files = [_open(file) for file in _weight_files(folder, found.format)]
    small = sum(file.path.stat().st_size for file in files) <= _READ_AT_MOST
    rows = [row for file in files for row in _rows(file, read=small)]
    facts, notes = _coder_facts(raw, read=small)
    if found.format == "iam" and small:
        native.verify(folder)
        notes.append("the weight files have the SHA-256 that coder.json names")
    if layers and len(layers) > 1:
        facts = {"layers": f"{layers[0]}..{layers[-1]} (what follows is layer {layers[0]})", **facts}
    if not small:
        notes.append(f"norms are not listed: the weights have more than {_READ_AT_MOST >> 30} GiB")
    if raw.kind == "sae" and (folder / CONTEXTS_NAME).exists():
        contexts = load_contexts(folder, raw.d_sae)
        notes.append(f"{CONTEXTS_NAME} has examples from real text for {len(contexts.examples):,} features")
    if (folder / "README.md").exists():
        notes.append("README.md is the model card")
    return Inspection(
        path=str(folder),
        kind="coder",
        format=f"{FORMATS[found.format].label} ({found.format})",
        facts=facts,
        tensors=rows,
        notes=notes,
    )


def _weight_files(folder: Path, name: str) -> list[Path]:
    entry = FORMATS[name]
    if name == "iam":
        return native.files(folder)
    if name == "llama_scope":
        return [folder / "checkpoints" / "final.safetensors"]
    patterns = [pattern for pattern in (entry.weights, entry.also) if pattern]
    found = [item for item in folder.iterdir() if any(re.fullmatch(pattern, item.name) for pattern in patterns)]
    if name == "gemma_scope":
        found = [item for item in found if item.name == "params.npz"]
    return sorted(
        found, key=lambda item: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", item.name)]
    )


def _open(file: Path) -> TensorFile:
    if file.suffix == ".npz":
        return NpzFile(file)
    return CheckpointFile(file) if file.suffix in (".pt", ".pth") else SafetensorsFile(file)


def _site(hook: Any) -> str | None:
    try:
        return None if hook is None else str(iam.Site.parse(hook))
    except SiteError:
        return None


def _coder_facts(raw: RawCoder, *, read: bool) -> tuple[dict[str, Any], list[str]]:
    """What a record says, in the order in which it should be read, and what a reader should know."""
    meta = raw.metadata
    facts: dict[str, Any] = {
        "architecture": raw.architecture,
        "kind": {
            "sae": "SAE",
            "transcoder": "transcoder",
            "cross_layer": "cross-layer transcoder",
            "crosscoder": "crosscoder",
        }[raw.kind],
        "site": _site(meta.get("hook_name")),
        "SAELens hook": meta.get("hook_name"),
    }
    if raw.kind in ("cross_layer", "transcoder"):
        facts["site written"] = _site(meta.get("hook_name_out"))
        facts["skip connection"] = any(name.startswith("W_skip") for name in raw.tensors)
        facts["d_out"] = raw.d_out
    if raw.kind == "cross_layer":
        facts["layers"] = raw.n_layers
    if raw.kind == "crosscoder":
        facts["sites"] = raw.n_layers
    facts |= {
        "d_in": raw.d_in,
        "features": raw.d_sae,
        "expansion": round(raw.d_sae / raw.d_in, 3),
        "k": raw.k,
        "dtype": raw.dtype,
        "subtracts b_dec from its input": raw.apply_b_dec_to_input,
        "input normalisation": raw.normalize_activations,
    }
    if raw.norm_scale is not None:
        facts["input scale"] = raw.norm_scale
    if raw.rescale_acts_by_decoder_norm:
        facts["features compete by"] = "activation times norm of the decoder row"
    notes = []
    decoder = raw.tensors.get("W_dec")
    if decoder is not None and (read or not isinstance(decoder, LazyTensor)):
        lengths = np.linalg.norm(as_float32(decoder).reshape(raw.d_sae, -1), axis=1)
        facts["decoder row norms"] = f"{lengths.min():.3g} .. {lengths.max():.3g} (median {np.median(lengths):.3g})"
        if dead := int((lengths == 0).sum()):
            notes.append(f"{dead} of {raw.d_sae} features have a decoder row of zeros")
    if raw.normalize_activations == "expected_average_only_in" and raw.norm_scale is None:
        notes.append(
            "the scale of its input is not in the file, so it does not load; fold it into the weights and save again"
        )
    facts.update({f"metadata: {key}": value for key, value in sorted(dict(meta).items())})
    return facts, notes


def _inspect_model(folder: Path, names: Iterable[str]) -> Inspection:
    config = _json_object(folder / _MODEL_CONFIG)
    facts: dict[str, Any] = {}
    for label, keys in (
        ("architecture", ("architectures",)),
        ("model type", ("model_type",)),
        ("layers", ("num_hidden_layers", "n_layer")),
        ("d_model", ("hidden_size", "n_embd")),
        ("heads", ("num_attention_heads", "n_head")),
        ("KV heads", ("num_key_value_heads",)),
        ("d_mlp", ("intermediate_size", "n_inner")),
        ("vocabulary", ("vocab_size",)),
        ("context", ("max_position_embeddings", "n_positions")),
        ("tied embeddings", ("tie_word_embeddings",)),
    ):
        value = next((config[key] for key in keys if config.get(key) is not None), None)
        if value is not None:
            facts[label] = ", ".join(map(str, value)) if isinstance(value, list) else value
    names = sorted(names)
    files = [name for name in names if name.endswith(".safetensors")]
    rows = [row for name in files for row in _rows(SafetensorsFile(folder / name), read=True)]
    notes = []
    if not files:
        notes.append("no .safetensors file here, so no tensors are listed")
    if pickles := [name for name in names if Path(name).suffix in _PICKLES]:
        notes.append(f"left alone, because a pickle can run code: {', '.join(pickles)}")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        wanted = set(_json_object(index).get("weight_map", {}).values())
        if missing := sorted(wanted - set(files)):
            raise FormatError(f"iam inspect: {index} names {missing[0]}, which is not there", code="file-missing")
    layers = facts.get("layers")
    if isinstance(layers, int):
        facts["sites"] = f"resid_pre.0 .. resid_post.{layers - 1} (the list: LanguageModel(...).sites())"
    return Inspection(
        path=str(folder), kind="model", format="Hugging Face transformers", facts=facts, tensors=rows, notes=notes
    )


def _json_object(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(f"iam inspect: {path}: expected JSON, got {type(error).__name__}: {error}") from error
    if not isinstance(document, dict):
        raise FormatError(f"iam inspect: {path}: expected a JSON object, got {type(document).__name__}")
    return document


def _inspect_gguf(path: Path) -> Inspection:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise MissingDependencyError(
            f'iam inspect: reading {path.name} needs the package gguf; install it with: pip install "iam[models]"'
        ) from error
    try:
        reader: Any = GGUFReader(path)
    except Exception as error:  # the reader reports damage with whatever NumPy or struct raised
        raise FormatError(
            f"iam inspect: {path}: not a well-formed GGUF file: {type(error).__name__}: {error}"
        ) from error
    end = path.stat().st_size
    rows = []
    for tensor in reader.tensors:
        if tensor.data_offset + tensor.n_bytes > end:
            raise FormatError(
                f"iam inspect: {path}: tensor {tensor.name} ends at byte {tensor.data_offset + tensor.n_bytes}, "
                f"but the file has {end}; it is truncated",
                code="file-truncated",
            )
        shape = [int(size) for size in reversed(tensor.shape.tolist())]
        rows.append(
            TensorRow(
                file=path.name,
                name=tensor.name,
                dtype=tensor.tensor_type.name,
                shape=shape,
                bytes=int(tensor.n_bytes),
            )
        )
    facts: dict[str, Any] = {}
    architecture = _gguf_value(reader, "general.architecture")
    for label, key in (
        ("architecture", "general.architecture"),
        ("name", "general.name"),
        ("layers", f"{architecture}.block_count"),
        ("d_model", f"{architecture}.embedding_length"),
        ("heads", f"{architecture}.attention.head_count"),
        ("KV heads", f"{architecture}.attention.head_count_kv"),
        ("d_mlp", f"{architecture}.feed_forward_length"),
        ("context", f"{architecture}.context_length"),
        ("licence", "general.license"),
    ):
        value = _gguf_value(reader, key)
        if value is not None:
            facts[label] = value
    facts["quantisation"] = ", ".join(
        f"{number} x {name}" for name, number in Counter(row.dtype for row in rows).most_common()
    )
    note = "norms are not listed: quantised tensors are dequantised only when a model is built from them"
    return Inspection(path=str(path), kind="model", format="GGUF", facts=facts, tensors=rows, notes=[note])


def _gguf_value(reader: Any, key: str) -> Any:
    entry = reader.get_field(key)
    read: Callable[[], Any] | None = getattr(entry, "contents", None)
    return None if read is None else read()
