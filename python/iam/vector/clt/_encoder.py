"""From activations to sparse features: weights, normalisation, and the activation of every architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from iam import ops
from iam.core.arrays import check_float, check_width, needs_torch, rows_of, shape_of
from iam.core.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError, SiteError
from iam.core.features import SparseFeatures
from iam.core.lazy import is_torch, native, torch_if_loaded
from iam.core.sites import Site
from iam.vector.clt._config import CoderConfig

__all__ = ["Encoder", "take_weight"]

Weight = npt.NDArray[np.float32]

_GATED = ("b_gate", "b_mag", "r_mag")
_WHITENING = ("whitening_mean", "whitening_matrix", "whitening_inverse")
_LAYER_NORM_EPSILON = 1e-5


def encoder_weights(cfg: CoderConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights that encoding needs, besides ``b_dec`` and the decoder that matching pursuit reads."""
    d_in, d_sae = cfg.d_in, cfg.d_sae
    shapes: dict[str, tuple[int, ...]] = {}
    if cfg.architecture != "matching_pursuit":
        shapes["W_enc"] = (d_in, d_sae)
    if cfg.architecture == "gated":
        shapes.update(dict.fromkeys(_GATED, (d_sae,)))
    elif cfg.architecture != "matching_pursuit":
        shapes["b_enc"] = (d_sae,)
    if cfg.architecture == "jumprelu":
        shapes["threshold"] = (d_sae,)
    if cfg.normalize_activations == "covariance_whitening":
        shapes.update(zip(_WHITENING, ((d_in,), (d_in, d_in), (d_in, d_in)), strict=True))
    return shapes


