"""Training of sparse coders: :func:`train`, and the settings of a run.

    import iam

    sae = iam.train("configs/sae_topk.yaml")
    sae, transcoder = iam.train(["configs/smollm2_sae.yaml", "configs/smollm2_transcoder.yaml"])  # on the same batches

How it works, formula by formula: ``docs/training.md``.
"""

from iam.training._config import (
    CODER_KINDS,
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
    "CODER_KINDS",
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
