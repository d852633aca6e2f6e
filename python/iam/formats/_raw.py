"""The record that every reader makes and every writer takes: a coder before it is an object.

Names, shapes and orientation are SAELens's, whatever the file has:

====================  =====================  ==================================================================
tensor                shape                  for
====================  =====================  ==================================================================
``W_enc``             ``[d_in, d_sae]``      all but ``matching_pursuit``, whose encoder is its decoder
``b_enc``             ``[d_sae]``            all but ``gated`` and ``matching_pursuit``
``W_dec``             ``[d_sae, d_out]``     all
``b_dec``             ``[d_out]``            all
``threshold``         ``[d_sae]``            ``jumprelu``
``b_gate`` ``b_mag``  ``[d_sae]``            ``gated``, with ``r_mag``
``W_skip``            ``[d_out, d_in]``      transcoders that have one; it adds ``x @ W_skip.T``
====================  =====================  ==================================================================

A cross-layer transcoder has each name once per source layer ``i``, as ``W_enc.i``, and ``W_dec.i`` is
``[d_sae, layers - i, d_out]``: slice ``j`` writes to layer ``i + j``. A crosscoder of S sites has ``W_enc [S, d_in, d_sae]``,
``W_dec [d_sae, S, d_in]`` and ``b_dec [S, d_in]``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from iam.core.config import suggestion, take_int
from iam.core.errors import FormatError
from iam.formats._atomic import write_atomically
from iam.formats._lazy import LazyTensor, as_float32, check_finite

__all__ = [
    "ARCHITECTURES", "NORMALIZATIONS", "SIDECAR", "Kind", "RawCoder", "Tensor", "TensorFile", "as_jumprelu", "expected_shapes", "fold_b_dec",
    "fold_norm_scale", "fold_rescaling", "read_json", "read_sidecar", "take", "unfold_b_dec", "write_json", "write_sidecar",
]  # fmt: skip

Kind = Literal["cross_layer", "crosscoder", "sae", "transcoder"]
Tensor = npt.NDArray[np.float32] | LazyTensor

ARCHITECTURES = ("abstopk", "gated", "groupmax", "jumprelu", "matching_pursuit", "standard", "topk")
NORMALIZATIONS = (
    "none", "expected_average_only_in", "constant_norm_rescale", "layer_norm", "covariance_whitening",
)  # fmt: skip
_WITH_K = ("abstopk", "groupmax", "topk")

SIDECAR = "iam.json"
"""Beside formats without a place for it: where a coder belongs and what kind it is. Other tools do not look at it."""

_MAX_JSON = 16 << 20
_MAX_DEPTH_ERRORS = (UnicodeDecodeError, json.JSONDecodeError, RecursionError, ValueError)


class TensorFile(Protocol):
    """What the readers of safetensors, npz and pt files have in common."""

    path: Path

    @property
    def tensors(self) -> Mapping[str, Any]: ...

    def read(self, name: str, *, transpose: bool = False) -> npt.NDArray[np.float32]: ...

    def lazy(self, name: str) -> LazyTensor: ...


@dataclass(frozen=True, kw_only=True)
class RawCoder:
    """A coder as read from a file: config values, and tensors by canonical names and orientation.

    Attributes:
        source: The file or folder, for messages.
        kind: ``sae``, ``transcoder``, ``cross_layer`` or ``crosscoder``.
        architecture: One of :data:`ARCHITECTURES`.
        d_in, d_out, d_sae: Widths and number of features (of one layer).
        n_layers: Source layers of a cross-layer transcoder, sites of a crosscoder; otherwise 1.
        k: Features per position, for ``topk``, ``abstopk`` and ``groupmax``.
        apply_b_dec_to_input: Whether the encoder subtracts ``b_dec`` from its input.
        normalize_activations: One of :data:`NORMALIZATIONS`.
        norm_scale: What the input is multiplied by, for ``expected_average_only_in``; None if the file does not say.
        rescale_acts_by_decoder_norm: Whether the top k are chosen by activation times norm of the decoder row.
        reshape_activations: ``none`` or ``hook_z``.
        residual_threshold, max_iterations, stop_on_duplicate_support: When ``matching_pursuit`` stops.
        dtype: What the weights are stored in.
        metadata: Model, site and the like.
        tensors: See above.

    Raises:
        FormatError: a value or a combination that is not known (``architecture``, ``normalization``, ``config-value``,
            ``k-range``), a tensor too many or too few (``tensor-missing``) or of another shape (``tensor-shape``).
    """

    source: str
    kind: Kind
    architecture: str
    d_in: int
    d_out: int
    d_sae: int
    n_layers: int = 1
    k: int | None = None
    apply_b_dec_to_input: bool = False
    normalize_activations: str = "none"
    norm_scale: float | None = None
    rescale_acts_by_decoder_norm: bool = False
    reshape_activations: str = "none"
    residual_threshold: float = 1e-2
    max_iterations: int | None = None
    stop_on_duplicate_support: bool = True
    dtype: str = "float32"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise self._error(
                f'unknown architecture "{self.architecture}"; {suggestion(self.architecture, ARCHITECTURES)}',
                "architecture",
            )
        if self.normalize_activations not in NORMALIZATIONS:
            raise self._error(
                f'unknown normalize_activations "{self.normalize_activations}"; '
                f"{suggestion(self.normalize_activations, NORMALIZATIONS)}",
                "normalization",
            )
        for name in ("d_in", "d_out", "d_sae", "n_layers"):
            take_int(
                getattr(self, name), what=f"{self.source}: {name}", low=1, high=2**31 - 1, error=FormatError,
                code="config-value",
            )  # fmt: skip
        if self.architecture in _WITH_K:
            take_int(self.k, what=f"{self.source}: k", low=1, high=self.d_sae, error=FormatError, code="k-range")
        elif self.k is not None:
            raise self._error(f"architecture {self.architecture} has no k, got {self.k}", "config-value")
        if self.kind in ("crosscoder", "sae") and self.d_in != self.d_out:
            raise self._error(
                f"{'an SAE' if self.kind == 'sae' else 'a crosscoder'} writes what it reads, got d_in={self.d_in} and d_out={self.d_out}",
                "config-value",
            )
        if self.kind in ("cross_layer", "transcoder") and self.apply_b_dec_to_input:
            raise self._error(
                "a transcoder's b_dec is in the space that it writes; it is never subtracted", "config-value"
            )
        if self.norm_scale is not None and not (np.isfinite(self.norm_scale) and self.norm_scale > 0):
            raise self._error(f"norm_scale: expected a positive number, got {self.norm_scale}", "config-value")
        if self.rescale_acts_by_decoder_norm and self.architecture not in ("abstopk", "topk"):
            raise self._error(f"rescale_acts_by_decoder_norm is for topk, got {self.architecture}", "config-value")
        shapes, optional = expected_shapes(self)
        if missing := [name for name in shapes if name not in self.tensors and name not in optional]:
            raise self._error(
                f"expected a tensor {missing[0]!r} for {self.architecture}, got {', '.join(sorted(self.tensors))}",
                "tensor-missing",
            )
        if unknown := sorted(set(self.tensors) - set(shapes)):
            raise self._error(
                f"tensors {unknown} do not belong to architecture {self.architecture}; expected {sorted(shapes)}",
                "tensor-missing",
            )
        for name, tensor in self.tensors.items():
            if tuple(tensor.shape) != shapes[name]:
                raise self._error(f'tensor "{name}": expected shape {shapes[name]}, got {tensor.shape}', "tensor-shape")
        if self.architecture == "jumprelu":
            for name, tensor in self.tensors.items():
                if name.split(".")[0] == "threshold" and (low := as_float32(tensor)) is not None and (low < 0).any():
                    at = int(np.flatnonzero(low < 0)[0])
                    raise self._error(
                        f'tensor "{name}": expected thresholds >= 0, got {low[at]} for feature {at}', "format"
                    )

    def _error(self, what: str, code: str) -> FormatError:
        return FormatError(f"{self.source}: {what}", code=code)  # type: ignore[arg-type]


def expected_shapes(raw: Any) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """The tensors that ``raw``'s kind and architecture have, and which of them may be absent."""
    d_in, d_out, d_sae = raw.d_in, raw.d_out, raw.d_sae
    shapes: dict[str, tuple[int, ...]] = {}
    optional: set[str] = set()
    sites = (raw.n_layers,) if raw.kind == "crosscoder" else ()
    for i in range(raw.n_layers if raw.kind == "cross_layer" else 1):
        end = f".{i}" if raw.kind == "cross_layer" else ""
        if raw.architecture != "matching_pursuit":
            shapes["W_enc" + end] = (*sites, d_in, d_sae)
        if raw.architecture == "gated":
            shapes.update({name + end: (d_sae,) for name in ("b_gate", "b_mag", "r_mag")})
        elif raw.architecture != "matching_pursuit":
            shapes["b_enc" + end] = (d_sae,)
        shapes["W_dec" + end] = (
            (d_sae, raw.n_layers - i, d_out) if raw.kind == "cross_layer" else (d_sae, *sites, d_out)
        )
        shapes["b_dec" + end] = (*sites, d_out)
        if raw.architecture == "jumprelu":
            shapes["threshold" + end] = (d_sae,)
        if raw.kind in ("cross_layer", "transcoder"):
            shapes["W_skip" + end] = (d_out, d_in)
            optional.add("W_skip" + end)
    if raw.kind in ("sae", "transcoder") and raw.normalize_activations == "covariance_whitening":
        shapes["whitening_mean"] = (d_in,)
        shapes["whitening_matrix"] = shapes["whitening_inverse"] = (d_in, d_in)
        optional.update({"whitening_mean", "whitening_matrix", "whitening_inverse"})
    return shapes, optional


