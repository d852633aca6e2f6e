"""What every feature does on a corpus, in one pass: where it is strong, how often, what it writes into the logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from iam.core.config import take_int
from iam.core.errors import ArgumentError
from iam.evaluation._accumulate import entries
from iam.evaluation._evaluate import Reading, token_batches

if TYPE_CHECKING:
    from pathlib import Path

    from iam.core.sites import Site

__all__ = ["FeatureStatistics", "LogitEffects", "feature_statistics"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

BINS = 64
"""Bins of a feature's histogram; its range is a power of two that doubles when a larger activation comes."""


class Histograms:
    """A histogram of ``|activation|`` for each feature, in memory that does not grow with the corpus.

    Bin b of feature j counts values in ``[b, b + 1)·2^exponent[j]/BINS``. When a value beyond the last bin comes, bins are merged
    in pairs, which is exact, until it fits; so the largest value is always in the upper half, or the first bins of it.
    """

    def __init__(self, n_features: int) -> None:
        self.counts = np.zeros((n_features, BINS), np.int64)
        self.exponent = np.full(n_features, -1000, np.int64)  # nothing seen yet

    def add(self, feature: Ints, value: Floats) -> None:
        value = np.abs(value).astype(np.float64)
        needed = np.full(len(self.exponent), -1000, np.int64)
        np.maximum.at(needed, feature, np.frexp(value)[1].astype(np.int64))  # value < 2^needed
        for j in np.flatnonzero(needed > self.exponent):
            shift = int(needed[j] - self.exponent[j])
            if self.exponent[j] > -1000:
                merged = np.zeros(BINS, np.int64)
                np.add.at(merged, np.arange(BINS) >> min(shift, 32), self.counts[j])
                self.counts[j] = merged
            self.exponent[j] = needed[j]
        bins = np.floor(np.ldexp(value, (-self.exponent[feature]).astype(np.int32)) * BINS).astype(np.int64)
        np.add.at(self.counts, (feature, np.minimum(bins, BINS - 1)), 1)

    def of(self, feature: int) -> tuple[npt.NDArray[np.float64], Ints]:
        """Edges ``[n + 1]`` and counts ``[n]`` up to the last bin that is not empty; empty for a feature that was never active."""
        used = np.flatnonzero(self.counts[feature])
        if not used.size:
            return np.zeros(1), np.zeros(0, np.int64)
        n = int(used[-1]) + 1
        return np.arange(n + 1) * float(np.ldexp(1.0, int(self.exponent[feature]))) / BINS, self.counts[feature, :n]


