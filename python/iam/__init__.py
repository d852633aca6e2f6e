"""IAM, Interpretable AI with MLIR: interpretability operations that compile.

Importing this module is cheap: names load when they are first used, and torch only where a model is.

    import iam

    sae = iam.SAE.load_from_disk("path/to/sae")
    features = sae.encode(activations)  # NumPy or torch, [..., d_in]
    print(features)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iam import compiler, errors, evaluation, formats, models, ops, reference, training
    from iam.compiler import jit
    from iam.core.features import SparseFeatures
    from iam.core.sites import Site
    from iam.evaluation import evaluate
    from iam.models import LanguageModel
    from iam.ops import compose, project, steer, verify
    from iam.training import train
    from iam.vector.clt import (
        SAE,
        CoderConfig,
        Crosscoder,
        CrossLayerTranscoder,
        SAEConfig,
        Transcoder,
        explained_variance,
    )

    __version__: str

__all__ = [
    "SAE",
    "CoderConfig",
    "CrossLayerTranscoder",
    "Crosscoder",
    "LanguageModel",
    "SAEConfig",
    "Site",
    "SparseFeatures",
    "Transcoder",
    "__version__",
    "compiler",
    "compose",
    "errors",
    "evaluate",
    "evaluation",
    "explained_variance",
    "formats",
    "jit",
    "models",
    "ops",
    "project",
    "reference",
    "steer",
    "train",
    "training",
    "verify",
]

_WHERE = {
    "CoderConfig": "iam.vector.clt",
    "CrossLayerTranscoder": "iam.vector.clt",
    "Crosscoder": "iam.vector.clt",
    "LanguageModel": "iam.models",
    "SAE": "iam.vector.clt",
    "SAEConfig": "iam.vector.clt",
    "Site": "iam.core.sites",
    "SparseFeatures": "iam.core.features",
    "Transcoder": "iam.vector.clt",
    "evaluate": "iam.evaluation",
    "explained_variance": "iam.vector.clt",
    "compose": "iam.ops",
    "jit": "iam.compiler",
    "project": "iam.ops",
    "steer": "iam.ops",
    "train": "iam.training",
    "verify": "iam.ops",
}
_MODULES = ("compiler", "errors", "evaluation", "formats", "models", "ops", "reference", "training")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("iam")
    except PackageNotFoundError:  # run from the source tree, not installed
        return "0+unknown"


def __getattr__(name: str) -> Any:
    import importlib

    if name in _WHERE:
        value: Any = getattr(importlib.import_module(_WHERE[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"iam.{name}")
    elif name == "__version__":
        value = _version()
    else:
        from iam.core.config import nearest

        near = nearest(name, __all__)
        hint = f'; did you mean "{near}"?' if near else ""
        raise AttributeError(f'module "iam" has no attribute "{name}"{hint}')
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
