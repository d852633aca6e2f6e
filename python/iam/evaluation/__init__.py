"""How good a coder is, and what its features do.

:func:`evaluate` measures reconstruction, sparsity and what the coder costs a model.
"""

from iam.evaluation._evaluate import evaluate, weight_metrics
from iam.evaluation._result import DensityHistogram, Evaluation

__all__ = ["DensityHistogram", "Evaluation", "evaluate", "weight_metrics"]