class Best:
    """For each feature the `slots` examples with the largest keys. Of equal keys the earlier one stays."""

    def __init__(self, n_features: int, slots: int, window: int) -> None:
        self.key = np.full((n_features, slots), -np.inf)
        self.prompt = np.full((n_features, slots), -1, np.int64)
        self.position = np.zeros((n_features, slots), np.int32)
        self.values = np.zeros((n_features, slots, window), np.float32)

    def add(self, feature: Ints, key: npt.NDArray[np.float64], prompt: Ints, position: Ints, windows: Any) -> None:
        """Offer examples; `windows(chosen)` gives ``[chosen, window]`` activations around those that are taken."""
        slots = self.key.shape[1]
        at = np.flatnonzero(key > self.key[feature, -1])  # keys are kept in descending order
        if not at.size:
            return
        at = at[np.lexsort((prompt[at], -key[at], feature[at]))]
        starts = np.flatnonzero(np.r_[True, np.diff(feature[at]) != 0])
        rank = np.arange(len(at)) - np.repeat(starts, np.diff(np.r_[starts, len(at)]))
        at = at[rank < slots]
        touched = np.unique(feature[at])
        # old and new examples of the touched features in one list, then the best of each
        owner = np.concatenate([np.repeat(touched, slots), feature[at]])
        keys = np.concatenate([self.key[touched].reshape(-1), key[at]])
        order = np.lexsort((np.arange(len(keys)), -keys, owner))
        starts = np.searchsorted(owner[order], touched)
        taken = order[(starts[:, None] + np.arange(slots)).reshape(-1)]
        prompts = np.concatenate([self.prompt[touched].reshape(-1), prompt[at]])[taken]
        positions = np.concatenate([self.position[touched].reshape(-1), position[at]])[taken]
        values = np.concatenate([self.values[touched].reshape(-1, self.values.shape[2]), windows(at)])[taken]
        shape = (len(touched), slots)
        self.key[touched] = keys[taken].reshape(shape)
        self.prompt[touched] = prompts.reshape(shape)
        self.position[touched] = positions.reshape(shape)
        self.values[touched] = values.reshape(*shape, -1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """A place in the corpus where a feature is active.

    Attributes:
        prompt: Number of the prompt in the corpus.
        position: Position of the example in its prompt.
        ids: Token ids of the window.
        values: Activations of the feature at them; 0 where it is inactive or the position does not count.
        at: Index of the example in the window.
    """

    prompt: int
    position: int
    ids: Ints
    values: Floats
    at: int

    @property
    def activation(self) -> float:
        """Activation at the example."""
        return float(self.values[self.at])


@dataclass(frozen=True, slots=True, eq=False)
class LogitEffects:
    """What one unit of each feature adds to the logits directly: ``W_dec · diag(gain of the final norm) · W_U``.

    Attributes:
        top_ids, top_values: Tokens that it raises most, ``[d_sae, n]``, largest first.
        bottom_ids, bottom_values: Tokens that it lowers most, smallest first.
        edges, counts: Histogram over the vocabulary: ``[d_sae, bins + 1]`` and ``[d_sae, bins]``.
    """

    top_ids: Ints
    top_values: Floats
    bottom_ids: Ints
    bottom_values: Floats
    edges: npt.NDArray[np.float64]
    counts: Ints


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureStatistics:
    """Everything that :func:`feature_statistics` found, for all features of a coder.

    Attributes:
        counts: Positions at which a feature is active, ``[d_sae]``.
        max_activation: Largest ``|activation|``, ``[d_sae]``; 0 for a feature that was never active.
        positions: Positions that were counted.
        prompts: Token ids of every prompt.
        logits: Direct effects on the logits, or None.
    """

    counts: Ints
    max_activation: Floats
    positions: int
    prompts: list[Ints]
    logits: LogitEffects | None
    model_name: str
    site: str
    source: str
    window: tuple[int, int]
    tokenizer: Any
    _histograms: Histograms
    _top: Best
    _sample: Best
    _decoder: npt.NDArray[np.float32]

    @property
    def density(self) -> npt.NDArray[np.float64]:
        """Share of positions at which a feature is active, ``[d_sae]``."""
        return self.counts / max(1, self.positions)

    def histogram(self, feature: int) -> tuple[npt.NDArray[np.float64], Ints]:
        """Edges and counts of the feature's ``|activation|`` where it is active."""
        return self._histograms.of(feature)

    def top(self, feature: int) -> list[Example]:
        """Its strongest examples, strongest first, each from another prompt."""
        return self._examples(self._top, feature)

    def quantiles(self, feature: int, n: int = 5) -> list[list[Example]]:
        """A uniform sample of its examples (at most one of a prompt: the strongest), in `n` groups of equal size by activation,
        weakest first; fewer groups if there are fewer examples."""
        sample = sorted(self._examples(self._sample, feature), key=lambda e: abs(e.activation))
        return [[sample[i] for i in part] for part in np.array_split(np.arange(len(sample)), n) if len(part)]

    def _examples(self, best: Best, feature: int) -> list[Example]:
        before, after = self.window
        found = []
        for slot in np.flatnonzero(best.prompt[feature] >= 0):
            prompt, position = int(best.prompt[feature, slot]), int(best.position[feature, slot])
            ids = self.prompts[prompt]
            first, last = max(0, position - before), min(len(ids), position + after + 1)
            shift = before - (position - first)
            values = best.values[feature, slot, shift : shift + last - first]
            found.append(
                Example(
                    prompt=prompt, position=position, ids=ids[first:last], values=values.copy(), at=position - first
                )
            )
        return found

    def save_contexts(self, folder: str | Path, *, examples: int = 3) -> Path:
        """Write ``contexts.json.gz``, which ``iam demo`` and ``iam analyze`` read beside a coder's weights.

        Raises:
            ArgumentError: the model has no tokenizer.
            OSError: the folder cannot be written.
        """
        from iam.evaluation._export import save_contexts

        return save_contexts(self, folder, examples=examples)

    def save_neuronpedia(
        self, folder: str | Path, *, sae_set: str, model_id: str | None = None, batch: int = 128, vectors: bool = False
    ) -> list[Path]:
        """Write Neuronpedia's dashboard files ``batch-0.json``, ``batch-1.json``...

        Args:
            folder: Made if missing.
            sae_set: Name of the set of coders on Neuronpedia, as ``gemmascope-res-16k``.
            model_id: The model's name there; by default ``model_name``.
            batch: Features of a file.
            vectors: Include each feature's decoder row.

        Raises:
            ArgumentError: the model has no tokenizer.
            OSError: the folder cannot be written.

        Nearest neurons and correlated features, which are optional there, are not computed: their lists are empty.
        """
        from iam.evaluation._export import save_neuronpedia

        return save_neuronpedia(self, folder, sae_set=sae_set, model_id=model_id, batch=batch, vectors=vectors)

    def __repr__(self) -> str:
        dead = int((self.counts == 0).sum())
        return (
            f"FeatureStatistics: {len(self.counts):,} features ({dead:,} never active) at {self.site} of {self.model_name} over "
            f"{self.positions:,} positions in {len(self.prompts):,} prompts"
        )


def feature_statistics(
    coder: Any,
    *,
    model: Any,
    tokens: Any,
    site: Site | str | None = None,
    top: int = 20,
    sample: int = 25,
    window: tuple[int, int] = (16, 8),
    logits: int = 10,
    batch_size: int = 8,
    from_position: int = 0,
    exclude_special_tokens: bool | Sequence[int] = False,
    source: str = "",
    seed: int = 0,
) -> FeatureStatistics:
    """Strongest contexts, a sample of contexts, histogram and logit effects of all features in one pass over a corpus.

    Args:
        coder: An SAE or transcoder.
        model: An :class:`iam.LanguageModel`.
        tokens: As in :func:`evaluate`: texts, token ids or batches of them.
        site: Where an SAE is measured; by default where it was trained.
        top: Strongest examples kept of each feature, each from another prompt.
        sample: Examples kept of each feature as a uniform sample, for quantiles.
        window: Tokens of an example before and after the place.
        logits: Tokens kept with the largest and smallest direct effect on the logits; 0 leaves that out, which is the
            larger part of the work for a short corpus.
        batch_size: Prompts of a forward pass.
        from_position: First position of each sequence that counts; 1 leaves the attention sink out.
        exclude_special_tokens: As in :func:`evaluate`.
        source: What the text is, in words; stored with the results.
        seed: Of the uniform sample.

    Raises:
        ArgumentError: wrong sizes, or no position to count.
        SiteError: no site, or not the one of the coder.

    Memory: ``d_sae·((top + sample)·(window + 5) + 128)·4`` bytes and the token ids, whatever the corpus: about 4.5 kB a feature
    as preset. Every position is encoded once.
    """
    op = "feature_statistics"
    if hasattr(coder, "n_layers") or hasattr(coder, "n_sites"):
        raise ArgumentError(
            f"{op}: expected a coder that reads one site, got a {type(coder).__name__}, which reads several"
        )
    for name, number, low in (
        ("top", top, 1),
        ("sample", sample, 1),
        ("batch_size", batch_size, 1),
        ("logits", logits, 0),
    ):
        take_int(number, what=f"{op}: {name}", low=low, high=10**6, error=ArgumentError, code="argument")
    before, after = (
        take_int(n, what=f"{op}: window", low=0, high=10**4, error=ArgumentError, code="argument") for n in window
    )
    reading = Reading(model, coder, site, from_position, exclude_special_tokens, op)
    features = coder.d_sae
    counts, largest = np.zeros(features, np.int64), np.zeros(features, np.float32)
    histograms = Histograms(features)
    best, uniform = (Best(features, n, before + after + 1) for n in (top, sample))
    rng = np.random.default_rng(seed)
    prompts: list[Ints] = []
    positions = 0
    for ids, mask in token_batches(model, tokens, batch_size, op):
        x, _, _ = reading.batch(ids, mask)
        first = len(prompts)
        real = mask.bool().cpu().numpy()
        prompts += [row[keep].astype(np.int64) for row, keep in zip(ids.cpu().numpy(), real, strict=True)]
        # where each row of x is: prompt, and position without padding
        where, column = reading.counted(ids, mask).cpu().numpy().nonzero()
        place = (real.cumsum(1) - 1)[where, column]
        positions += len(x)
        if not len(x):
            continue
        row, feature, value = entries(coder.encode(x))
        counts += np.bincount(feature, minlength=features)
        strength = np.abs(value)
        np.maximum.at(largest, feature, strength)
        histograms.add(feature, value)
        # one candidate of each feature and prompt: the strongest position, the first of equals
        order = np.lexsort((place[row], -strength, where[row], feature))
        group = feature[order] * len(ids) + where[row[order]]
        order = order[np.r_[True, np.diff(group) != 0]] if len(order) else order
        windows = _windows(row, feature, value, where, place, before, after, features)
        one, at = feature[order], row[order]

        def around(chosen: Ints, at: Ints = at, one: Ints = one, windows: Any = windows) -> Floats:
            return windows(at[chosen], one[chosen])  # type: ignore[no-any-return]

        prompt, position = where[at] + first, place[at]
        best.add(one, strength[order].astype(np.float64), prompt, position, around)
        uniform.add(one, rng.random(len(one)), prompt, position, around)
    if not positions:
        raise ArgumentError(f"{op}: expected at least one position to count, got none")
    decoder = np.asarray(coder.W_dec)
    reaches = logits > 0 and reading.site_out.kind != "hook_z" and decoder.shape[1] == model.d_model
    return FeatureStatistics(
        counts=counts,
        max_activation=largest,
        positions=positions,
        prompts=prompts,
        logits=logit_effects(decoder, model, n=logits) if reaches else None,
        model_name=_model_name(coder, model),
        site=reading.site.hook_name,
        source=source,
        window=(before, after),
        tokenizer=model.tokenizer,
        _histograms=histograms,
        _top=best,
        _sample=uniform,
        _decoder=decoder,
    )


def _model_name(coder: Any, model: Any) -> str:
    """The name that the coder's metadata give the model, else the model's own, without the folder that it was loaded from."""
    name = getattr(getattr(coder, "cfg", None), "metadata", {}).get("model_name")
    return str(name or model.name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1])


