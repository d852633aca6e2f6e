"""Transcoders: from the activations of one site to those of another."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from iam.core.errors import ArgumentError
from iam.vector.clt._coder import Coder
from iam.vector.clt._config import CoderConfig

__all__ = ["Transcoder"]


class Transcoder(Coder):
    """A transcoder: ``f = activation(x·W_enc + b_enc)``, ``y = f·W_dec + b_dec``, with a skip also ``+ x·W_skipᵀ``.

    ``decode`` gives ``y`` from the features alone; calling the transcoder adds the skip, which needs ``x``. A normalisation
    of the input is not undone at the output, which is at another site; ``x·W_skipᵀ`` reads ``x`` as it comes.

    Args:
        cfg: Architecture, sizes and conventions; ``d_out`` may differ from ``d_in``.
        W_enc: ``[d_in, d_sae]``.
        b_enc: ``[d_sae]``.
        W_dec: ``[d_sae, d_out]``.
        b_dec: ``[d_out]``; never subtracted from the input.
        threshold: ``[d_sae]``, for ``jumprelu`` only; not negative.
        W_skip: ``[d_out, d_in]``, or None.
        b_gate, b_mag, r_mag: ``[d_sae]``, for ``gated`` only, instead of ``b_enc``.
        whitening_mean, whitening_matrix, whitening_inverse: for ``covariance_whitening`` only.

    Raises:
        ShapeError, DtypeError, NonFiniteError: as :class:`iam.SAE`.
        ArgumentError: a weight missing or superfluous; ``apply_b_dec_to_input``; ``matching_pursuit``, whose encoder is its
            decoder.

    Source: Dunefsky et al. 2024, arXiv:2406.11944; skip: Paulo et al. 2025, arXiv:2501.18823.

    >>> import numpy as np
    >>> cfg = CoderConfig(architecture="standard", d_in=2, d_sae=2, d_out=1)
    >>> coder = Transcoder(
    ...     cfg, W_enc=np.eye(2), b_enc=np.zeros(2), W_dec=np.ones((2, 1)), b_dec=np.zeros(1), W_skip=np.array([[0.0, 10.0]])
    ... )
    >>> x = np.array([[-1.0, 3.0]])
    >>> coder.decode(coder.encode(x)), coder(x)
    (array([[3.]]), array([[33.]]))
    """

    _has_skip = True
    _carries_statistics = False

    def __init__(self, cfg: CoderConfig, *, W_dec: npt.ArrayLike, b_dec: npt.ArrayLike, **weights: Any) -> None:
        if isinstance(cfg, CoderConfig) and cfg.apply_b_dec_to_input:
            raise ArgumentError(
                f"{type(self).__name__}: expected apply_b_dec_to_input false, got true: b_dec belongs to the output site"
            )
        if isinstance(cfg, CoderConfig) and cfg.architecture == "matching_pursuit":
            raise ArgumentError(
                f"{type(self).__name__}: expected an architecture with an encoder of its own, got matching_pursuit, which "
                "reads through its decoder"
            )
        super().__init__(cfg, W_dec=W_dec, b_dec=b_dec, **weights)
