"""Language models: read and edit activations at typed sites of a ``transformers`` causal LM.

>>> import iam                                                      # doctest: +SKIP
>>> model = iam.LanguageModel("smollm2")                            # doctest: +SKIP
>>> rows = model.capture("The capital of France is", ["resid_post.15"])  # doctest: +SKIP
"""

from iam.models._families import FAMILIES, Family, SitePoint
from iam.models._language_model import LanguageModel
from iam.models._segments import Prompt

__all__ = ["FAMILIES", "Family", "LanguageModel", "Prompt", "SitePoint"]