def take(
    file: TensorFile, name: str, shape: tuple[int, ...], *, of: str, transpose: bool = False, lazy: bool = False
) -> Any:
    """Tensor ``name`` of a file, checked: the shape as stored, and that all values are finite.

    Args:
        file: Where it is.
        name: Its name there.
        shape: What the format stores, from the config or from the tensors that fix the sizes.
        of: What the sizes come from, for the message.
        transpose: Give it with its axes reversed.
        lazy: Leave it in the file; then its values are checked when they are read.

    Raises:
        FormatError: as said (``tensor-missing``, ``tensor-shape``, ``tensor-dtype``, ``non-finite``).
    """
    if name not in file.tensors:
        raise FormatError(
            f'{file.path}: expected a tensor "{name}", the file has: {", ".join(sorted(file.tensors)) or "none"}',
            code="tensor-missing",
        )
    got = tuple(file.tensors[name].shape)
    if got != shape:
        turned = "; that is the transpose of what this format stores" if got == shape[::-1] else ""
        raise FormatError(
            f'{file.path}: tensor "{name}": expected shape {shape} from {of}, got {got}{turned}', code="tensor-shape"
        )
    if lazy:
        tensor = file.lazy(name)
        return tensor.T if transpose else tensor
    array = file.read(name, transpose=transpose)
    return check_finite(array, f'{file.path}: tensor "{name}"')


