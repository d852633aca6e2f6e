"""Training of sparse coders: :func:`train`, and the settings of a run.

    import iam

    sae = iam.train("configs/sae_topk.yaml")

How it works, formula by formula: ``docs/training.md``.
"""

from iam.training._config import (
    TRAINING_ARCHITECTURES,
    CheckpointSettings,
    CoderSettings,
    DataSettings,
    LoggingSettings,
    OptimiserSettings,
    ScheduleSettings,
    SparsitySettings,
    TrainConfig,
)
from iam.training._train import train

__all__ = [
    "TRAINING_ARCHITECTURES",
    "CheckpointSettings",
    "CoderSettings",
    "DataSettings",
    "LoggingSettings",
    "OptimiserSettings",
    "ScheduleSettings",
    "SparsitySettings",
    "TrainConfig",
    "train",
]
