"""Choosing a feature to steer with: by its examples, then by what the model writes under it.

A feature is worth showing if setting it makes the model write about what the feature is about. That can be measured
without naming a topic: let the model write with the feature set, then let it read the new text without, and see how
strongly the feature answers on its own. A feature that answers to text it caused is *echoed*.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from iam.cli._contexts import Contexts

MULTIPLES = (1.5,)
"""Strengths that are tried, in units of the largest activation known of the feature."""

CANDIDATES = 16
"""How many features are tried."""

_DENSEST = 0.01
_WORD = re.compile(r"[a-z]{4,}")
_VARIED = 0.75

Distribution = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One feature at one strength, and what came of it.

    Attributes:
        feature: Its number.
        multiple: Strength, in units of ``unit``.
        unit: Activation that counts as 1: the largest one known of the feature.
        echo: Mean activation, in units of ``unit`` and at most 1 per token, of the feature on the text written under it.
        variety: Fraction of tokens of that text that are new in it; low for text that goes round in circles.
    """

    feature: int
    multiple: float
    unit: float
    echo: float = 0.0
    variety: float = 1.0

    @property
    def strength(self) -> float:
        """The activation to set."""
        return self.multiple * self.unit

    @property
    def score(self) -> float:
        """Echo, discounted where the text repeats itself."""
        return self.echo * min(1.0, self.variety / _VARIED) ** 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The feature and strength to show, and one sentence on why."""

    feature: int
    strength: float
    reason: str


def candidates(contexts: Contexts, active: Iterable[int], limit: int = CANDIDATES) -> list[int]:
    """Features whose examples agree on one content word that few other features stand for, the clearest first.

    Args:
        contexts: Examples of the features.
        active: Features that are active in the prompt already; setting those would show less, so they come last.
        limit: How many to return at most.
    """
    already = set(active)
    heads: dict[int, tuple[str, int, int]] = {}
    spread: Counter[str] = Counter()
    for feature, examples in contexts.examples.items():
        stems = Counter(example.token.strip().lower()[:5] for example in examples)
        stem, agreeing = stems.most_common(1)[0]
        spread[stem] += 1
        dense = contexts.density[feature] if contexts.density else 0.0
        whole = all(e.token.startswith(" ") and not e.text_after[:1].isalpha() for e in examples)
        if agreeing < 2 or not whole or dense > _DENSEST or not _WORD.fullmatch(stem) or examples[0].activation <= 0:
            continue
        heads[feature] = (stem, agreeing, len(examples))
    ranked = [
        (feature in already, -agreeing / total, spread[stem], -_unit(contexts, feature), feature)
        for feature, (stem, agreeing, total) in heads.items()
    ]
    return [item[-1] for item in sorted(ranked)[:limit]]


def _unit(contexts: Contexts, feature: int) -> float:
    return contexts.max_activation[feature] if contexts.max_activation else contexts.examples[feature][0].activation


def kl_divergence(after: Distribution, before: Distribution) -> float:
    """KL(after | before) in nats; both are probabilities over the vocabulary."""
    tiny = np.finfo(np.float64).tiny
    return max(0.0, float(np.sum(after * (np.log(after + tiny) - np.log(before + tiny)))))


def variety(tokens: Sequence[int]) -> float:
    """Fraction of ``tokens`` that did not occur before in them; 1 for none."""
    return len(set(tokens)) / len(tokens) if tokens else 1.0


def best(trials: Sequence[Trial]) -> Choice:
    """The trial with the highest score; ties go to the weaker strength, then to the lowest feature."""
    found = max(trials, key=lambda trial: (trial.score, -trial.multiple, -trial.feature))
    tried = len({trial.feature for trial in trials})
    percent = math.floor(100 * found.echo + 0.5)
    reason = (
        f"of {tried} features tried, the one that the text written under it answers to most: {percent} % of its largest "
        f"known activation, mean over the new tokens; strength {found.multiple:g} x that activation"
    )
    return Choice(feature=found.feature, strength=found.strength, reason=reason)
