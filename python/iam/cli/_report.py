"""What an analysis found, as plain data: the input of the renderer and of ``--json``."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

SCHEMA = "iam.report/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How well the coder describes the activations of this text.

    Attributes:
        explained_variance: ``1 - sum |x - x_hat|^2 / sum |x - mean(x)|^2`` over the positions that count, the mean
            taken over the same positions; ``None`` where there are fewer than two.
        l0: Mean number of active features per position that counts.
        cosine: Mean cosine between an activation and its reconstruction.
        positions: Number of positions in the text, and of those that count.
        not_counted: Which positions do not count and why.
    """

    explained_variance: float | None
    l0: float
    cosine: float
    positions: int
    positions_counted: int
    not_counted: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveFeature:
    """A feature and its activation at one position."""

    feature: int
    activation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFeatures:
    """The strongest features at one position; none where the position does not count."""

    position: int
    token_id: int
    token: str
    counted: bool
    active: int
    features: list[ActiveFeature]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A place in real text where a feature is strong."""

    text_before: str
    token: str
    text_after: str
    activation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureInfo:
    """What is known about a feature from text that the coder was measured on; may be nothing."""

    feature: int
    label: str
    examples: list[Example]
    max_activation: float | None
    density: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenProbability:
    """A candidate next token with its probability before and after steering."""

    token_id: int
    token: str
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """One feature set to a value at every position that counts, and what the model then says.

    Attributes:
        feature: The steered feature.
        strength: Activation that it is set to, in the units of the coder's activations.
        chosen: How feature and strength were chosen, one sentence.
        kl: KL divergence of the steered from the unsteered next-token distribution, in nats.
        top_before: Most likely next tokens without steering, most likely first.
        top_after: The same with steering.
        continuation_before: Greedy continuation without steering.
        continuation_after: Greedy continuation with steering.
    """

    feature: int
    strength: float
    chosen: str
    kl: float
    top_before: list[TokenProbability]
    top_after: list[TokenProbability]
    continuation_before: str
    continuation_after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """Wall time of one stage."""

    name: str
    ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything ``iam demo`` and ``iam analyze`` found, with where it came from."""

    command: str
    created: str
    seed: int
    prompt: str
    model: dict[str, Any]
    site: str
    coder: dict[str, Any]
    quality: Quality
    tokens: list[TokenFeatures]
    features: dict[int, FeatureInfo]
    context_source: str | None
    steering: Steering
    stages: list[StageTime]
    programs: dict[str, dict[str, str]]
    compilation: dict[str, Any]
    versions: dict[str, Any]
    hashes: dict[str, str]
    options: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data; feature numbers become string keys, as JSON wants."""
        document = {"schema": SCHEMA, **dataclasses.asdict(self)}
        document["features"] = {str(key): value for key, value in document["features"].items()}
        return document