class Encoder:
    """The part of a coder that reads: config, encoder weights, and :meth:`encode`. Coders derive from it."""

    _carries_statistics = True
    """Whether codes carry the statistics of their row for the decoder, where the normalisation has some."""

    def __init__(
        self, cfg: CoderConfig, weights: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], optional: str = ""
    ) -> None:
        """``weights`` by name, None for one that is not given; ``shapes`` of those that must be there."""
        what = type(self).__name__
        self._cfg = cfg
        self._weights: dict[str, Weight] = {}
        for name, value in weights.items():
            if value is None and name in shapes and name != optional:
                article = "a " if name == "threshold" else ""
                raise ArgumentError(f"{what}: architecture {cfg.architecture} needs {article}{name}")
            if value is not None and name not in shapes:
                if name in _WHITENING:
                    raise ArgumentError(f"{what}: normalize_activations {cfg.normalize_activations} has no {name}")
                raise ArgumentError(f"{what}: architecture {cfg.architecture} has no {name}")
            if value is not None:
                self._weights[name] = take_weight(what, name, value, shapes[name])
        theta = self._weights.get("threshold")
        if theta is not None and (theta < 0).any():
            at = int(np.flatnonzero(theta < 0)[0])
            raise ArgumentError(f"{what}: expected thresholds >= 0, got {theta[at]} for feature {at}")
        self._derived: dict[str, Weight] = {}
        self._on_device: dict[tuple[str, str], Any] = {}

    # Weights and sizes.

    @property
    def cfg(self) -> CoderConfig:
        return self._cfg

    def _weight(self, name: str) -> Any:
        return self._weights.get(name)

    @property
    def W_enc(self) -> Weight:
        """Encoder ``[d_in, d_sae]``, one column per feature."""
        return self._weight("W_enc")

    @property
    def b_enc(self) -> Weight:
        """Encoder bias ``[d_sae]``; None in gated and matching-pursuit coders, which have none."""
        return self._weight("b_enc")

    @property
    def threshold(self) -> Weight | None:
        """JumpReLU thresholds ``[d_sae]``, or None."""
        return self._weight("threshold")

    @property
    def b_gate(self) -> Weight | None:
        """Bias of the gate ``[d_sae]`` (gated), or None."""
        return self._weight("b_gate")

    @property
    def b_mag(self) -> Weight | None:
        """Bias of the magnitude ``[d_sae]`` (gated), or None."""
        return self._weight("b_mag")

    @property
    def r_mag(self) -> Weight | None:
        """Logarithm of the magnitude's scale ``[d_sae]`` (gated), or None: the magnitude reads ``W_enc·exp(r_mag)``."""
        return self._weight("r_mag")

    @property
    def whitening_mean(self) -> Weight | None:
        """``[d_in]``, or None."""
        return self._weight("whitening_mean")

    @property
    def whitening_matrix(self) -> Weight | None:
        """``M [d_in, d_in]`` in ``z = (x − mean)·M``, or None."""
        return self._weight("whitening_matrix")

    @property
    def whitening_inverse(self) -> Weight | None:
        """``M⁻¹ [d_in, d_in]``, or None."""
        return self._weight("whitening_inverse")

    @property
    def d_in(self) -> int:
        """Width of the activations that are read."""
        return self._cfg.d_in

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self._cfg.d_sae

    @property
    def site(self) -> Site | None:
        """Where it reads, from ``cfg.metadata["hook_name"]``; None if that is missing or no site of IAM."""
        return _site(self._cfg.metadata.get("hook_name"))

    def parameters(self) -> dict[str, Weight]:
        """The weights that are there, by name."""
        return dict(self._weights)

    # What the kernels take. For most architectures, these are the weights themselves.

    @property
    def fused_W_enc(self) -> Weight:
        """The encoder ``[d_in, d_sae]`` that the kernel multiplies with.

        ``gated``: ``W_enc·exp(r_mag)``. ``rescale_acts_by_decoder_norm``: times ``‖W_dec[i]‖``. Otherwise ``W_enc`` itself.
        """
        return self._fused("W_enc")

    @property
    def fused_b_enc(self) -> Weight:
        """The bias that goes with :attr:`fused_W_enc`."""
        return self._fused("b_enc")

    @property
    def fused_threshold(self) -> Weight | None:
        """``gated``: ``max(0, b_mag − b_gate·exp(r_mag))``; a feature passes gate and magnitude exactly above it."""
        return self._fused("threshold") if self._cfg.architecture == "gated" else self._weight("threshold")

    def _fused(self, name: str) -> Weight:
        cfg = self._cfg
        if cfg.architecture != "gated" and not cfg.rescale_acts_by_decoder_norm:
            return self._weight(name)
        if name not in self._derived:
            self._derived[name] = np.ascontiguousarray(self._derive(name), dtype=np.float32)
        return self._derived[name]

    def _derive(self, name: str) -> Any:
        if self._cfg.architecture == "gated":
            gain = np.exp(self._weights["r_mag"].astype(np.float64))
            if name == "W_enc":
                return self._weights["W_enc"] * gain.astype(np.float32)
            if name == "b_enc":
                return self._weights["b_mag"]
            return np.maximum(self._weights["b_mag"] - self._weights["b_gate"] * gain, 0)
        return self._weights[name] * self._norms

    @property
    def _norms(self) -> Weight:
        """``‖W_dec[i]‖`` of each feature."""
        if "norms" not in self._derived:
            wide = self._weights["W_dec"].astype(np.float64)
            self._derived["norms"] = np.linalg.norm(wide, axis=1).astype(np.float32)
        return self._derived["norms"]

    def _tensor(self, name: str, device: Any) -> Any:
        """A weight, or what the kernels take, as a tensor: a view on the CPU, a copy made once on another device."""
        key = (name, str(device))
        if key not in self._on_device:
            array = getattr(self, name)
            self._on_device[key] = None if array is None else torch_if_loaded().from_numpy(array).to(device)
        return self._on_device[key]

    def _like(self, name: str, other: Any) -> Any:
        """A weight in the container of ``other``."""
        return self._tensor(name, other.device) if is_torch(other) else getattr(self, name)

    def _changed(self) -> None:
        self._derived.clear()
        self._on_device.clear()

    # The work.

    def encode(self, x: Any) -> SparseFeatures:
        """Features of activations.

        Args:
            x: ``[..., d_in]``, NumPy or torch, any float type; computed in float32. With ``reshape_activations`` ``hook_z``
                also ``[..., heads, d_head]`` with ``heads · d_head = d_in``.

        Returns:
            Features ``[..., d_sae]`` in the container and float type of ``x``: k-form for ``topk``, ``abstopk`` and
            ``groupmax`` (k slots per position), CSR form otherwise. Where the input is normalised by statistics of its own
            row, they carry those. A tensor on another device, or one whose gradient is recorded, is encoded where it is,
            in torch.

        Raises:
            ShapeError: the last dimension is not ``d_in`` (``width``).
            DtypeError: not an array of floats.
            NonFiniteError: NaN or infinity in ``x``; names row and column.
        """
        trace = getattr(x, "__iam_trace__", None)
        if trace is not None:
            return trace.encode(self, x)  # type: ignore[no-any-return]
        op = f"{type(self).__name__}.encode"
        cfg = self._cfg
        x = self._join_heads(x)
        if needs_torch(x):
            check_float(x, op=op, name="x")
            check_width(x, op=op, name="x", width=cfg.d_in, width_name="d_in")
            prefix = shape_of(x)[:-1]
            flat = x.to(torch_if_loaded().float32).reshape(-1, cfg.d_in)
            z, scale, shift = self._normalise(flat, op)
            values, indices, offsets = self._encode_torch(z)
            return SparseFeatures(
                values.to(x.dtype),
                indices,
                offsets,
                cfg.d_sae,
                prefix,
                validate=False,
                row_scale=scale,
                row_shift=shift,
            )
        rows = rows_of(x, op=op, name="x", width=cfg.d_in)
        z, scale, shift = self._normalise(rows.flat, op)
        values, indices, offsets = self._encode_rows(z)
        f = ops.features_from_kernel(values, indices, offsets, cfg.d_sae, rows.prefix, x)
        if scale is None:
            return f
        if is_torch(x):
            torch = torch_if_loaded()
            scale, shift = torch.from_numpy(scale), None if shift is None else torch.from_numpy(shift)
        parts = f.components
        return SparseFeatures(*parts, cfg.d_sae, rows.prefix, validate=False, row_scale=scale, row_shift=shift)

    def _heads(self, x: Any) -> bool:
        """Whether ``x`` comes as ``[..., heads, d_head]``."""
        if self._cfg.reshape_activations != "hook_z" or getattr(x, "ndim", 0) < 2 or hasattr(x, "__iam_trace__"):
            return False
        heads, d_head = shape_of(x)[-2:]
        return d_head != self._cfg.d_in and heads * d_head == self._cfg.d_in

    def _join_heads(self, x: Any) -> Any:
        return x.reshape(*x.shape[:-2], self._cfg.d_in) if self._heads(x) else x

    def _encode_rows(self, z: Weight) -> tuple[Any, Any, Any]:
        """Components of the features of ``z [rows, d_in]``, by kernels."""
        cfg = self._cfg
        shift = self._weights["b_dec"] if cfg.apply_b_dec_to_input else None
        if cfg.architecture == "matching_pursuit":
            return native().matching_pursuit(z, self._weights["W_dec"], shift, *self._pursuit())
        W, b = self.fused_W_enc, self.fused_b_enc
        if cfg.k is None:
            return native().encode_threshold(z, W, b, shift, self.fused_threshold)
        kernels = {
            "topk": native().encode_topk,
            "abstopk": native().encode_abstopk,
            "groupmax": native().encode_groupmax,
        }
        return (*kernels[cfg.architecture](z, W, b, shift, cfg.k), None)

    def _pursuit(self) -> tuple[float, int, bool]:
        """When matching pursuit stops: threshold, steps, and whether a step that wakes no new feature is the last."""
        cfg = self._cfg
        steps = cfg.d_in if cfg.max_iterations is None else cfg.max_iterations
        return cfg.residual_threshold, steps, cfg.stop_on_duplicate_support

    def _encode_torch(self, z: Any) -> tuple[Any, Any, Any]:
        """The same in torch, where ``z`` is; gradients flow."""
        from iam.vector.clt import _torch

        cfg = self._cfg
        shift = self._tensor("b_dec", z.device) if cfg.apply_b_dec_to_input else None
        if cfg.architecture == "matching_pursuit":
            _torch.check_finite(z, op="iam.clt.matching_pursuit", name="x")
            rest = z if shift is None else z - shift
            return _torch.matching_pursuit(rest, self._tensor("W_dec", z.device), *self._pursuit())
        pre = _torch.encode(z, self._tensor("fused_W_enc", z.device), self._tensor("fused_b_enc", z.device), shift)
        if cfg.k is not None:
            activations = {"topk": _torch.topk, "abstopk": _torch.abstopk, "groupmax": _torch.groupmax}
            return activations[cfg.architecture](pre, cfg.k)
        return _torch.threshold(pre, self._tensor("fused_threshold", z.device))

    # Normalisation. Nothing is kept: what the decoder needs of a row travels with its features.

    def _normalise(self, x: Any, op: str) -> tuple[Any, Any, Any]:
        """``x [rows, d_in]`` as the weights expect it, and what the decoder scales and shifts each row by, or None."""
        kind = self._cfg.normalize_activations
        if kind == "none":
            return x, None, None
        _check_finite(x, op)
        if kind == "expected_average_only_in":
            return x * self._cfg.norm_scale, None, None
        if kind == "covariance_whitening":
            return (x - self._like("whitening_mean", x)) @ self._like("whitening_matrix", x), None, None
        wide = x.double() if is_torch(x) else x.astype(np.float64)
        if kind == "layer_norm":
            shift = wide.mean(-1)[:, None]
            centred = wide - shift
            scale = ((centred**2).sum(-1)[:, None] / (self._cfg.d_in - 1)) ** 0.5
            z = centred / (scale + _LAYER_NORM_EPSILON)
        else:
            shift = None
            scale = ((wide**2).sum(-1)[:, None] / self._cfg.d_in) ** 0.5
            z = wide / (scale + (scale == 0))  # a row of zeros stays one, and decodes to zero
        scale, shift, z = (None if n is None else _narrow(n) for n in (scale, shift, z))
        return (z, scale, shift) if self._carries_statistics else (z, None, None)