def _windows(
    row: Ints, feature: Ints, value: Floats, where: Ints, place: Ints, before: int, after: int, n_features: int
) -> Any:
    """A function from examples (row and feature) to the feature's activations around them, ``[examples, window]``."""
    length = int(place.max(initial=0)) + 1 + before + after
    slot = where * length + place + before  # a number for each place, with room on both sides of a prompt
    keys = slot[row] * np.int64(n_features) + feature
    order = np.argsort(keys)
    keys, value = keys[order], value[order]

    def find(rows: Ints, wanted: Ints) -> Floats:
        places = slot[rows][:, None] + np.arange(-before, after + 1)
        sought = places * np.int64(n_features) + wanted[:, None]
        at = np.minimum(np.searchsorted(keys, sought), len(keys) - 1)
        return np.where(keys[at] == sought, value[at], 0).astype(np.float32)

    return find


def final_gain(model: Any) -> Any:
    """The gain of the final norm, ``[d_model]``; None if the model has none that is known."""
    import torch

    body = model._body
    norm = next(
        (getattr(body, n) for n in ("norm", "ln_f", "final_layer_norm", "final_layernorm") if hasattr(body, n)), None
    )
    if norm is None:
        return None
    if isinstance(norm, torch.nn.LayerNorm):
        return None if norm.weight is None else norm.weight.detach().float()
    like = next(norm.parameters())
    with torch.no_grad():  # an RMS norm maps ones to its gain, however it stores that
        return norm(torch.ones(1, 1, model.d_model, dtype=like.dtype, device=like.device))[0, 0].float()


