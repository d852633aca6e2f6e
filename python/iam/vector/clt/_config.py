"""What a sparse coder is, apart from its weights: architecture, sizes and conventions, checked when they are written down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal

from iam.core.config import take_bool, take_int, take_str
from iam.core.errors import ArgumentError

__all__ = ["ARCHITECTURES", "NORMALIZATIONS", "STORAGE", "Architecture", "CoderConfig", "SAEConfig"]

Architecture = Literal["abstopk", "gated", "groupmax", "jumprelu", "matching_pursuit", "standard", "topk"]

ARCHITECTURES = ("abstopk", "gated", "groupmax", "jumprelu", "matching_pursuit", "standard", "topk")
"""What runs. BatchTopK and Matryoshka are ways to train: their coders run as ``jumprelu`` or ``topk``."""

NORMALIZATIONS = ("constant_norm_rescale", "covariance_whitening", "expected_average_only_in", "layer_norm", "none")
"""What happens to an activation before it is encoded; see docs/coders.md."""

STORAGE = ("bfloat16", "float16", "float32", "int8")
"""What weights are stored as. ``int8``, rows with scales, is held by IAM's own format only (:mod:`iam.formats.native`)."""

_WITH_K = ("abstopk", "groupmax", "topk")
_RESCALED = ("abstopk", "topk")


@dataclass(frozen=True, slots=True, kw_only=True)
class CoderConfig:
    """What a sparse coder is, apart from its weights. Names as in SAELens where SAELens has the same thing.

    Args:
        architecture: One of :data:`ARCHITECTURES`; ``standard`` is ReLU.
        d_in: Width of the activations that are read; of one site where a coder reads several.
        d_sae: Number of features (of one layer in a cross-layer transcoder).
        d_out: Width of the activations that are written; by default ``d_in``.
        k: Features per position; for ``topk``, ``abstopk`` and ``groupmax`` (the number of groups, a divisor of d_sae) only.
        apply_b_dec_to_input: Whether the encoder subtracts ``b_dec`` from its input.
        normalize_activations: One of :data:`NORMALIZATIONS`.
        norm_scale: What activations are multiplied by before they are encoded; for ``expected_average_only_in`` only,
            which needs it. Reconstructions are divided by it.
        rescale_acts_by_decoder_norm: ``topk`` and ``abstopk`` only: features compete by ``pre·‖W_dec[i]‖``, and are that.
        reshape_activations: ``hook_z`` if trained on attention heads flattened to one width.
        residual_threshold: ``matching_pursuit`` only: stop when ``‖x − x̂‖`` is below it; 0 never stops so.
        max_iterations: ``matching_pursuit`` only: at most so many steps; None is ``d_in``.
        stop_on_duplicate_support: ``matching_pursuit`` only: stop when a step wakes no new feature.
        dtype: What is stored: one of :data:`STORAGE`. The arithmetic is float32.
        metadata: Where it was trained and on what: ``model_name``, ``hook_name``, ``hook_name_out``...

    Raises:
        ArgumentError: a value that is not among these (``config-value``, ``architecture``, ``normalization``), or ``k``
            outside ``1..d_sae`` (``k-range``).

    >>> CoderConfig(architecture="gated", d_in=4, d_sae=8).d_out
    4
    >>> CoderConfig(architecture="groupmax", d_in=4, d_sae=8, k=3)
    Traceback (most recent call last):
    ...
    iam.core.errors.ArgumentError: CoderConfig.k: expected a divisor of d_sae=8 for architecture groupmax, got 3
    """

    architecture: Architecture
    d_in: int
    d_sae: int
    d_out: int = None  # type: ignore[assignment]  # d_in, put there below
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

    def __post_init__(self) -> None:
        put = object.__setattr__
        name = type(self).__name__
        take_str(
            self.architecture,
            what=f"{name}.architecture",
            options=ARCHITECTURES,
            error=ArgumentError,
            code="architecture",
        )
        d_out: Any = self.d_out
        if d_out is None:
            put(self, "d_out", self.d_in)
        for size in ("d_in", "d_sae", "d_out"):
            put(self, size, self._int(size, 1, 2**31 - 1))
        self._check_k()
        for flag in ("apply_b_dec_to_input", "rescale_acts_by_decoder_norm", "stop_on_duplicate_support"):
            take_bool(getattr(self, flag), what=f"{name}.{flag}", error=ArgumentError, code="config-value")
        if self.apply_b_dec_to_input and self.d_out != self.d_in:
            raise ArgumentError(
                f"{name}.apply_b_dec_to_input: expected false where d_out={self.d_out} is not d_in={self.d_in}, got true",
                code="config-value",
            )
        if self.rescale_acts_by_decoder_norm and self.architecture not in _RESCALED:
            raise ArgumentError(
                f"{name}.rescale_acts_by_decoder_norm: expected false for architecture {self.architecture}, got true",
                code="config-value",
            )
        self._check_normalization()
        self._check_pursuit()
        for word, options in (("reshape_activations", ("hook_z", "none")), ("dtype", STORAGE)):
            take_str(
                getattr(self, word), what=f"{name}.{word}", options=options, error=ArgumentError, code="config-value"
            )
        if not isinstance(self.metadata, Mapping):
            raise ArgumentError(
                f"{name}.metadata: expected a mapping, got {type(self.metadata).__name__}", code="config-value"
            )
        put(self, "metadata", MappingProxyType(dict(self.metadata)))

    def _int(self, name: str, low: int, high: int, code: str = "config-value") -> int:
        what = f"{type(self).__name__}.{name}"
        return take_int(getattr(self, name), what=what, low=low, high=high, error=ArgumentError, code=code)

    def _check_k(self) -> None:
        name = type(self).__name__
        if self.architecture not in _WITH_K:
            if self.k is not None:
                raise ArgumentError(
                    f"{name}.k: expected none for architecture {self.architecture}, got {self.k!r}", code="config-value"
                )
            return
        k = self._int("k", 1, self.d_sae, "k-range")
        object.__setattr__(self, "k", k)
        if self.architecture == "groupmax" and self.d_sae % k:
            raise ArgumentError(
                f"{name}.k: expected a divisor of d_sae={self.d_sae} for architecture groupmax, got {k}", code="k-range"
            )

    def _check_normalization(self) -> None:
        name = type(self).__name__
        take_str(
            self.normalize_activations,
            what=f"{name}.normalize_activations",
            options=NORMALIZATIONS,
            error=ArgumentError,
            code="normalization",
        )
        if self.normalize_activations == "layer_norm" and self.d_in < 2:
            raise ArgumentError(
                f"{name}.normalize_activations: layer_norm divides by the deviation over d_in - 1 values; expected "
                f"d_in >= 2, got {self.d_in}",
                code="normalization",
            )
        scale = self.norm_scale
        if self.normalize_activations != "expected_average_only_in":
            if scale is not None:
                raise ArgumentError(
                    f"{name}.norm_scale: expected none for normalize_activations {self.normalize_activations}, got "
                    f"{scale!r}",
                    code="normalization",
                )
            return
        if not _is_number(scale) or not math.isfinite(float(scale)) or float(scale) <= 0:  # type: ignore[arg-type]
            raise ArgumentError(
                f"{name}.norm_scale: expected_average_only_in multiplies activations by a factor that was measured in "
                f"training; expected a positive number, got {scale!r}",
                code="normalization",
            )
        object.__setattr__(self, "norm_scale", float(scale))  # type: ignore[arg-type]

    def _check_pursuit(self) -> None:
        name = type(self).__name__
        threshold = self.residual_threshold
        if not _is_number(threshold) or not 0 <= float(threshold) < math.inf:
            raise ArgumentError(
                f"{name}.residual_threshold: expected a number >= 0, got {threshold!r}", code="config-value"
            )
        object.__setattr__(self, "residual_threshold", float(threshold))
        if self.max_iterations is not None:
            object.__setattr__(self, "max_iterations", self._int("max_iterations", 1, 2**31 - 1))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy does not pickle or copy. Not __getstate__: before Python 3.11.4, dataclass(slots=True) replaces it.
        return _rebuilt, (type(self), {f.name: _plain(getattr(self, f.name)) for f in fields(self)})


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, MappingProxyType) else value


