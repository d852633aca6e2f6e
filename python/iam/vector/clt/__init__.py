"""Sparse coders: SAEs and transcoders."""

from iam.vector.clt._metrics import explained_variance, l0, mean_squared_error
from iam.vector.clt._sae import SAE, SAEConfig

__all__ = ["SAE", "SAEConfig", "explained_variance", "l0", "mean_squared_error"]