def _narrow(x: Any) -> Any:
    return x.float() if is_torch(x) else x.astype(np.float32)


def _check_finite(x: Any, op: str) -> None:
    """Before rows are mixed with their statistics: name the row and column as the kernels do."""
    if is_torch(x):
        from iam.vector.clt import _torch

        _torch.check_finite(x, op=op, name="x")
        return
    if not np.isfinite(x).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise NonFiniteError(
            f"{op}: expected finite x, got {x[row, column]} at row {row}, column {column}; x has shape {x.shape}"
        )


def _site(name: Any) -> Site | None:
    if not isinstance(name, str):
        return None
    try:
        return Site.parse(name)
    except SiteError:
        return None


def take_weight(what: str, name: str, value: Any, shape: tuple[int, ...]) -> Weight:
    """``value`` as finite float32 of ``shape``, C-contiguous and writeable; not copied if it is that already."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().float().numpy()
    array = np.asarray(value)
    if array.dtype.kind != "f":
        raise DtypeError(f"{what}: expected {name} of a float type, got {array.dtype}")
    if array.shape != shape:
        raise ShapeError(f"{what}: expected {name} of shape {shape}, got {array.shape}")
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise NonFiniteError(f"{what}: expected finite {name}, got {array[at]} at {at}")
    if not array.flags.writeable:
        array = array.copy()
    return array
