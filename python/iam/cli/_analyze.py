"""The analysis behind ``iam demo`` and ``iam analyze``: capture, encode, explain, steer, report.

The two programs are ordinary functions over a coder, compiled by :func:`iam.jit`. ``reconstruct`` reads the residual
stream; ``steered`` edits one feature and keeps what the coder cannot express (the error-preserving form, which the
compiler reduces to the edited feature alone).
"""

import contextlib
import dataclasses
import datetime
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

import iam
from iam.cli import _choose, _provenance
from iam.cli._contexts import Contexts, load_contexts
from iam.cli._report import (
    ActiveFeature,
    Quality,
    Report,
    StageTime,
    Steering,
    TokenFeatures,
    TokenProbability,
)
from iam.core.errors import ArgumentError, ShapeError, SiteError
from iam.core.lazy import native, require
from iam.core.sites import Site

if TYPE_CHECKING:
    import torch

    from iam.models import LanguageModel

SEED = 0
"""Seed of torch's generator. Decoding is greedy, so it changes nothing today; it is recorded and set all the same."""

_SINK_RATIO = 10.0
_TOP_NEXT = 5
_TRIAL_TOKENS = 12

FloatArray = npt.NDArray[np.float32]


class Stage(Protocol):
    """A running stage that may report how far it is."""

    def advance(self) -> None:
        """One step of the total is done."""


