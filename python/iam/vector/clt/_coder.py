"""What every coder with one input and one output has in common: decode, forward, folding, files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from iam import ops
from iam.core.arrays import check_float, check_width, needs_torch
from iam.core.config import suggestion
from iam.core.errors import ArgumentError, FormatError, ShapeError
from iam.core.features import SparseFeatures
from iam.core.lazy import is_torch
from iam.core.sites import Site
from iam.vector.clt._config import STORAGE, CoderConfig
from iam.vector.clt._encoder import Encoder, Weight, _site, encoder_weights, take_weight

if TYPE_CHECKING:
    from typing_extensions import Self

    from iam.core.typing import ArrayT

__all__ = ["Coder"]


class Coder(Encoder):
    """A sparse coder ``x → features → y``. Use :class:`iam.SAE` or :class:`iam.Transcoder`.

    Args:
        cfg: Architecture, sizes and conventions.
        W_enc: ``[d_in, d_sae]``; not for ``matching_pursuit``, whose encoder is the decoder.
        b_enc: ``[d_sae]``; not for ``gated`` and ``matching_pursuit``.
        W_dec: ``[d_sae, d_out]``.
        b_dec: ``[d_out]``.
        threshold: ``[d_sae]``, for ``jumprelu`` only; not negative.
        W_skip: ``[d_out, d_in]``, for transcoders with a skip connection: ``x·W_skipᵀ`` is added to the output.
        b_gate, b_mag, r_mag: ``[d_sae]``, for ``gated`` only.
        whitening_mean, whitening_matrix, whitening_inverse: ``[d_in]``, ``[d_in, d_in]`` twice, for
            ``covariance_whitening`` only.

    The weights are float32 NumPy arrays; a C-contiguous float32 array is kept without a copy.

    Raises:
        ShapeError: a weight does not have the shape that cfg says.
        DtypeError: a weight is no array of floats.
        NonFiniteError: NaN or infinity in a weight.
        ArgumentError: a weight missing, or one that this architecture does not have; a negative threshold.
    """

    _has_skip = False

    def __init__(
        self,
        cfg: CoderConfig,
        *,
        W_dec: npt.ArrayLike,
        b_dec: npt.ArrayLike,
        W_enc: npt.ArrayLike | None = None,
        b_enc: npt.ArrayLike | None = None,
        threshold: npt.ArrayLike | None = None,
        W_skip: npt.ArrayLike | None = None,
        b_gate: npt.ArrayLike | None = None,
        b_mag: npt.ArrayLike | None = None,
        r_mag: npt.ArrayLike | None = None,
        whitening_mean: npt.ArrayLike | None = None,
        whitening_matrix: npt.ArrayLike | None = None,
        whitening_inverse: npt.ArrayLike | None = None,
    ) -> None:
        if not isinstance(cfg, CoderConfig):
            raise ArgumentError(f"{type(self).__name__}: expected cfg to be a CoderConfig, got {type(cfg).__name__}")
        shapes = encoder_weights(cfg) | {"W_dec": (cfg.d_sae, cfg.d_out), "b_dec": (cfg.d_out,)}
        if self._has_skip:
            shapes["W_skip"] = (cfg.d_out, cfg.d_in)
        given = {
            "W_enc": W_enc,
            "b_enc": b_enc,
            "W_dec": W_dec,
            "b_dec": b_dec,
            "threshold": threshold,
            "W_skip": W_skip,
            "b_gate": b_gate,
            "b_mag": b_mag,
            "r_mag": r_mag,
            "whitening_mean": whitening_mean,
            "whitening_matrix": whitening_matrix,
            "whitening_inverse": whitening_inverse,
        }
        super().__init__(cfg, given, shapes, optional="W_skip")

    # Weights and sizes.

    @property
    def W_enc(self) -> Weight:
        """Encoder ``[d_in, d_sae]``, one column per feature; in matching pursuit a view of the decoder."""
        if self._cfg.architecture == "matching_pursuit":
            return self._derived.setdefault("W_enc", self._weights["W_dec"].T)
        return self._weights["W_enc"]

    @property
    def W_dec(self) -> Weight:
        """Decoder ``[d_sae, d_out]``, one row per feature."""
        return self._weights["W_dec"]

    @property
    def b_dec(self) -> Weight:
        """Decoder bias ``[d_out]``."""
        return self._weights["b_dec"]

    @property
    def W_skip(self) -> Weight | None:
        """Skip connection ``[d_out, d_in]``, applied as ``x·W_skipᵀ``; None where there is none."""
        return self._weight("W_skip")

    @property
    def skip(self) -> Weight | None:
        """``W_skipᵀ [d_in, d_out]``, what :func:`iam.ops.residual` takes; None where there is no skip."""
        if "W_skip" not in self._weights:
            return None
        if "skip" not in self._derived:
            self._derived["skip"] = np.ascontiguousarray(self._weights["W_skip"].T)
        return self._derived["skip"]

    @property
    def fused_W_dec(self) -> Weight:
        """What compiled programs decode with: with ``rescale_acts_by_decoder_norm`` rows of norm 1, else ``W_dec`` itself."""
        if not self._cfg.rescale_acts_by_decoder_norm:
            return self._weights["W_dec"]
        if "W_dec" not in self._derived:
            norms = self._norms
            self._derived["W_dec"] = self._weights["W_dec"] / (norms + (norms == 0))[:, None]
        return self._derived["W_dec"]

    @property
    def d_out(self) -> int:
        """Width of the activations that are written."""
        return self._cfg.d_out

    @property
    def site_out(self) -> Site | None:
        """Where it writes, from ``cfg.metadata["hook_name_out"]``; ``site`` where the metadata name no other."""
        name = self._cfg.metadata.get("hook_name_out")
        return self.site if name is None else _site(name)

    def __repr__(self) -> str:
        cfg = self._cfg
        parts: list[str] = [cfg.architecture, f"d_in={cfg.d_in}", f"d_sae={cfg.d_sae}"]
        if cfg.d_out != cfg.d_in:
            parts.insert(2, f"d_out={cfg.d_out}")
        if cfg.k is not None:
            parts.append(f"k={cfg.k}")
        if cfg.normalize_activations != "none":
            parts.append(cfg.normalize_activations)
        if self.W_skip is not None:
            parts.append("skip")
        if self.site is not None:
            parts.append(f"site={self.site}")
        if self.site_out is not None and self.site_out != self.site:
            parts.append(f"site_out={self.site_out}")
        return f"{type(self).__name__}({', '.join(parts)})"

    # The work.

    def decode(self, f: Any) -> Any:
        """Reconstructions ``f·W_dec + b_dec`` in the units of the activations, without a skip connection.

        Args:
            f: Features ``[..., d_sae]``: :class:`iam.SparseFeatures`, or a dense array of them.

        Returns:
            ``[..., d_out]`` in the container and float type of ``f``.

        Raises:
            ShapeError: not ``d_sae`` features (``width``).
            DtypeError: neither SparseFeatures nor an array of floats.
            ArgumentError: the coder undoes a normalisation whose statistics the features do not carry, as dense ones
                cannot, or the features carry statistics of another coder (``normalization``).
        """
        trace = getattr(f, "__iam_trace__", None)
        if trace is not None:
            return trace.decode(self, f)
        op = f"{type(self).__name__}.decode"
        if not isinstance(f, SparseFeatures):
            check_float(f, op=op, name="f")
            check_width(f, op=op, name="f", width=self.d_sae, width_name="d_sae")
            f = SparseFeatures.from_dense(f)
        if f.n_features != self.d_sae:
            raise ShapeError(f"{op}: expected features of shape [..., {self.d_sae}], got {f.shape}", code="width")
        if self._plain and f.row_scale is None:
            if needs_torch(f.components[0]):
                device = f.components[0].device
                return ops.decode(f, self._tensor("W_dec", device), self._tensor("b_dec", device))
            return ops.decode(f, self._weights["W_dec"], self._weights["b_dec"])
        return self._decode_with_conventions(f, op)

    @property
    def _plain(self) -> bool:
        """Whether decoding is a product and a bias and nothing else."""
        cfg = self._cfg
        return (
            (cfg.normalize_activations == "none" or not self._carries_statistics)
            and not cfg.rescale_acts_by_decoder_norm
            and (cfg.architecture != "matching_pursuit" or cfg.apply_b_dec_to_input)
        )

    def _decode_with_conventions(self, f: SparseFeatures, op: str) -> Any:
        cfg = self._cfg
        normalization = cfg.normalize_activations if self._carries_statistics else "none"
        expected = normalization in ("constant_norm_rescale", "layer_norm")
        if expected != (f.row_scale is not None) or (normalization == "layer_norm") != (f.row_shift is not None):
            raise ArgumentError(
                f"{op}: normalize_activations {cfg.normalize_activations} needs "
                f"{'features that carry the statistics of their rows, as this coder’s encode gives them' if expected else 'no statistics of rows'}"
                f", got features with{'out' if f.row_scale is None else ''} row_scale",
                code="normalization",
            )
        values, indices, offsets = f.components
        kind = values.dtype
        values = values.float() if is_torch(values) else values.astype(np.float32, copy=False)
        if cfg.rescale_acts_by_decoder_norm:
            norms = self._like("_norms", values)[indices.long() if is_torch(indices) else indices]
            values = values / (norms + (norms == 0))
        bias = None if cfg.architecture == "matching_pursuit" and not cfg.apply_b_dec_to_input else "b_dec"
        in_torch = needs_torch(values, f.row_scale)
        weights = [
            None if n is None else self._tensor(n, values.device) if in_torch else getattr(self, n)
            for n in ("W_dec", bias)
        ]
        y = ops.decode(SparseFeatures(values, indices, offsets, self.d_sae, f.prefix, validate=False), *weights)
        if normalization == "expected_average_only_in":
            y = y / cfg.norm_scale
        elif normalization == "covariance_whitening":
            y = y @ self._like("whitening_inverse", y) + self._like("whitening_mean", y)
        elif expected:
            y = y * f.row_scale
            y = y if f.row_shift is None else y + f.row_shift
        return y.to(kind) if is_torch(y) else y.astype(kind, copy=False)

    def __call__(self, x: ArrayT) -> ArrayT:
        """``decode(encode(x))``, plus ``x·W_skipᵀ`` where there is a skip connection; in the shape of ``x``, heads and all."""
        y = self.decode(self.encode(x))
        if self.skip is not None:
            flat = self._join_heads(x)
            y = ops.residual(y, flat, self._tensor("skip", y.device) if needs_torch(y, flat) else self.skip)
        heads = self._heads(x) and self.d_out == self.d_in
        return y.reshape(x.shape) if heads else y  # type: ignore[no-any-return, attr-defined]

    forward = __call__

    # Folding: conventions go into the weights, in place; reconstructions stay.

    def _fold(self, changes: dict[str, Any], **cfg: Any) -> None:
        """Put new weights and a new config in place, all or nothing."""
        what = f"{type(self).__name__}: after folding"
        with np.errstate(over="ignore"):
            new = {name: take_weight(what, name, a.astype(np.float32), a.shape) for name, a in changes.items()}
        self._cfg = replace(self._cfg, **cfg) if cfg else self._cfg
        self._weights.update(new)
        self._changed()

    def fold_W_dec_norm(self) -> None:
        """Give every row of ``W_dec`` norm 1 and move its norm into the encoder, in place; reconstructions stay.

        ``n = max(‖W_dec[i]‖, 1e-8)``: ``W_dec /= n``, and ``W_enc``, ``b_enc``, ``threshold``, ``b_gate``, ``b_mag`` are
        multiplied by ``n``, which multiplies the features by ``n``. With ``rescale_acts_by_decoder_norm`` the features
        stay and the flag goes. Source: SAELens ``fold_W_dec_norm``.

        Raises:
            ArgumentError: features compete and their norms are not all equal (``topk``, ``abstopk``; within each group for
                ``groupmax``), so that scaling the pre-activations would change which are the largest; or
                ``matching_pursuit``, where the decoder is the encoder.
        """
        cfg, w = self._cfg, self._weights
        what = f"{type(self).__name__}.fold_W_dec_norm"
        if cfg.architecture == "matching_pursuit":
            raise ArgumentError(
                f"{what}: matching_pursuit encodes with its decoder; scaling it would change the features"
            )
        norms = np.maximum(np.linalg.norm(w["W_dec"].astype(np.float64), axis=1), 1e-8)
        if cfg.k is not None and not cfg.rescale_acts_by_decoder_norm:
            groups = norms.reshape(cfg.k if cfg.architecture == "groupmax" else 1, -1)
            if not np.allclose(groups, groups[:, :1], rtol=1e-4):
                raise ArgumentError(
                    f"{what}: expected decoder rows of equal norm for architecture {cfg.architecture}, got norms "
                    f"{norms.min():.4g} to {norms.max():.4g}; folding them would change which features are the k largest"
                )
        n = norms.astype(np.float32)
        changes: dict[str, Any] = {
            name: w[name] * n for name in ("W_enc", "b_enc", "threshold", "b_gate", "b_mag") if name in w
        }
        changes["W_dec"] = w["W_dec"] / n[:, None]
        self._fold(changes, **({"rescale_acts_by_decoder_norm": False} if cfg.rescale_acts_by_decoder_norm else {}))

    def fold_activation_norm_scaling_factor(self, scaling_factor: float | None = None) -> None:
        """Fold the factor that activations were multiplied by into the weights, in place; the coder then takes raw ones.

        ``W_enc *= s``, and where the output is in the units of the input (SAEs) ``W_dec /= s`` and ``b_dec /= s``.
        Features stay, except those of ``matching_pursuit``, which are divided by ``s``.

        Args:
            scaling_factor: ``s > 0``; by default ``cfg.norm_scale``.

        Raises:
            ArgumentError: no positive number; another one than ``cfg.norm_scale``; another normalisation.

        Source: SAELens ``fold_activation_norm_scaling_factor``.
        """
        cfg = self._cfg
        what = f"{type(self).__name__}.fold_activation_norm_scaling_factor"
        s = cfg.norm_scale if scaling_factor is None else float(scaling_factor)
        if s is None or not 0 < s < np.inf:
            raise ArgumentError(f"{what}: expected a number > 0, got {scaling_factor!r}")
        if cfg.normalize_activations not in ("none", "expected_average_only_in"):
            raise ArgumentError(
                f"{what}: expected a coder with one factor for all activations, got normalize_activations "
                f"{cfg.normalize_activations}",
                code="normalization",
            )
        if cfg.norm_scale is not None and not np.isclose(s, cfg.norm_scale, rtol=1e-6):
            raise ArgumentError(f"{what}: expected cfg.norm_scale={cfg.norm_scale}, got {s}", code="normalization")
        if cfg.rescale_acts_by_decoder_norm:
            self.fold_W_dec_norm()  # exact, and keeps the features, which the new norms would scale
        w = self._weights
        new_cfg: dict[str, Any] = {"normalize_activations": "none", "norm_scale": None}
        if cfg.architecture == "matching_pursuit":
            new_cfg["residual_threshold"] = cfg.residual_threshold / s
            powers = {"b_dec": -1}
        else:
            powers = {"W_enc": 1, "W_dec": -1, "b_dec": -1} if self._carries_statistics else {"W_enc": 1}
        with np.errstate(over="ignore", under="ignore"):
            changes = {name: w[name] * np.float32(s**power) for name, power in powers.items()}
        self._fold(changes, **new_cfg)

    def fold_activation_whitening(
        self,
        mean: npt.ArrayLike | None = None,
        whitening_matrix: npt.ArrayLike | None = None,
        unwhitening_matrix: npt.ArrayLike | None = None,
    ) -> None:
        """Fold ``z = (x − mean)·M`` into the weights, in place; the coder then takes raw activations. Features stay.

        ``W_enc ← M·W_enc``; where the encoder does not subtract ``b_dec``, its biases lose ``mean·M·W_enc``; where the
        output is in the units of the input (SAEs), ``W_dec ← W_dec·M⁻¹`` and ``b_dec ← b_dec·M⁻¹ + mean``.

        Args:
            mean: ``[d_in]``; by default the coder's own, as for the other two.
            whitening_matrix: ``M [d_in, d_in]``.
            unwhitening_matrix: ``M⁻¹``.

        Raises:
            ArgumentError: ``matching_pursuit``, whose encoder is its decoder; a statistic missing; another normalisation.
            ShapeError, DtypeError, NonFiniteError: as for weights.

        Source: SAELens ``fold_activation_whitening``; arXiv:2511.13981.
        """
        cfg, what = self._cfg, f"{type(self).__name__}.fold_activation_whitening"
        if cfg.architecture == "matching_pursuit":
            raise ArgumentError(f"{what}: matching_pursuit encodes with its decoder, which whitening would tear apart")
        if cfg.normalize_activations not in ("none", "covariance_whitening"):
            raise ArgumentError(
                f"{what}: expected a coder of whitened activations, got normalize_activations {cfg.normalize_activations}",
                code="normalization",
            )
        d = cfg.d_in
        names = ("whitening_mean", "whitening_matrix", "whitening_inverse")
        given: list[Any] = [
            getattr(self, n) if a is None else a
            for n, a in zip(names, (mean, whitening_matrix, unwhitening_matrix), strict=True)
        ]
        if any(a is None for a in given):
            raise ArgumentError(
                f"{what}: expected mean, whitening_matrix and unwhitening_matrix, got none for one of them"
            )
        shapes = ((d,), (d, d), (d, d))
        mu, M, inverse = (
            take_weight(what, n, a, s).astype(np.float64) for n, a, s in zip(names, given, shapes, strict=True)
        )
        if cfg.rescale_acts_by_decoder_norm:
            self.fold_W_dec_norm()  # the norms of the new rows would change which features are the largest
        w = self._weights
        changes: dict[str, Any] = {"W_enc": M @ w["W_enc"]}
        if not cfg.apply_b_dec_to_input:
            moved = mu @ changes["W_enc"]
            changes |= {n: w[n] - moved for n in ("b_enc", "b_gate") if n in w}
            if "b_mag" in w:
                changes["b_mag"] = w["b_mag"] - moved * np.exp(w["r_mag"].astype(np.float64))
        if self._carries_statistics:
            changes |= {"W_dec": w["W_dec"] @ inverse, "b_dec": w["b_dec"] @ inverse + mu}
        self._fold(changes, normalize_activations="none")
        for name in names:
            self._weights.pop(name, None)

    # Files.

    @classmethod
    def load_from_disk(cls, path: str | Path) -> Self:
        """Read a coder of this class in any format that IAM reads; which one is found out from the files.

        Args:
            path: A folder, or a weight file in it.

        Raises:
            FormatError: no format or several fit; the files are malformed; they hold a coder of another class.
        """
        from iam import formats

        return cls._expect(formats.load(path), path)

    @classmethod
    def from_pretrained(cls, release: str, sae_id: str | None = None, **options: Any) -> Self:
        """A coder of this class from the hub, or from its cache, by the names that SAELens users know.

        Args:
            release: A release (:func:`iam.formats.releases` lists them), or a hub repository ``owner/name``.
            sae_id: The coder in the release; the folder or file in a repository.
            options: As :func:`iam.formats.from_pretrained` takes them.

        Raises:
            ArgumentError: an unknown release or sae_id.
            FormatError: not fetched, malformed, or a coder of another class.
            MissingDependencyError: huggingface_hub is not installed.
        """
        from iam import formats

        return cls._expect(formats.from_pretrained(release, sae_id, **options), release)

    def to_module(self, *, dtype: Any = None, device: Any = None) -> Any:
        """The coder as a ``torch.nn.Module`` with a copy of its weights as parameters; see docs/evaluation.md.

        Args:
            dtype: Of the parameters; by default float32.
            device: Where they are; by default the CPU.

        Raises:
            ArgumentError: matching pursuit, which no module does.
        """
        from iam.vector.clt._module import to_module

        return to_module(self, dtype=dtype, device=device)

    @classmethod
    def _expect(cls, coder: Any, path: str | Path) -> Self:
        if not isinstance(coder, cls):
            kind = type(coder).__name__
            raise FormatError(
                f"{path}: expected a {cls.__name__}, got a {kind}; read it with iam.{kind}.load_from_disk or iam.formats.load",
                code="architecture",
            )
        return coder

    def save_model(self, path: str | Path, *, dtype: str | None = None) -> tuple[Path, Path]:
        """Write a SAELens directory; each file appears complete or not at all. Other formats, and IAM's own, which
        holds every coder: :func:`iam.formats.save`.

        Args:
            path: The directory, made if missing.
            dtype: Storage: ``float32``, ``float16``, ``bfloat16``; by default ``cfg.dtype``.

        Returns:
            The paths of weights and config.

        Raises:
            FormatError: a weight that the storage type cannot hold, int8, which only IAM's own format holds, or a coder that
                SAELens has no architecture for.
            OSError: the directory cannot be written.
        """
        from iam.formats import saelens

        if dtype is not None and dtype not in STORAGE:
            what = f"{type(self).__name__}.save_model"
            raise ArgumentError(f'{what}: unknown dtype "{dtype}"; {suggestion(str(dtype), STORAGE)}')
        cfg = self._cfg if dtype is None else replace(self._cfg, dtype=dtype)
        return saelens.write(self, path, cfg)