def logit_effects(decoder: npt.NDArray[np.float32], model: Any, *, n: int = 10, bins: int = 50) -> LogitEffects:
    """Direct effects of decoder rows ``[d_sae, d_model]`` on the logits, a block of features at a time.

    The final norm is taken at scale 1: what counts is which tokens, and how they compare, not the size. The mean over the
    vocabulary, which changes no probability, is removed.
    """
    import torch

    unembed = model.model.get_output_embeddings().weight.detach().float()  # [vocabulary, d_model]
    gain = final_gain(model)
    n = min(n, int(unembed.shape[0]))
    parts: list[tuple[Any, ...]] = []
    with torch.no_grad():
        for start in range(0, len(decoder), 128):
            rows = torch.tensor(decoder[start : start + 128], dtype=torch.float32, device=unembed.device)
            effects = (rows if gain is None else rows * gain.to(rows.device)) @ unembed.T
            effects -= effects.mean(-1, keepdim=True)
            high, low = effects.topk(n), effects.topk(n, largest=False)
            edges = torch.stack([low.values[:, 0], high.values[:, 0]], 1).double()
            width = (edges[:, 1:] - edges[:, :1]).clamp(min=1e-30)
            index = ((effects - edges[:, :1]) / width * bins).long().clamp(0, bins - 1)
            index += torch.arange(len(rows), device=index.device)[:, None] * bins
            counts = torch.bincount(index.reshape(-1), minlength=len(rows) * bins).reshape(len(rows), bins)
            steps = torch.arange(bins + 1, dtype=torch.float64, device=edges.device) / bins
            parts.append((high.indices, high.values, low.indices, low.values, edges[:, :1] + width * steps, counts))
    return LogitEffects(*(np.concatenate([part[i].cpu().numpy() for part in parts]) for i in range(6)))
