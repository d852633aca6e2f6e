"""Sparse autoencoders: ``x → features → x̂``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from iam.core.errors import ArgumentError, FormatError
from iam.vector.clt._coder import Coder
from iam.vector.clt._config import CoderConfig, SAEConfig

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ARCHITECTURES", "SAE", "SAEConfig"]

ARCHITECTURES = ("jumprelu", "standard", "topk")
"""What SAELens directories are read as; :data:`iam.vector.clt.ARCHITECTURES` is what runs."""


class SAE(Coder):
    """A sparse autoencoder: ``f = activation((x − b_dec)·W_enc + b_enc)``, ``x̂ = f·W_dec + b_dec``.

    ``encode`` gives :class:`iam.SparseFeatures` and never holds an array of the size of the dictionary; ``decode`` reads
    only the rows of active features.

    Args:
        cfg: Architecture, sizes and conventions: :class:`iam.SAEConfig`, or :class:`iam.CoderConfig` with ``d_out`` equal
            to ``d_in``.
        W_enc: ``[d_in, d_sae]``; not for ``matching_pursuit``, whose encoder is the decoder.
        b_enc: ``[d_sae]``; not for ``gated`` and ``matching_pursuit``.
        W_dec: ``[d_sae, d_in]``.
        b_dec: ``[d_in]``.
        threshold: ``[d_sae]``, for ``jumprelu`` only; not negative.
        b_gate, b_mag, r_mag: ``[d_sae]``, for ``gated`` only: ``[x·W_enc + b_gate > 0] · relu(x·W_enc·exp(r_mag) + b_mag)``.
        whitening_mean, whitening_matrix, whitening_inverse: ``[d_in]``, ``[d_in, d_in]`` twice, for
            ``covariance_whitening`` only.

    The weights are float32 NumPy arrays; a C-contiguous float32 array is kept without a copy.

    Raises:
        ShapeError: a weight does not have the shape that cfg says.
        DtypeError: a weight is no array of floats.
        NonFiniteError: NaN or infinity in a weight.
        ArgumentError: a weight missing or superfluous; ``d_out`` is not ``d_in``.

    >>> import numpy as np
    >>> cfg = SAEConfig(architecture="topk", d_in=2, d_sae=3, k=1)
    >>> eye = np.eye(2, 3, dtype=np.float32)
    >>> sae = SAE(cfg, W_enc=eye, b_enc=np.zeros(3), W_dec=eye.T, b_dec=np.zeros(2))
    >>> sae
    SAE(topk, d_in=2, d_sae=3, k=1)
    >>> sae(np.array([[2.0, 5.0]]))
    array([[0., 5.]])
    """

    def __init__(self, cfg: CoderConfig, *, W_dec: npt.ArrayLike, b_dec: npt.ArrayLike, **weights: Any) -> None:
        if isinstance(cfg, CoderConfig) and cfg.d_out != cfg.d_in:
            raise ArgumentError(
                f"{type(self).__name__}: expected d_out = d_in = {cfg.d_in}, got {cfg.d_out}; a coder that writes elsewhere "
                "is an iam.Transcoder"
            )
        super().__init__(cfg, W_dec=W_dec, b_dec=b_dec, **weights)

    @classmethod
    def load_from_disk(cls, path: str | Path) -> Self:
        """Read an SAE in any format that IAM reads; which one is found out from the files.

        Args:
            path: A folder, or a weight file in it. Where no format fits, the message is that of a SAELens folder.

        Raises:
            FormatError: missing, truncated or malformed files, shapes that do not fit the config, an architecture that this
                version does not run, a transcoder.
        """
        from iam.formats import detect, load, saelens

        try:
            detect(path)
        except FormatError:
            return cls._expect(saelens.read(path), path)
        return cls._expect(load(path), path)
