"""Sparse autoencoders: ``x → features → x̂``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from iam import ops
from iam.core.arrays import check_float, check_width, needs_torch, rows_of, shape_of
from iam.core.config import suggestion, take_bool, take_int, take_str
from iam.core.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError, SiteError
from iam.core.features import SparseFeatures
from iam.core.lazy import native, torch_if_loaded
from iam.core.sites import Site

if TYPE_CHECKING:
    from iam.core.typing import ArrayT

__all__ = ["ARCHITECTURES", "SAE", "SAEConfig"]

Architecture = Literal["jumprelu", "standard", "topk"]

ARCHITECTURES = ("jumprelu", "standard", "topk")
"""What :class:`SAE` runs: a threshold per feature, plain ReLU, the k largest."""

STORAGE = ("bfloat16", "float16", "float32")


@dataclass(frozen=True, slots=True, kw_only=True)
class SAEConfig:
    """What an SAE is, apart from its weights. Names as in SAELens.

    Args:
        architecture: ``topk``, ``jumprelu`` or ``standard`` (ReLU).
        d_in: Width of the activations.
        d_sae: Number of features.
        k: Features per position; for ``topk`` only.
        apply_b_dec_to_input: Whether the encoder subtracts ``b_dec`` from its input.
        normalize_activations: Only ``none``: scales of other conventions must be folded into the weights.
        reshape_activations: ``hook_z`` if trained on attention heads flattened to one width; ``x`` comes flattened.
        dtype: What ``save_model`` stores: ``float32``, ``float16`` or ``bfloat16``. The arithmetic is float32.
        metadata: Where it was trained and on what: ``model_name``, ``hook_name``...

    Raises:
        ArgumentError: a value that is not among these (``config-value``, ``architecture``, ``normalization``), or ``k``
            outside ``1..d_sae`` (``k-range``).

    >>> SAEConfig(architecture="topk", d_in=4, d_sae=8, k=9)
    Traceback (most recent call last):
    ...
    iam.core.errors.ArgumentError: SAEConfig.k: expected an integer in 1..8, got 9
    """

    architecture: Architecture
    d_in: int
    d_sae: int
    k: int | None = None
    apply_b_dec_to_input: bool = True
    normalize_activations: str = "none"
    reshape_activations: str = "none"
    dtype: str = "float32"
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        put = object.__setattr__
        take_str(
            self.architecture,
            what="SAEConfig.architecture",
            options=ARCHITECTURES,
            error=ArgumentError,
            code="architecture",
        )
        for name in ("d_in", "d_sae"):
            value = getattr(self, name)
            size = take_int(
                value, what=f"SAEConfig.{name}", low=1, high=2**31 - 1, error=ArgumentError, code="config-value"
            )
            put(self, name, size)
        if self.architecture == "topk":
            k = take_int(self.k, what="SAEConfig.k", low=1, high=self.d_sae, error=ArgumentError, code="k-range")
            put(self, "k", k)
        elif self.k is not None:
            raise ArgumentError(
                f"SAEConfig.k: expected none for architecture {self.architecture}, got {self.k!r}", code="config-value"
            )
        take_bool(
            self.apply_b_dec_to_input,
            what="SAEConfig.apply_b_dec_to_input",
            error=ArgumentError,
            code="config-value",
        )
        if self.normalize_activations != "none":
            raise ArgumentError(
                f'SAEConfig.normalize_activations: expected "none", got {self.normalize_activations!r}; this version does '
                "not normalise activations: fold the scale into the weights (SAELens: "
                "fold_activation_norm_scaling_factor) and save again",
                code="normalization",
            )
        for name, options in (("reshape_activations", ("hook_z", "none")), ("dtype", STORAGE)):
            take_str(
                getattr(self, name), what=f"SAEConfig.{name}", options=options, error=ArgumentError, code="config-value"
            )
        if not isinstance(self.metadata, Mapping):
            raise ArgumentError(
                f"SAEConfig.metadata: expected a mapping, got {type(self.metadata).__name__}", code="config-value"
            )
        put(self, "metadata", MappingProxyType(dict(self.metadata)))

    def __getstate__(self) -> dict[str, Any]:  # a mapping proxy does not pickle or copy
        return {n: dict(v) if n == "metadata" else v for n in self.__slots__ for v in [getattr(self, n)]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, MappingProxyType(value) if name == "metadata" else value)


class SAE:
    """A sparse autoencoder: ``f = activation((x − b_dec)·W_enc + b_enc)``, ``x̂ = f·W_dec + b_dec``.

    ``encode`` gives :class:`iam.SparseFeatures` and never holds an array of the size of the dictionary; ``decode`` reads
    only the rows of active features.

    Args:
        cfg: Architecture and sizes.
        W_enc: ``[d_in, d_sae]``.
        b_enc: ``[d_sae]``.
        W_dec: ``[d_sae, d_in]``.
        b_dec: ``[d_in]``.
        threshold: ``[d_sae]``, for ``jumprelu`` only; not negative.

    The weights are float32 NumPy arrays; a C-contiguous float32 array is kept without a copy.

    Raises:
        ShapeError: a weight does not have the shape that cfg says.
        DtypeError: a weight is no array of floats.
        NonFiniteError: NaN or infinity in a weight.
        ArgumentError: threshold missing or superfluous.

    >>> import numpy as np
    >>> cfg = SAEConfig(architecture="topk", d_in=2, d_sae=3, k=1)
    >>> eye = np.eye(2, 3, dtype=np.float32)
    >>> sae = SAE(cfg, W_enc=eye, b_enc=np.zeros(3), W_dec=eye.T, b_dec=np.zeros(2))
    >>> sae
    SAE(topk, d_in=2, d_sae=3, k=1)
    >>> sae(np.array([[2.0, 5.0]]))
    array([[0., 5.]])
    """

    def __init__(
        self,
        cfg: SAEConfig,
        *,
        W_enc: npt.ArrayLike,
        b_enc: npt.ArrayLike,
        W_dec: npt.ArrayLike,
        b_dec: npt.ArrayLike,
        threshold: npt.ArrayLike | None = None,
    ) -> None:
        d_in, d_sae = cfg.d_in, cfg.d_sae
        if (threshold is not None) != (cfg.architecture == "jumprelu"):
            raise ArgumentError(
                f"SAE: architecture {cfg.architecture} {'needs a' if threshold is None else 'has no'} threshold"
            )
        self._cfg = cfg
        self._W_enc = _weight("W_enc", W_enc, (d_in, d_sae))
        self._b_enc = _weight("b_enc", b_enc, (d_sae,))
        self._W_dec = _weight("W_dec", W_dec, (d_sae, d_in))
        self._b_dec = _weight("b_dec", b_dec, (d_in,))
        self._threshold = None if threshold is None else _weight("threshold", threshold, (d_sae,))
        if self._threshold is not None and (self._threshold < 0).any():
            at = int(np.flatnonzero(self._threshold < 0)[0])
            raise ArgumentError(f"SAE: expected thresholds >= 0, got {self._threshold[at]} for feature {at}")
        self._on_device: dict[str, dict[str, Any]] = {}

    # Weights and sizes.

    @property
    def cfg(self) -> SAEConfig:
        return self._cfg

    @property
    def W_enc(self) -> npt.NDArray[np.float32]:
        """Encoder ``[d_in, d_sae]``, one column per feature."""
        return self._W_enc

    @property
    def b_enc(self) -> npt.NDArray[np.float32]:
        """Encoder bias ``[d_sae]``."""
        return self._b_enc

    @property
    def W_dec(self) -> npt.NDArray[np.float32]:
        """Decoder ``[d_sae, d_in]``, one row per feature."""
        return self._W_dec

    @property
    def b_dec(self) -> npt.NDArray[np.float32]:
        """Decoder bias ``[d_in]``."""
        return self._b_dec

    @property
    def threshold(self) -> npt.NDArray[np.float32] | None:
        """JumpReLU thresholds ``[d_sae]``, or None."""
        return self._threshold

    @property
    def d_in(self) -> int:
        """Width of the activations."""
        return self._cfg.d_in

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self._cfg.d_sae

    @property
    def site(self) -> Site | None:
        """Where it was trained, from ``cfg.metadata["hook_name"]``; None if that is missing or no site of IAM."""
        name = self._cfg.metadata.get("hook_name")
        if not isinstance(name, str):
            return None
        try:
            return Site.parse(name)
        except SiteError:
            return None

    def __repr__(self) -> str:
        cfg = self._cfg
        parts = [cfg.architecture, f"d_in={cfg.d_in}", f"d_sae={cfg.d_sae}"]
        if cfg.k is not None:
            parts.append(f"k={cfg.k}")
        if self.site is not None:
            parts.append(f"site={self.site}")
        return f"SAE({', '.join(parts)})"

    # The work.

    def encode(self, x: Any) -> SparseFeatures:
        """Features of activations.

        Args:
            x: ``[..., d_in]``, NumPy or torch, any float type; computed in float32.

        Returns:
            Features ``[..., d_sae]`` in the container and float type of ``x``: k-form for ``topk`` (k slots per position),
            CSR form otherwise. A tensor on another device, or one whose gradient is recorded, is encoded where it is, in
            torch.

        Raises:
            ShapeError: the last dimension is not ``d_in`` (``width``).
            DtypeError: not an array of floats.
            NonFiniteError: NaN or infinity in ``x``; names row and column.
        """
        trace = getattr(x, "__iam_trace__", None)
        if trace is not None:
            return trace.encode(self, x)  # type: ignore[no-any-return]
        cfg = self._cfg
        if needs_torch(x):
            return self._encode_torch(x)
        rows = rows_of(x, op="SAE.encode", name="x", width=cfg.d_in)
        shift = self._b_dec if cfg.apply_b_dec_to_input else None
        offsets = None
        if cfg.architecture == "topk":
            values, indices = native().encode_topk(rows.flat, self._W_enc, self._b_enc, shift, cfg.k)
        else:
            values, indices, offsets = native().encode_threshold(
                rows.flat, self._W_enc, self._b_enc, shift, self._threshold
            )
        return ops.features_from_kernel(values, indices, offsets, cfg.d_sae, rows.prefix, x)

    def _encode_torch(self, x: Any) -> SparseFeatures:
        from iam.vector.clt import _torch

        cfg = self._cfg
        check_float(x, op="SAE.encode", name="x")
        check_width(x, op="SAE.encode", name="x", width=cfg.d_in, width_name="d_in")
        w = self._weights_on(x.device)
        prefix = shape_of(x)[:-1]
        flat = x.to(torch_if_loaded().float32).reshape(-1, cfg.d_in)
        pre = _torch.encode(flat, w["W_enc"], w["b_enc"], w["b_dec"] if cfg.apply_b_dec_to_input else None)
        if cfg.k is not None:
            values, indices, offsets = _torch.topk(pre, cfg.k)
        else:
            values, indices, offsets = _torch.threshold(pre, w["threshold"])
        return SparseFeatures(values.to(x.dtype), indices, offsets, cfg.d_sae, prefix, validate=False)

    def decode(self, f: Any) -> Any:
        """Reconstructions ``f·W_dec + b_dec``.

        Args:
            f: Features ``[..., d_sae]``: :class:`iam.SparseFeatures`, or a dense array of them.

        Returns:
            ``[..., d_in]`` in the container and float type of ``f``.

        Raises:
            ShapeError: not ``d_sae`` features (``width``).
            DtypeError: neither SparseFeatures nor an array of floats.
        """
        trace = getattr(f, "__iam_trace__", None)
        if trace is not None:
            return trace.decode(self, f)
        if not isinstance(f, SparseFeatures):
            check_float(f, op="SAE.decode", name="f")
            check_width(f, op="SAE.decode", name="f", width=self.d_sae, width_name="d_sae")
            f = SparseFeatures.from_dense(f)
        if f.n_features != self.d_sae:
            raise ShapeError(f"SAE.decode: expected features of shape [..., {self.d_sae}], got {f.shape}", code="width")
        if needs_torch(f.components[0]):
            w = self._weights_on(f.components[0].device)
            return ops.decode(f, w["W_dec"], w["b_dec"])
        return ops.decode(f, self._W_dec, self._b_dec)

    def __call__(self, x: ArrayT) -> ArrayT:
        """``decode(encode(x))``."""
        return self.decode(self.encode(x))  # type: ignore[no-any-return]

    forward = __call__

    def _weights_on(self, device: Any) -> dict[str, Any]:
        """Weights as tensors: views of the arrays on the CPU, copies made once on another device."""
        key = str(device)
        if key not in self._on_device:
            torch = torch_if_loaded()
            arrays = {
                "W_enc": self._W_enc,
                "b_enc": self._b_enc,
                "W_dec": self._W_dec,
                "b_dec": self._b_dec,
                "threshold": self._threshold,
            }
            self._on_device[key] = {
                name: None if a is None else torch.from_numpy(a).to(device) for name, a in arrays.items()
            }
        return self._on_device[key]

    # Changes and files.

    def fold_W_dec_norm(self) -> None:
        """Give every row of ``W_dec`` norm 1 and move its norm into the encoder, in place; reconstructions stay.

        ``n = max(‖W_dec[i]‖, 1e-8)``: ``W_dec /= n``, ``W_enc *= n``, ``b_enc *= n``, ``threshold *= n``; the features are
        multiplied by ``n``. Source: SAELens ``fold_W_dec_norm``.

        Raises:
            ArgumentError: a ``topk`` SAE whose norms are not all equal: scaling the pre-activations would change which
                features are the largest.
        """
        norms = np.maximum(np.linalg.norm(self._W_dec.astype(np.float64), axis=1), 1e-8)
        if self._cfg.architecture == "topk" and not np.allclose(norms, norms[0], rtol=1e-4):
            raise ArgumentError(
                "SAE.fold_W_dec_norm: expected decoder rows of equal norm for architecture topk, got norms "
                f"{norms.min():.4g} to {norms.max():.4g}; folding them would change which features are the k largest"
            )
        n = norms.astype(np.float32)
        self._W_dec = np.ascontiguousarray(self._W_dec / n[:, None])
        self._W_enc = np.ascontiguousarray(self._W_enc * n)
        self._b_enc = self._b_enc * n
        if self._threshold is not None:
            self._threshold = self._threshold * n
        self._on_device.clear()

    @classmethod
    def load_from_disk(cls, path: str | Path) -> SAE:
        """Read a SAELens directory: ``cfg.json`` and ``sae_weights.safetensors``.

        Args:
            path: The directory.

        Raises:
            FormatError: missing, truncated or malformed files, shapes that do not fit the config, an architecture or
                normalisation that this version does not run. See :mod:`iam.formats.saelens`.
        """
        from iam.formats import saelens

        return saelens.read(path)

    def save_model(self, path: str | Path, *, dtype: str | None = None) -> tuple[Path, Path]:
        """Write a SAELens directory; each file appears complete or not at all.

        Args:
            path: The directory, made if missing.
            dtype: Storage: ``float32``, ``float16``, ``bfloat16``; by default ``cfg.dtype``.

        Returns:
            The paths of weights and config.

        Raises:
            FormatError: a weight that the storage type cannot hold.
            OSError: the directory cannot be written.
        """
        from iam.formats import saelens

        if dtype is not None and dtype not in STORAGE:
            raise ArgumentError(f'SAE.save_model: unknown dtype "{dtype}"; {suggestion(str(dtype), STORAGE)}')
        cfg = self._cfg if dtype is None else replace(self._cfg, dtype=dtype)
        return saelens.write(self, path, cfg)


def _weight(name: str, value: Any, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    if hasattr(value, "detach"):
        value = value.detach().cpu().float().numpy()
    array = np.asarray(value)
    if array.dtype.kind != "f":
        raise DtypeError(f"SAE: expected {name} of a float type, got {array.dtype}")
    if array.shape != shape:
        raise ShapeError(f"SAE: expected {name} of shape {shape}, got {array.shape}")
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise NonFiniteError(f"SAE: expected finite {name}, got {array[at]} at {at}")
    if not array.flags.writeable:
        array = array.copy()
    return array
