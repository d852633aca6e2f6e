"""Feature statistics as files: our own store of contexts, and Neuronpedia's dashboard batches."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iam.core.errors import ArgumentError
from iam.core.sites import Site
from iam.formats._atomic import write_atomically

if TYPE_CHECKING:
    from iam.evaluation._features import Example, FeatureStatistics

__all__ = ["save_contexts", "save_neuronpedia"]


def save_contexts(statistics: FeatureStatistics, folder: str | Path, *, examples: int) -> Path:
    """See :meth:`FeatureStatistics.save_contexts`."""
    decode = _Decoder(statistics.tokenizer, "save_contexts")
    found: dict[str, list[dict[str, Any]]] = {}
    for feature in np.flatnonzero(statistics.counts):
        shown = []
        for example in statistics.top(int(feature))[:examples]:
            ids = example.ids.tolist()
            shown.append(
                {
                    "text_before": decode(ids[max(0, example.at - 8) : example.at]),
                    "token": decode(ids[example.at : example.at + 1]),
                    "text_after": decode(ids[example.at + 1 : example.at + 5]),
                    "activation": round(example.activation, 2),
                }
            )
        found[str(feature)] = shown
    document = {
        "source": statistics.source or f"{statistics.positions:,} positions in {len(statistics.prompts):,} prompts",
        "features": found,
        "max_activation": [round(float(v), 2) for v in statistics.max_activation],
        "density": [float(f"{d:.3g}") for d in statistics.density],
    }
    path = Path(folder) / "contexts.json.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = gzip.compress(json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(), mtime=0)
    write_atomically(path, packed)
    return path


def save_neuronpedia(
    statistics: FeatureStatistics, folder: str | Path, *, sae_set: str, model_id: str | None, batch: int, vectors: bool
) -> list[Path]:
    """See :meth:`FeatureStatistics.save_neuronpedia`."""
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ArgumentError(f"save_neuronpedia: expected batch to be an integer >= 1, got {batch!r}")
    decode = _Decoder(statistics.tokenizer, "save_neuronpedia")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, start in enumerate(range(0, len(statistics.counts), batch)):
        document = {
            "model_id": model_id or statistics.model_name,
            "layer": Site.parse(statistics.site).layer,
            "sae_set": sae_set,
            "sae_id_suffix": None,
            "features": [
                _feature(statistics, feature, decode, vectors=vectors)
                for feature in range(start, min(start + batch, len(statistics.counts)))
                if statistics.counts[feature]  # Neuronpedia has no page for a feature that is never active
            ],
        }
        path = folder / f"batch-{number}.json"
        write_atomically(path, json.dumps(document, ensure_ascii=False, allow_nan=False).encode())
        paths.append(path)
    return paths


class _Decoder:
    """Token ids to text, single tokens remembered."""

    def __init__(self, tokenizer: Any, op: str) -> None:
        if tokenizer is None:
            raise ArgumentError(f"{op}: the model has no tokenizer, which is needed to write token ids as text")
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def __call__(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids)) if ids else ""

    def each(self, ids: Any) -> list[str]:
        for i in map(int, ids):
            if i not in self._known:
                self._known[i] = str(self._tokenizer.decode([i]))
        return [self._known[int(i)] for i in ids]


def _rounded(values: Any) -> list[float]:
    return [round(float(v), 3) for v in values]


def _feature(statistics: FeatureStatistics, feature: int, decode: _Decoder, *, vectors: bool) -> dict[str, Any]:
    edges, counts = statistics.histogram(feature)
    effects = statistics.logits
    found: dict[str, Any] = {
        "feature_index": feature,
        "neuron_alignment_indices": [],
        "neuron_alignment_values": [],
        "neuron_alignment_l1": [],
        "correlated_neurons_indices": [],
        "correlated_neurons_l1": [],
        "correlated_neurons_pearson": [],
        "correlated_features_indices": [],
        "correlated_features_l1": [],
        "correlated_features_pearson": [],
        "neg_str": [] if effects is None else decode.each(effects.bottom_ids[feature]),
        "neg_values": [] if effects is None else _rounded(effects.bottom_values[feature]),
        "pos_str": [] if effects is None else decode.each(effects.top_ids[feature]),
        "pos_values": [] if effects is None else _rounded(effects.top_values[feature]),
        "frac_nonzero": float(statistics.density[feature]),
        # heights and values are read side by side: the middle of each bar, not its edges
        "freq_hist_data_bar_values": _rounded((edges[1:] + edges[:-1]) / 2),
        "freq_hist_data_bar_heights": [int(c) for c in counts],
        "logits_hist_data_bar_heights": [] if effects is None else [int(c) for c in effects.counts[feature]],
        "logits_hist_data_bar_values": (
            [] if effects is None else _rounded((effects.edges[feature, 1:] + effects.edges[feature, :-1]) / 2)
        ),
        "n_prompts_total": len(statistics.prompts),
        "n_tokens_in_prompt": max(map(len, statistics.prompts)),
        "dataset": statistics.source,
        "decoder_weights_dist": [],
        "activations": [],
    }
    groups = statistics.quantiles(feature)
    top = statistics.top(feature)
    shown = found["activations"]
    for example in top:  # their group is marked by -1, as Neuronpedia expects
        shown.append(_activation(example, decode, -1.0, float(statistics.max_activation[feature]), -1.0))
    for group in reversed(groups):
        low, high = abs(group[0].activation), abs(group[-1].activation)
        share = len(group) / sum(map(len, groups))
        shown += [_activation(example, decode, low, high, share) for example in group]
    if vectors:
        found["vector"] = [float(v) for v in statistics._decoder[feature]]
    return found


def _activation(example: Example, decode: _Decoder, low: float, high: float, share: float) -> dict[str, Any]:
    return {
        "bin_min": round(low, 3),
        "bin_max": round(high, 3),
        "bin_contains": round(share, 3),
        "tokens": decode.each(example.ids),
        "values": _rounded(example.values),
        "qualifying_token_index": example.at,
    }
