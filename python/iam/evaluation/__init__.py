"""How good a coder is, and what its features do.

:func:`evaluate` measures reconstruction, sparsity and what the coder costs a model. :func:`feature_statistics` collects contexts,
histograms and logit effects of all features in one pass.
"""

from iam.evaluation._evaluate import evaluate, weight_metrics
from iam.evaluation._features import FeatureStatistics, LogitEffects, feature_statistics
from iam.evaluation._result import DensityHistogram, Evaluation

__all__ = [
    "DensityHistogram",
    "Evaluation",
    "FeatureStatistics",
    "LogitEffects",
    "evaluate",
    "feature_statistics",
    "weight_metrics",
]
