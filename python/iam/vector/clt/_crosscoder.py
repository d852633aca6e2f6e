"""Crosscoders: one set of features for the activations of several sites."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from iam.core.arrays import check_float, shape_of
from iam.core.errors import ArgumentError, DtypeError, FormatError, ShapeError
from iam.core.features import SparseFeatures
from iam.core.lazy import is_torch, torch_if_loaded
from iam.vector.clt._config import CoderConfig
from iam.vector.clt._encoder import Weight
from iam.vector.clt._sae import SAE

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Crosscoder"]


class Crosscoder:
    """A crosscoder over S sites: ``f = activation(Σ_s x_s·W_enc[s] + b_enc)``, ``x̂_s = f·W_dec[:, s] + b_dec[s]``.

    It is an SAE of the sites side by side, and runs as one; ``W_enc`` and ``W_dec`` are views of that SAE's weights.

    Args:
        cfg: Architecture and conventions; ``d_in`` is the width of one site, and ``d_out`` the same. A normalisation is
            over the sites side by side.
        W_enc: ``[S, d_in, d_sae]``.
        b_enc: ``[d_sae]``; not for ``gated``.
        W_dec: ``[d_sae, S, d_in]``.
        b_dec: ``[S, d_in]``.
        threshold: ``[d_sae]``, for ``jumprelu`` only.
        b_gate, b_mag, r_mag: ``[d_sae]``, for ``gated`` only.

    Raises:
        ShapeError: weights that do not fit each other or cfg.
        ArgumentError: a weight missing or superfluous, ``d_out`` that is not ``d_in``, ``matching_pursuit``, whitening.
        DtypeError, NonFiniteError: as :class:`iam.SAE`.

    Source: Lindsey et al. 2024, transformer-circuits.pub/2024/crosscoders.

    >>> cfg = CoderConfig(architecture="standard", d_in=1, d_sae=1)
    >>> coder = Crosscoder(
    ...     cfg,
    ...     W_enc=np.array([[[1.0]], [[10.0]]]),
    ...     b_enc=np.zeros(1),
    ...     W_dec=np.array([[[1.0], [2.0]]]),
    ...     b_dec=np.zeros((2, 1)),
    ... )
    >>> coder([np.array([[1.0]]), np.array([[2.0]])])
    [array([[21.]]), array([[42.]])]
    """

    def __init__(
        self,
        cfg: CoderConfig,
        *,
        W_enc: npt.ArrayLike,
        W_dec: npt.ArrayLike,
        b_dec: npt.ArrayLike,
        **weights: Any,
    ) -> None:
        what = type(self).__name__
        if not isinstance(cfg, CoderConfig):
            raise ArgumentError(f"{what}: expected cfg to be a CoderConfig, got {type(cfg).__name__}")
        unfit = {
            f"d_out={cfg.d_out} (d_in={cfg.d_in})": cfg.d_out != cfg.d_in,
            "architecture matching_pursuit": cfg.architecture == "matching_pursuit",
            "normalize_activations covariance_whitening": cfg.normalize_activations == "covariance_whitening",
            "reshape_activations hook_z": cfg.reshape_activations == "hook_z",
        }
        for convention, given in unfit.items():
            if given:
                raise ArgumentError(f"{what}: a crosscoder has no {convention}, got a config with it")
        encoder, decoder, bias = (_array(a) for a in (W_enc, W_dec, b_dec))
        if encoder.ndim != 3 or encoder.shape[0] < 1 or encoder.shape[1:] != (cfg.d_in, cfg.d_sae):
            raise ShapeError(f"{what}: expected W_enc of shape (sites, {cfg.d_in}, {cfg.d_sae}), got {encoder.shape}")
        n = self._n = int(encoder.shape[0])
        for name, array, shape in (
            ("W_dec", decoder, (cfg.d_sae, n, cfg.d_in)),
            ("b_dec", bias, (n, cfg.d_in)),
        ):
            if array.shape != shape:
                raise ShapeError(f"{what}: expected {name} of shape {shape}, got {array.shape}")
        self._d = cfg.d_in
        wide = n * cfg.d_in
        self._sae = SAE(
            replace(cfg, d_in=wide, d_out=wide),
            W_enc=encoder.reshape(wide, cfg.d_sae),
            W_dec=decoder.reshape(cfg.d_sae, wide),
            b_dec=bias.reshape(wide),
            **weights,
        )

    @property
    def cfg(self) -> CoderConfig:
        """The config, with ``d_in`` of one site; what is folded in :attr:`as_sae` is folded here."""
        return replace(self._sae.cfg, d_in=self._d, d_out=self._d)

    @property
    def as_sae(self) -> SAE:
        """The SAE of all sites side by side, ``[..., S · d_in]``, that does the work."""
        return self._sae

    @property
    def n_sites(self) -> int:
        """Number of sites."""
        return self._n

    @property
    def d_in(self) -> int:
        """Width of the activations of one site."""
        return self._d

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self._sae.d_sae

    @property
    def W_enc(self) -> Weight:
        """``[S, d_in, d_sae]``."""
        return self._sae.W_enc.reshape(self._n, self.d_in, self.d_sae)

    @property
    def W_dec(self) -> Weight:
        """``[d_sae, S, d_in]``."""
        return self._sae.W_dec.reshape(self.d_sae, self._n, self.d_in)

    @property
    def b_enc(self) -> Weight:
        """``[d_sae]``; None for gated."""
        return self._sae.b_enc

    @property
    def b_dec(self) -> Weight:
        """``[S, d_in]``."""
        return self._sae.b_dec.reshape(self._n, self.d_in)

    @property
    def threshold(self) -> Weight | None:
        """``[d_sae]`` (jumprelu), or None."""
        return self._sae.threshold

    def parameters(self) -> dict[str, Weight]:
        """The weights that are there, by name, in the shapes above."""
        found = self._sae.parameters()
        return found | {name: getattr(self, name) for name in ("W_enc", "W_dec", "b_dec")}

    @classmethod
    def load_from_disk(cls, path: str | Path) -> Self:
        """Read a crosscoder in IAM's own format (:mod:`iam.formats.native`).

        Raises:
            FormatError: no format or several fit; the files are malformed; they hold another kind of coder.
        """
        from iam import formats

        coder = formats.load(path)
        if not isinstance(coder, cls):
            kind = type(coder).__name__
            raise FormatError(
                f"{path}: expected a {cls.__name__}, got a {kind}; read it with iam.{kind}.load_from_disk",
                code="architecture",
            )
        return coder

    def save_model(self, path: str | Path, *, dtype: str | None = None) -> Path:
        """Write a folder in IAM's own format; arguments and errors as :meth:`iam.CrossLayerTranscoder.save_model`."""
        from iam.formats import native

        return native.write(self, path, dtype)

    def __repr__(self) -> str:
        cfg = self._sae.cfg
        k = "" if cfg.k is None else f", k={cfg.k}"
        return f"{type(self).__name__}({cfg.architecture}, {self._n} sites, d_in={self._d}, d_sae={cfg.d_sae}{k})"

    def encode(self, xs: Iterable[Any]) -> SparseFeatures:
        """Features of the activations of all sites together.

        Args:
            xs: S activations ``[..., d_in]`` of one shape, NumPy or torch.

        Returns:
            Features ``[..., d_sae]``, as :meth:`iam.SAE.encode` gives them.

        Raises:
            ShapeError: another number of activations, or of another shape. DtypeError, NonFiniteError: as
            :meth:`iam.SAE.encode`.
        """
        return self._sae.encode(self._side_by_side(xs, "encode"))

    def decode(self, f: Any) -> list[Any]:
        """Reconstructions of every site ``[..., d_in]``; arguments and errors as :meth:`iam.SAE.decode`."""
        if hasattr(f, "__iam_trace__"):
            f.__iam_trace__.fail(f"{type(self).__name__}.decode cannot be recorded", _UNTRACED)
        y = self._sae.decode(f)
        return [y[..., i * self.d_in : (i + 1) * self.d_in] for i in range(self._n)]

    def __call__(self, xs: Iterable[Any]) -> list[Any]:
        """``decode(encode(xs))``."""
        return self.decode(self.encode(xs))

    forward = __call__

    def _side_by_side(self, xs: Iterable[Any], method: str) -> Any:
        op = f"{type(self).__name__}.{method}"
        if hasattr(xs, "__iam_trace__"):
            xs.__iam_trace__.fail(f"{op}: expected {self._n} activations, got one traced value", _UNTRACED)
        if isinstance(xs, np.ndarray) or is_torch(xs) or not isinstance(xs, Iterable):
            raise DtypeError(f"{op}: expected a list of {self._n} activations, one for each site")
        xs = list(xs)
        for x in xs:
            if hasattr(x, "__iam_trace__"):
                x.__iam_trace__.fail(f"{op} cannot be recorded", _UNTRACED)
            check_float(x, op=op, name="an activation")
        shapes = [shape_of(x) for x in xs]
        if len(xs) != self._n or any(shape != shapes[0] or shape[-1:] != (self.d_in,) for shape in shapes):
            raise ShapeError(f"{op}: expected {self._n} activations of one shape [..., {self.d_in}], got {shapes}")
        if len({is_torch(x) for x in xs}) > 1:
            raise DtypeError(f"{op}: expected all activations from NumPy or all from torch, got a mixture")
        return torch_if_loaded().cat(xs, -1) if is_torch(xs[0]) else np.concatenate(xs, -1)


_UNTRACED = "Put the activations side by side outside, and use the crosscoder's as_sae inside."


def _array(value: Any) -> npt.NDArray[Any]:
    return value.detach().cpu().float().numpy() if hasattr(value, "detach") else np.asarray(value)