class Progress(Protocol):
    """Shows what is going on while the user waits."""

    def stage(self, name: str, total: int | None = None) -> contextlib.AbstractContextManager[Stage]:
        """Begin a stage; ``total`` is its number of steps if that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyzeConfig:
    """What to analyse and how.

    Args:
        command: Name of the command, for the report.
        model: Hugging Face folder, ``.gguf`` file, or hub id.
        model_note: What to call the model, if the path does not say it.
        sae: Folder of the coder.
        site: Where the coder reads; ``None`` takes what the coder says.
        prompt: Text to analyse and to continue.
        feature: Feature to steer with; ``None`` chooses one by measuring.
        strength: Activation to set it to; ``None`` takes twice its largest known activation.
        max_new_tokens: Length of each continuation.
        top: Features listed per token.
        threads: Threads of kernels and torch; ``None`` leaves the defaults.
    Raises:
        ArgumentError: an empty prompt, or a strength that is not finite.
    """

    command: str
    model: str
    sae: Path
    prompt: str
    model_note: str | None = None
    site: str | None = None
    feature: int | None = None
    strength: float | None = None
    max_new_tokens: int = 40
    top: int = 3
    threads: int | None = None

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ArgumentError(f"iam {self.command}: expected a prompt with text in it, got {self.prompt!r}")
        if self.strength is not None and not math.isfinite(self.strength):
            raise ArgumentError(f"iam {self.command}: expected --strength to be a finite number, got {self.strength}")


@dataclass(slots=True)
class _Clock:
    """Runs stages one after the other: shows them, times them, and stops between them after Ctrl-C."""

    progress: Progress
    check: Callable[[], None]
    times: list[StageTime] = field(default_factory=list)

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        self.check()
        start = time.perf_counter()
        with self.progress.stage(name, total) as stage:
            yield stage
        self.times.append(StageTime(name=name, ms=(time.perf_counter() - start) * 1e3))
        self.check()


def reconstruct_program(sae: "iam.SAE") -> Any:
    """``reconstruct(x) -> features, x_hat``, compiled at its first call."""

    @iam.jit(name="reconstruct")
    def reconstruct(x: Any) -> Any:
        features = sae.encode(x)
        return features, sae.decode(features)

    return reconstruct


def steered_program(sae: "iam.SAE", feature: int) -> Any:
    """``steered(x, strength) -> x`` with ``feature`` set to ``strength``, compiled at its first call.

    The error-preserving form: what the coder cannot express of ``x`` stays in it.
    """

    @iam.jit(name="steered")
    def steered(x: Any, strength: Any) -> Any:
        features = sae.encode(x)
        return x + sae.decode(features.set([feature], strength)) - sae.decode(features)

    return steered


def emit_programs(config: AnalyzeConfig, stage: str) -> str:
    """The text of both programs at a stage (``iam``, ``fused``, ``llvm``), separated as ``iam-opt`` splits its input.

    The model is not needed for this, so without ``--feature`` the clearest candidate is taken unmeasured.
    """
    sae = _load_coder(config)
    contexts = load_contexts(config.sae, sae.d_sae)
    feature = config.feature
    if feature is None:
        shortlist = _choose.candidates(contexts, active=(), limit=1)
        feature = shortlist[0] if shortlist else 0
    _check_feature(config, sae, feature)
    example = np.zeros((1, sae.d_in), np.float32)
    texts = {
        "reconstruct: x -> features, reconstruction": _text(reconstruct_program(sae), stage, example),
        f"steered: x, strength -> x with feature {feature} set to strength": _text(
            steered_program(sae, feature), stage, example, 1.0
        ),
    }
    return "// -----\n".join(f"// {title}\n{text.rstrip()}\n" for title, text in texts.items())


def _text(program: Any, stage: str, *example: Any) -> str:
    program.lower(*example)
    return str(program.mlir(stage))


def analyze(config: AnalyzeConfig, *, progress: Progress, check: Callable[[], None]) -> Report:
    """Run the whole analysis.

    Args:
        config: What to analyse.
        progress: Shows the stages.
        check: Raises if the user asked to stop; called between stages and steps.
    Raises:
        IamError: a model, coder, site or option that does not exist or does not fit the others.
    """
    clock = _Clock(progress=progress, check=check)
    with clock.stage("read the coder"):
        sae = _load_coder(config)
        contexts = load_contexts(config.sae, sae.d_sae)
        site = _site(config, sae)
        if config.feature is not None:
            _check_feature(config, sae, config.feature)
    with clock.stage("load the model"):
        model = _load_model(config)
        _check_fit(config, model, site, sae)
    with clock.stage("capture activations"):
        token_ids = [int(token) for token in model.tokens(config.prompt)[0]]
        tokens = model.token_strings(config.prompt)
        x = model.capture(config.prompt, site)[site][0].float()
        counts, why = _positions(config, sae, x)
        skip = int(not counts[0])
        x = x[counts].contiguous()
    reconstruct = reconstruct_program(sae)
    with clock.stage("compile: encode and decode"):
        reconstruct.lower(x)
    with clock.stage("encode and decode"):
        features, x_hat = reconstruct(x)
    dense = _numpy(features.to_dense())
    quality = _quality(_numpy(x), _numpy(x_hat), dense, len(token_ids), why)
    per_token = _strongest(dense, token_ids, tokens, counts, config.top)

    with clock.stage("next token"):
        next_before = _next_tokens(model, [config.prompt])[0]
    choice = _choice(config, clock, sae, site, model, contexts, dense, skip)
    steered = steered_program(sae, choice.feature)
    with clock.stage("compile: steering"):
        steered.lower(x, choice.strength)

    def steer(rows: Any) -> Any:
        return steered(rows, choice.strength)

    with clock.stage("next token, steered"), model.attach(site, steer, from_position=skip):
        next_after = _next_tokens(model, [config.prompt])[0]
    with clock.stage("write without steering", config.max_new_tokens) as stage:
        continuation_before = _write(model, config, clock, stage)
    with (
        clock.stage("write with steering", config.max_new_tokens) as stage,
        model.attach(site, steer, from_position=skip),
    ):
        continuation_after = _write(model, config, clock, stage)
    with clock.stage("hash the inputs"):
        hashes = _hashes(config)
    programs = {"reconstruct": reconstruct, "steered": steered}
    shown = sorted({active.feature for token in per_token for active in token.features} | {choice.feature})
    return Report(
        command=config.command,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        seed=SEED,
        prompt=config.prompt,
        model=_describe_model(config, model),
        site=str(site),
        coder=_describe_coder(config, sae),
        quality=quality,
        tokens=per_token,
        features={number: contexts.info(number) for number in shown},
        context_source=contexts.source,
        steering=Steering(
            feature=choice.feature,
            strength=choice.strength,
            chosen=choice.reason,
            kl=_choose.kl_divergence(next_after, next_before),
            top_before=_top(model, next_before, next_after, by=next_before),
            top_after=_top(model, next_before, next_after, by=next_after),
            continuation_before=continuation_before,
            continuation_after=continuation_after,
        ),
        stages=clock.times,
        programs={
            name: {stage: str(program.mlir(stage)) for stage in ("iam", "fused")} for name, program in programs.items()
        },
        compilation=_compilation(programs),
        versions=_provenance.versions(),
        hashes=hashes,
        options={
            "feature": config.feature,
            "strength": config.strength,
            "max_new_tokens": config.max_new_tokens,
            "top": config.top,
            "threads": config.threads,
        },
    )


def _load_coder(config: AnalyzeConfig) -> "iam.SAE":
    if config.threads is not None:
        native().set_num_threads(config.threads)
    return iam.SAE.load_from_disk(config.sae)


def _site(config: AnalyzeConfig, sae: "iam.SAE") -> Site:
    if config.site is not None:
        return Site.parse(config.site)
    if sae.site is None:
        raise SiteError(
            f"iam {config.command}: {config.sae} does not say at which site the coder reads; "
            "give it with --site, for example --site resid_post.6"
        )
    return sae.site


def _load_model(config: AnalyzeConfig) -> "LanguageModel":
    for name, value in (("TQDM_DISABLE", "1"), ("TRANSFORMERS_VERBOSITY", "error"), ("HF_HUB_DISABLE_TELEMETRY", "1")):
        os.environ.setdefault(name, value)  # the progress bar is ours, and one is enough
    torch = require("torch", extra="models", purpose=f"iam {config.command}")
    torch.manual_seed(SEED)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return iam.LanguageModel(config.model)


def _check_fit(config: AnalyzeConfig, model: "LanguageModel", site: Site, sae: "iam.SAE") -> None:
    """A coder that does not belong at the site is an error, not a silent mistake."""
    width = model.width(site)
    if sae.d_in != width:
        raise ShapeError(
            f"iam {config.command}: the coder in {config.sae} reads activations of width {sae.d_in}, but {site} of "
            f"{config.model} has width {width}; use a coder that was trained on this model and site",
            code="width",
        )
    if sae.site is not None and sae.site != site:
        raise SiteError(
            f"iam {config.command}: the coder in {config.sae} was trained at {sae.site}, not at {site}; "
            f"use --site {sae.site}, or leave --site out"
        )


def _check_feature(config: AnalyzeConfig, sae: "iam.SAE", feature: int) -> None:
    if feature >= sae.d_sae:
        raise ArgumentError(
            f"iam {config.command}: expected --feature in 0..{sae.d_sae - 1} (features of the coder), got {feature}",
            code="feature-range",
        )


def _positions(config: AnalyzeConfig, sae: "iam.SAE", x: "torch.Tensor") -> tuple["torch.Tensor", str]:
    """Which positions count, and one sentence on those that do not.

    Position 0 does not where the coder's card says that it was trained without it. Attention sinks (norm above
    ``_SINK_RATIO`` times the median) do not either: a single one would hold nearly all of the variance.
    """
    import torch

    norms = x.norm(dim=-1)
    counts = norms <= _SINK_RATIO * norms.median()
    reasons = []
    metadata = dict(sae.cfg.metadata)
    window = metadata.get("seqpos_slice")
    if isinstance(window, list | tuple) and window and window[0] == 1:
        counts[0] = False
        reasons.append("position 0 is not counted and not edited, as the coder was trained without it")
    sinks = [int(at) for at in torch.nonzero(norms > _SINK_RATIO * norms.median())[:, 0]]
    if sinks == [0] and reasons:
        reasons.append(f"its norm is {float(norms[0] / norms.median()):,.0f} times the median: an attention sink")
    elif sinks:
        reasons.append(f"not counted as attention sinks: position {', '.join(map(str, sinks))}")
    if not bool(counts.any()):
        raise ArgumentError(
            f"iam {config.command}: expected a prompt with at least one token that counts, got {len(norms)} token(s) in "
            f"{config.prompt!r}; {'; '.join(reasons)}"
        )
    return counts, "; ".join(reasons) or "all of them count"


def _numpy(array: Any) -> FloatArray:
    return np.asarray(array.detach().cpu() if hasattr(array, "detach") else array, dtype=np.float32)


def _quality(x: FloatArray, x_hat: FloatArray, dense: FloatArray, positions: int, why: str) -> Quality:
    wide, rebuilt = x.astype(np.float64), x_hat.astype(np.float64)
    error = float(((wide - rebuilt) ** 2).sum())
    variance = float(((wide - wide.mean(axis=0)) ** 2).sum())
    norms = np.linalg.norm(wide, axis=1) * np.linalg.norm(rebuilt, axis=1)
    cosines = (wide * rebuilt).sum(axis=1) / np.where(norms > 0, norms, 1.0)
    return Quality(
        explained_variance=1.0 - error / variance if variance > 0 else None,
        l0=float((dense != 0).sum(axis=1).mean()),
        cosine=float(cosines.mean()),
        positions=positions,
        positions_counted=len(x),
        not_counted=why,
    )


def _strongest(
    dense: FloatArray, ids: list[int], tokens: list[str], counts: "torch.Tensor", top: int
) -> list[TokenFeatures]:
    """The ``top`` strongest features of every position that counts; ties go to the lowest feature."""
    rows = iter(dense)
    result = []
    for position, (token_id, token, counted) in enumerate(zip(ids, tokens, counts.tolist(), strict=True)):
        row = next(rows) if counted else np.zeros(0, np.float32)
        order = np.argsort(-row, kind="stable")[:top]
        result.append(
            TokenFeatures(
                position=position,
                token_id=token_id,
                token=token,
                counted=counted,
                active=int((row != 0).sum()),
                features=[ActiveFeature(feature=int(j), activation=float(row[j])) for j in order if row[j] > 0],
            )
        )
    return result


def _choice(
    config: AnalyzeConfig,
    clock: _Clock,
    sae: "iam.SAE",
    site: Site,
    model: "LanguageModel",
    contexts: Contexts,
    dense: FloatArray,
    skip: int,
) -> _choose.Choice:
    """The feature and strength that the user asked for, completed by measuring."""
    peak = dense.max(axis=0)

    def unit(feature: int) -> float:
        known = contexts.info(feature).max_activation
        if known is not None and known > 0:
            return known
        return float(peak[feature]) if peak[feature] > 0 else float(peak.max())

    if config.feature is not None:
        if config.strength is not None:
            return _choose.Choice(feature=config.feature, strength=config.strength, reason="as asked for")
        strength = max(_choose.MULTIPLES) * unit(config.feature)
        reason = f"feature as asked for; strength {max(_choose.MULTIPLES):g} x its largest known activation"
        return _choose.Choice(feature=config.feature, strength=strength, reason=reason)
    shortlist = _choose.candidates(contexts, active=np.flatnonzero(peak).tolist())
    if not shortlist:  # nothing is known of this coder: the features that are strong in this very text
        strong = np.argsort(-peak, kind="stable")[: _choose.CANDIDATES]
        shortlist = [int(feature) for feature in strong if peak[feature] > 0]
    if not shortlist:
        raise ArgumentError(
            f"iam {config.command}: no feature of {config.sae} is active in this text; name one with --feature"
        )
    trials = [
        _choose.Trial(feature=feature, multiple=multiple, unit=unit(feature))
        for feature in shortlist
        for multiple in _choose.MULTIPLES
    ]
    with clock.stage("choose a feature", _TRIAL_TOKENS) as stage:
        choice = _choose.best(_try(config, clock, stage, sae, site, model, trials, skip))
    if config.strength is not None:
        return _choose.Choice(feature=choice.feature, strength=config.strength, reason="strength as asked for")
    return choice


def _try(
    config: AnalyzeConfig,
    clock: _Clock,
    stage: Stage,
    sae: "iam.SAE",
    site: Site,
    model: "LanguageModel",
    trials: list[_choose.Trial],
    skip: int,
) -> list[_choose.Trial]:
    """Let the model write under every trial, all in one batch, then read what it wrote without steering.

    Adding the decoder row is a little stronger than setting the feature where it is active already, which is good
    enough to choose by.
    """
    import torch

    W_dec = torch.from_numpy(np.ascontiguousarray(sae.W_dec, dtype=np.float32))
    directions = torch.stack([trial.strength * W_dec[trial.feature] for trial in trials])

    def add(rows: "torch.Tensor") -> "torch.Tensor":
        # Equal prompts need no padding, so the rows are [trial, position].
        return (rows.reshape(len(trials), -1, rows.shape[-1]) + directions[:, None]).reshape(rows.shape)

    def step(_count: int, _tokens: list[int]) -> None:
        clock.check()
        stage.advance()

    with model.attach(site, add, from_position=skip):
        texts = model.generate([config.prompt] * len(trials), _TRIAL_TOKENS, stop_at_eos=False, callback=step)
    written = [config.prompt + text for text in texts]
    captured = model.capture(written, site)[site].float()
    start = model.tokens(config.prompt).shape[1]
    done = []
    for trial, text, rows in zip(trials, written, captured, strict=True):
        ids = model.tokens(text)[0, start:].tolist()
        if ids:
            activations = _numpy(sae.encode(rows[start : start + len(ids)]).to_dense())[:, trial.feature]
            echo = float(np.minimum(activations / trial.unit, 1.0).mean())
        else:
            echo = 0.0
        done.append(dataclasses.replace(trial, echo=echo, variety=_choose.variety(ids)))
    return done


def _next_tokens(model: "LanguageModel", prompts: list[str]) -> _choose.Distribution:
    """Probabilities of the token after each prompt, ``[prompts, vocabulary]``."""
    return np.asarray(model.logits(prompts)[:, -1].double().softmax(dim=-1).cpu())


def _top(
    model: "LanguageModel", before: _choose.Distribution, after: _choose.Distribution, *, by: _choose.Distribution
) -> list[TokenProbability]:
    order = np.argsort(-by, kind="stable")[:_TOP_NEXT]
    return [
        TokenProbability(
            token_id=int(token),
            token=model.tokenizer.decode([int(token)]),
            before=float(before[token]),
            after=float(after[token]),
        )
        for token in order
    ]


def _write(model: "LanguageModel", config: AnalyzeConfig, clock: _Clock, stage: Stage) -> str:
    """The greedy continuation of the prompt."""

    def step(_count: int, _tokens: list[int]) -> None:
        clock.check()
        stage.advance()

    return model.generate(config.prompt, config.max_new_tokens, callback=step)


def _describe_model(config: AnalyzeConfig, model: "LanguageModel") -> dict[str, Any]:
    return {
        "name": config.model_note or Path(config.model).name or config.model,
        "source": config.model,
        "layers": model.n_layers,
        "d_model": model.d_model,
    }


def _describe_coder(config: AnalyzeConfig, sae: "iam.SAE") -> dict[str, Any]:
    return {
        "name": config.sae.resolve().name,
        "source": str(config.sae),
        "architecture": sae.cfg.architecture,
        "d_in": sae.d_in,
        "features": sae.d_sae,
        "k": sae.cfg.k,
        "metadata": dict(sae.cfg.metadata),
    }


def _hashes(config: AnalyzeConfig) -> dict[str, str]:
    """Hashes of the inputs; a model named by a hub id has no file of which we could know the hash."""
    found = {"prompt": _provenance.hash_text(config.prompt), "coder": _provenance.hash_path(config.sae)}
    if (local := Path(config.model)).exists():
        found["model"] = _provenance.hash_path(local)
    return found


def _compilation(programs: dict[str, Any]) -> dict[str, Any]:
    """Per program: number of compilations and milliseconds spent in them."""
    return {name: dict(program.stats()) for name, program in programs.items()}
