"""Sparse coders: SAEs, transcoders, cross-layer transcoders, crosscoders."""

from iam.vector.clt._config import ARCHITECTURES, NORMALIZATIONS, CoderConfig, SAEConfig
from iam.vector.clt._cross_layer import CrossLayerTranscoder
from iam.vector.clt._crosscoder import Crosscoder
from iam.vector.clt._metrics import explained_variance, l0, mean_squared_error
from iam.vector.clt._sae import SAE
from iam.vector.clt._transcoder import Transcoder

__all__ = [
    "ARCHITECTURES",
    "NORMALIZATIONS",
    "SAE",
    "CoderConfig",
    "CrossLayerTranscoder",
    "Crosscoder",
    "SAEConfig",
    "Transcoder",
    "explained_variance",
    "l0",
    "mean_squared_error",
]