# Equivalent records, for formats that lack a convention.


def fold_b_dec(raw: RawCoder) -> RawCoder:
    """The same function without ``apply_b_dec_to_input``: ``b_enc − b_dec·W_enc`` is what is added (float64).

    Raises:
        FormatError: matching pursuit and normalised inputs, where it is not the same (``config-value``).
    """
    if not raw.apply_b_dec_to_input:
        return raw
    if raw.architecture == "matching_pursuit" or raw.normalize_activations not in ("none", "expected_average_only_in"):
        raise FormatError(
            f"{raw.source}: b_dec cannot be folded into the encoder of {raw.architecture} with normalisation "
            f"{raw.normalize_activations}",
            code="config-value",
        )
    tensors = {name: as_float32(tensor) for name, tensor in raw.tensors.items()}
    shift = tensors["b_dec"].astype(np.float64) @ tensors["W_enc"].astype(np.float64)
    if raw.architecture == "gated":  # π = x·W + b_gate, magnitude x·(W ⊙ exp r) + b_mag
        tensors["b_gate"] = (tensors["b_gate"] - shift).astype(np.float32)
        tensors["b_mag"] = (tensors["b_mag"] - shift * np.exp(tensors["r_mag"].astype(np.float64))).astype(np.float32)
    else:
        tensors["b_enc"] = (tensors["b_enc"] - shift).astype(np.float32)
    return replace(raw, apply_b_dec_to_input=False, tensors=tensors)


def unfold_b_dec(raw: RawCoder) -> RawCoder:
    """The same function for formats that always subtract ``b_dec``: ``b_dec·W_enc`` is given back through the bias (float64)."""
    tensors = {name: as_float32(tensor) for name, tensor in raw.tensors.items()}
    shift = tensors["b_dec"].astype(np.float64) @ tensors["W_enc"].astype(np.float64)
    if raw.architecture == "gated":
        tensors["b_gate"] = (tensors["b_gate"] + shift).astype(np.float32)
        tensors["b_mag"] = (tensors["b_mag"] + shift * np.exp(tensors["r_mag"].astype(np.float64))).astype(np.float32)
    else:
        tensors["b_enc"] = (tensors["b_enc"] + shift).astype(np.float32)
    return replace(raw, apply_b_dec_to_input=True, tensors=tensors)


