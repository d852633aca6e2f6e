"""What a coder's features mean: example contexts from real text, shipped beside the weights."""

import gzip
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iam.cli._report import Example, FeatureInfo
from iam.core.errors import FormatError

FILE_NAME = "contexts.json.gz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contexts:
    """Examples, largest activation and density of a coder's features; each may be missing.

    Attributes:
        examples: Feature number to its strongest examples, strongest first.
        max_activation: Largest activation seen per feature, or empty.
        density: Fraction of positions where the feature is active, or empty.
        source: The text that all of this was measured on.
    """

    examples: dict[int, list[Example]]
    max_activation: list[float]
    density: list[float]
    source: str | None

    def info(self, feature: int) -> FeatureInfo:
        """What is known about one feature."""
        examples = self.examples.get(feature, [])
        return FeatureInfo(
            feature=feature,
            label=label(examples),
            examples=examples,
            max_activation=self.max_activation[feature] if self.max_activation else None,
            density=self.density[feature] if self.density else None,
        )


def label(examples: list[Example]) -> str:
    """A short name: the token that the examples agree on, or the two most frequent, ``""`` without examples."""
    words = Counter(example.token.strip() or example.token.replace(" ", "␣") for example in examples)
    names = [word for word, _ in words.most_common(2)]
    if len(names) == 2 and words[names[0]] > 1 and words[names[1]] == 1:
        names = names[:1]
    return "/".join(names)


def load_contexts(folder: Path, n_features: int) -> Contexts:
    """Read ``contexts.json.gz`` of a coder's folder; a folder without one gives empty contexts.

    Raises:
        FormatError: the file is there but damaged, or is about another number of features.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return Contexts(examples={}, max_activation=[], density=[], source=None)
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            document: dict[str, Any] = json.load(stream)
        examples = {int(key): [_example(item) for item in items] for key, items in document["features"].items()}
        contexts = Contexts(
            examples=examples,
            max_activation=[float(value) for value in document.get("max_activation") or []],
            density=[float(value) for value in document.get("density") or []],
            source=None if document.get("source") is None else str(document["source"]),
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(
            f"{path}: expected gzipped JSON with the examples of each feature, got {type(error).__name__}: {error}; "
            "delete the file to go on without examples"
        ) from error
    sizes = {"max_activation": len(contexts.max_activation), "density": len(contexts.density)}
    for name, size in sizes.items():
        if size not in (0, n_features):
            raise FormatError(f"{path}: expected {n_features} entries in {name} (features of the coder), got {size}")
    if outside := [feature for feature in examples if not 0 <= feature < n_features]:
        raise FormatError(f"{path}: feature {outside[0]} is not in 0..{n_features - 1} (features of the coder)")
    return contexts


def _example(item: dict[str, Any]) -> Example:
    return Example(
        text_before=str(item["text_before"]),
        token=str(item["token"]),
        text_after=str(item["text_after"]),
        activation=float(item["activation"]),
    )