def _rebuilt(cls: type[CoderConfig], values: dict[str, Any]) -> CoderConfig:
    """A config with these values, which were checked when it was first made."""
    config = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(config, name, MappingProxyType(value) if name == "metadata" else value)
    return config


def _is_number(value: Any) -> bool:
    return hasattr(value, "__float__") and not isinstance(value, (bool, str)) and getattr(value, "ndim", 0) == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SAEConfig(CoderConfig):
    """The config of an SAE that reads raw activations: ``d_out`` is ``d_in``, and ``b_dec`` is subtracted by default.

    Args:
        apply_b_dec_to_input: As in :class:`CoderConfig`, and on by default, as in SAELens.
        normalize_activations: Only ``none``. An SAE with a normalisation takes a :class:`CoderConfig`.

    The other arguments are those of :class:`CoderConfig`.

    Raises:
        ArgumentError: as :class:`CoderConfig`; another ``d_out``.

    >>> SAEConfig(architecture="topk", d_in=4, d_sae=8, k=9)
    Traceback (most recent call last):
    ...
    iam.core.errors.ArgumentError: SAEConfig.k: expected an integer in 1..8, got 9
    """

    apply_b_dec_to_input: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.normalize_activations, str) and self.normalize_activations != "none":
            raise ArgumentError(
                f'SAEConfig.normalize_activations: expected "none", got {self.normalize_activations!r}; fold a constant '
                "scale into the weights (fold_activation_norm_scaling_factor) and save again, or describe the SAE with "
                "iam.CoderConfig, which takes every normalisation",
                code="normalization",
            )
        if self.d_out not in (None, self.d_in):
            raise ArgumentError(f"SAEConfig.d_out: expected d_in={self.d_in}, got {self.d_out}", code="config-value")
        CoderConfig.__post_init__(self)