def fold_norm_scale(raw: RawCoder) -> RawCoder:
    """The same function with ``normalize_activations="none"``: ``W_enc·s``, ``W_dec/s``, ``b_dec/s`` for an input times s.

    Raises:
        FormatError: another normalisation, or a scale that the file does not say (``normalization``).
    """
    if raw.normalize_activations == "none":
        return raw
    if raw.normalize_activations != "expected_average_only_in" or raw.norm_scale is None or raw.kind != "sae":
        raise FormatError(
            f"{raw.source}: {raw.normalize_activations} cannot be folded into the weights"
            + ("" if raw.norm_scale is not None else ": the scale is not known"),
            code="normalization",
        )
    s = np.float64(raw.norm_scale)
    tensors = {name: as_float32(tensor) for name, tensor in raw.tensors.items()}
    tensors["W_enc"] = (tensors["W_enc"] * s).astype(np.float32)
    tensors["W_dec"] = (tensors["W_dec"] / s).astype(np.float32)
    tensors["b_dec"] = (tensors["b_dec"] / s).astype(np.float32)
    return replace(raw, normalize_activations="none", norm_scale=None, tensors=tensors)


def fold_rescaling(raw: RawCoder) -> RawCoder:
    """The same function without ``rescale_acts_by_decoder_norm``: decoder rows of norm 1, encoder times the norms."""
    if not raw.rescale_acts_by_decoder_norm:
        return raw
    tensors = {name: as_float32(tensor) for name, tensor in raw.tensors.items()}
    norms = np.maximum(np.linalg.norm(tensors["W_dec"].astype(np.float64), axis=1), 1e-8).astype(np.float32)
    tensors["W_dec"] = np.ascontiguousarray(tensors["W_dec"] / norms[:, None])
    tensors["W_enc"] = np.ascontiguousarray(tensors["W_enc"] * norms)
    tensors["b_enc"] = tensors["b_enc"] * norms
    return replace(raw, rescale_acts_by_decoder_norm=False, tensors=tensors)


def as_jumprelu(raw: RawCoder, path: Path) -> RawCoder:
    """The same function as JumpReLU: ReLU is a threshold of 0.

    Raises:
        FormatError: another architecture (``architecture``).
    """
    if raw.architecture == "jumprelu":
        return raw
    if raw.architecture != "standard":
        raise FormatError(
            f"{path}: this format holds jumprelu (and standard, as thresholds of 0), got {raw.architecture}",
            code="architecture",
        )
    tensors = dict(raw.tensors)
    for name in raw.tensors:
        if name.split(".")[0] == "b_enc":
            tensors[name.replace("b_enc", "threshold")] = np.zeros(raw.d_sae, np.float32)
    return replace(raw, architecture="jumprelu", tensors=tensors)


# JSON files.


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        FormatError: missing (``file-missing``), or no JSON object (``format``).
    """
    if not file.is_file():
        raise FormatError(f"{file}: expected a JSON file, but there is none", code="file-missing")
    if file.stat().st_size > _MAX_JSON:
        raise FormatError(f"{file}: expected a config of at most {_MAX_JSON} bytes", code="format")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except _MAX_DEPTH_ERRORS as error:
        raise FormatError(f"{file}: expected JSON: {error}", code="format") from error
    if not isinstance(raw, dict):
        raise FormatError(f"{file}: expected a JSON object, got {type(raw).__name__}", code="format")
    return raw


def write_json(file: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON object, keys sorted, atomically.

    Raises:
        FormatError: something in it is not JSON (``config-value``).
    """
    try:
        text = json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise FormatError(f"{file}: metadata is not JSON: {error}", code="config-value") from error
    write_atomically(file, text.encode("utf-8"))


def read_sidecar(folder: Path, name: str) -> dict[str, Any]:
    """What ``iam.json`` beside a format says: its ``kind``, ``metadata`` and conventions; empty if there is none.

    Raises:
        FormatError: it is about another format, or malformed (``format``).
    """
    file = folder / SIDECAR
    if not file.exists():
        return {}
    raw = read_json(file)
    if raw.get("schema") != "iam.coder/1" or not isinstance(raw.get("metadata"), dict):
        raise FormatError(
            f"{file}: expected schema iam.coder/1 with metadata, got {raw.get('schema')!r}", code="format"
        )
    if raw.get("format") != name:
        raise FormatError(
            f"{file} says format {raw.get('format')!r}, but the files beside it are {name}; one of them is wrong",
            code="format",
        )
    return raw


def write_sidecar(folder: Path, name: str, raw: RawCoder, **more: Any) -> None:
    """Write ``iam.json``; see :func:`read_sidecar`."""
    write_json(
        folder / SIDECAR,
        {"schema": "iam.coder/1", "format": name, "kind": raw.kind, "metadata": dict(raw.metadata), **more},
    )
