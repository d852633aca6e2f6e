"""Choosing a feature to steer with: by what its examples are about, then by measuring what it does.

A feature is worth showing if setting it moves the model towards what the feature's own examples are about. So the
candidates are the features whose examples agree on one content word, and each is measured in the model: the gain
in next-token probability of the words that are typical of its examples.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from iam.cli._contexts import Contexts
from iam.cli._report import Example

MULTIPLES = (1.0, 2.0)
"""Strengths that are tried, in units of the largest activation known of the feature."""

KL_LIMIT = 6.0
"""Nats. A stronger change usually ends fluent text, so it is used only if nothing else is left."""

_WORD = re.compile(r"[a-z]{4,}")
_TOPIC_WORDS = 12

Distribution = npt.NDArray[np.float64]
Measure = Callable[[int, float], Distribution]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A feature that may be worth steering with.

    Attributes:
        feature: Its number.
        unit: Activation that counts as 1: the largest one known of it.
        topic: Words typical of its examples, most typical first; empty without examples.
    """

    feature: int
    unit: float
    topic: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The feature and strength to show, and one sentence on why."""

    feature: int
    strength: float
    reason: str


def words(examples: Iterable[Example]) -> Counter[str]:
    """In how many of the examples each content word (four letters or more, lower case) stands."""
    counts: Counter[str] = Counter()
    for example in examples:
        text = example.text_before + example.token + example.text_after
        counts.update(set(_WORD.findall(text.lower())))
    return counts


def candidates(contexts: Contexts, active: Iterable[int], limit: int = 16) -> list[Candidate]:
    """Features whose examples agree on a word that few other features are about, the clearest first.

    Args:
        contexts: Examples of the features.
        active: Features that are active in the prompt already; setting those would show less, so they come last.
        limit: How many to return at most.
    """
    counts = {feature: words(examples) for feature, examples in contexts.examples.items() if len(examples) > 1}
    spread: Counter[str] = Counter()
    for found in counts.values():
        spread.update(found.keys())
    total = max(len(counts), 1)
    already = set(active)
    ranked: list[tuple[bool, float, int, Candidate]] = []
    for feature, found in counts.items():
        examples = contexts.examples[feature]
        tokens = Counter(example.token.strip().lower() for example in examples)
        word, agreeing = tokens.most_common(1)[0]
        if agreeing < 2 or not _WORD.fullmatch(word) or found[word] < agreeing:
            continue
        weight = {name: number * math.log(total / spread[name]) for name, number in found.items()}
        topic = sorted(weight, key=lambda name: (-weight[name], name))[:_TOPIC_WORDS]
        unit = contexts.max_activation[feature] if contexts.max_activation else examples[0].activation
        if unit <= 0:
            continue
        clarity = weight[word] * agreeing / len(examples)
        candidate = Candidate(feature=feature, unit=unit, topic=topic)
        ranked.append((feature in already, -clarity, feature, candidate))
    ranked.sort(key=lambda item: item[:3])
    return [candidate for *_, candidate in ranked[:limit]]


def kl_divergence(after: Distribution, before: Distribution) -> float:
    """KL(after | before) in nats; both are probabilities over the vocabulary."""
    tiny = np.finfo(np.float64).tiny
    return max(0.0, float(np.sum(after * (np.log(after + tiny) - np.log(before + tiny)))))


def choose(
    shortlist: Sequence[Candidate],
    before: Distribution,
    measure: Measure,
    first_token: Callable[[str], int],
    advance: Callable[[], None],
) -> Choice:
    """Measure every candidate at each strength and return the one that moves the model most towards its own topic.

    Args:
        shortlist: At least one candidate.
        before: Next-token distribution without steering.
        measure: Next-token distribution with a feature set to an activation.
        first_token: Token id with which a word starts in running text.
        advance: Called after each measurement.
    """
    best: tuple[bool, float, float] | None = None
    choice: Choice | None = None
    for candidate in shortlist:
        topic = sorted({first_token(word) for word in candidate.topic})
        for multiple in MULTIPLES:
            strength = multiple * candidate.unit
            after = measure(candidate.feature, strength)
            advance()
            kl = kl_divergence(after, before)
            gain = float(after[topic].sum() - before[topic].sum()) if topic else 0.0
            # Without a topic, a change of about two nats: plainly visible, and usually still fluent.
            rank = (kl <= KL_LIMIT, gain, -abs(math.log((kl + 1e-6) / 2.0)))
            if best is None or rank > best:
                best = rank
                moved = (
                    f"raised the next-token probability of its own words by {gain:+.2f}" if topic else f"KL {kl:.2f}"
                )
                choice = Choice(
                    feature=candidate.feature,
                    strength=strength,
                    reason=f"of {len(shortlist)} features tried it {moved}; strength {multiple:g} x its largest "
                    "known activation",
                )
    assert choice is not None, "shortlist is empty"
    return choice
