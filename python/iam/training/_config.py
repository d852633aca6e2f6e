"""What a training run is: one small frozen dataclass per part, checked when it is made."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from iam.core.config import nearest, suggestion, take_bool, take_int
from iam.core.errors import ArgumentError, IamError
from iam.core.sites import Site

__all__ = [
    "CODER_KINDS",
    "TRAINING_ARCHITECTURES",
    "CheckpointSettings",
    "CoderSettings",
    "DataSettings",
    "LoggingSettings",
    "OptimiserSettings",
    "ScheduleSettings",
    "SparsitySettings",
    "TrainConfig",
]

TRAINING_ARCHITECTURES = ("batchtopk", "gated", "jumprelu", "matryoshka", "standard", "topk")
"""What can be trained. ``batchtopk`` and ``matryoshka`` become ``jumprelu`` coders, with the threshold that training learnt."""

CODER_KINDS = ("cross_layer", "crosscoder", "sae", "transcoder")
"""What a coder reads and writes: one site, one site and another, L sites and L others, S sites and the same."""

TOPK_FAMILY = ("batchtopk", "matryoshka", "topk")

_Check = Callable[[Any, str], Any]
_PartT = TypeVar("_PartT", bound="_Part")


def _setting(default: Any, check: _Check) -> Any:
    if default is dataclasses.MISSING:
        return field(metadata={"check": check})
    return field(default=default, metadata={"check": check})


def _integer(low: int, *, optional: bool = False) -> _Check:
    def check(value: Any, what: str) -> Any:
        if value is None and optional:
            return None
        return take_int(value, what=what, low=low, high=None, error=ArgumentError, code="config-value")

    return check


def _number(low: float, high: float = math.inf, *, open_low: bool = False, optional: bool = False) -> _Check:
    """A float. YAML 1.1 reads ``1e-3`` (no point) as text; text that is a number counts as that number."""

    def check(value: Any, what: str) -> Any:
        if value is None and optional:
            return None
        span = f"a number {'>' if open_low else '>='} {low:g}" + ("" if high == math.inf else f" and <= {high:g}")
        try:
            if isinstance(value, bool):
                raise TypeError
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not (low < number if open_low else low <= number) or number > high or math.isinf(number):
            raise ArgumentError(f"{what}: expected {span}, got {value!r}", code="config-value")
        return number

    return check


def _flag(*, optional: bool = False) -> _Check:
    def check(value: Any, what: str) -> Any:
        if value is None and optional:
            return None
        return take_bool(value, what=what, error=ArgumentError, code="config-value")

    return check


def _choice(*options: str, optional: bool = False) -> _Check:
    def check(value: Any, what: str) -> Any:
        if value is None and optional:
            return None
        if value not in options:
            raise ArgumentError(
                f"{what}: expected one of {', '.join(options)}, got {value!r}; {suggestion(str(value), options)}",
                code="config-value",
            )
        return value

    return check


def _text(*, optional: bool = False) -> _Check:
    def check(value: Any, what: str) -> Any:
        if value is None and optional:
            return None
        if isinstance(value, Path):
            value = str(value)
        if not isinstance(value, str) or not value:
            raise ArgumentError(f"{what}: expected text, got {value!r}", code="config-value")
        return value

    return check


def _list_of(check_one: _Check) -> _Check:
    def check(value: Any, what: str) -> Any:
        if isinstance(value, (str, Path)):
            value = [value]
        if not isinstance(value, (list, tuple)):
            raise ArgumentError(f"{what}: expected a list, got {value!r}", code="config-value")
        return tuple(check_one(one, f"{what}[{at}]") for at, one in enumerate(value))

    return check


def _site(value: Any, what: str) -> Any:
    if value is None:
        return None
    try:
        return str(Site.parse(value))
    except IamError as error:
        raise ArgumentError(f"{what}: {error}", code="site") from error


def _one_or_more_sites(value: Any, what: str) -> Any:
    """A site as text; several, all different, as a tuple. A list of one is that one."""
    if not isinstance(value, (list, tuple)):
        return _site(value, what)
    found = tuple(_site(one, f"{what}[{at}]") for at, one in enumerate(value))
    if not found or None in found or len(set(found)) < len(found):
        raise ArgumentError(f"{what}: expected a site, or a list of different ones, got {list(value)}", code="site")
    return found if len(found) > 1 else found[0]


class _Part:
    """A group of settings: checks each value, reads dictionaries, refuses unknown keys."""

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):  # type: ignore[arg-type]
            if "check" in one.metadata:
                what = f"{type(self).__name__}.{one.name}"
                object.__setattr__(self, one.name, one.metadata["check"](getattr(self, one.name), what))

    @classmethod
    def from_dict(cls: type[_PartT], values: Mapping[str, Any], *, where: str = "") -> _PartT:
        """Settings from a mapping, for instance what a YAML file holds.

        Raises:
            ArgumentError: an unknown key (``config-key``; the nearest known one is suggested), a key that is missing, or
                a value out of range (``config-value``).
        """
        where = where or cls.__name__
        if not isinstance(values, Mapping):
            raise ArgumentError(f"{where}: expected keys and values, got {values!r}", code="config-value")
        known = {one.name: one for one in dataclasses.fields(cls)}  # type: ignore[arg-type]
        for key in values:
            if key not in known:
                raise ArgumentError(f'{where}: unknown key "{key}"; {_elsewhere(str(key), known)}', code="config-key")
        for name, one in known.items():
            if name not in values and one.default is one.default_factory is dataclasses.MISSING:
                raise ArgumentError(f'{where}: expected a key "{name}", got {sorted(values)}', code="config-key")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain dictionaries, lists and values, for JSON and YAML."""
        return {
            one.name: _plain(getattr(self, one.name))
            for one in dataclasses.fields(self)  # type: ignore[arg-type]
        }


def _plain(value: Any) -> Any:
    if isinstance(value, _Part):
        return value.to_dict()
    return list(value) if isinstance(value, tuple) else value


def _elsewhere(key: str, known: Mapping[str, Any]) -> str:
    """The nearest key; or the part in which a key of exactly this name belongs."""
    for part, cls in _PARTS.items():
        if key in (one.name for one in dataclasses.fields(cls)) and key not in known:
            return f'it belongs into "{part}". Known here: {", ".join(known)}'
    return suggestion(key, known)


@dataclass(frozen=True, kw_only=True)
class CoderSettings(_Part):
    """What is trained.

    Args:
        architecture: One of :data:`TRAINING_ARCHITECTURES`.
        d_sae: Number of features; of each layer, for a cross-layer transcoder.
        k: Active features per row, for ``topk``, ``batchtopk`` (on average over a batch) and ``matryoshka``; of each layer (for
            ``batchtopk``: on average over the layers, too), for a cross-layer transcoder.
        kind: One of :data:`CODER_KINDS`; by default what follows from ``data.site`` and ``data.site_out``. Needed where rows of
            several sites are given instead.
        widths: For ``matryoshka``: sizes of the nested dictionaries, rising; ``d_sae`` is appended if it is not the last.
        skip: For a transcoder: an affine skip ``x @ W_skip.T``; at each layer, for a cross-layer transcoder.
        apply_b_dec_to_input: Whether the encoder subtracts ``b_dec``; by default for an SAE, never for a transcoder.
        normalize_decoder: Keep decoder rows at norm 1 (the part of the gradient along a row is dropped first). By default for
            the TopK family; the others pay for the norm in their loss.
        rescale_acts_by_decoder_norm: For the TopK family: choose features by ``pre * norm of the decoder row``.
        decoder_init_norm: Norm of encoder and decoder rows at the start; 1 if the decoder is normalised.
        normalize_activations: ``expected_average`` scales rows to a mean norm of ``sqrt(d)``, estimated at the start and
            folded into the weights at the end; ``none`` trains on the rows as they are.
        init_b_dec: ``mean`` of the first rows, or ``zeros``.
        threshold: For ``jumprelu``: the thresholds at the start, in scaled units.
        bandwidth: For ``jumprelu``: width of the window in which a threshold gets a gradient.
        dtype: How weights are stored at the end.
    """

    architecture: str = _setting(dataclasses.MISSING, _choice(*TRAINING_ARCHITECTURES))
    d_sae: int = _setting(dataclasses.MISSING, _integer(1))
    k: int | None = _setting(None, _integer(1, optional=True))
    kind: str | None = _setting(None, _choice(*CODER_KINDS, optional=True))
    widths: tuple[int, ...] = _setting((), _list_of(_integer(1)))
    skip: bool = _setting(False, _flag())
    apply_b_dec_to_input: bool | None = _setting(None, _flag(optional=True))
    normalize_decoder: bool | None = _setting(None, _flag(optional=True))
    rescale_acts_by_decoder_norm: bool = _setting(False, _flag())
    decoder_init_norm: float = _setting(0.1, _number(0, open_low=True))
    normalize_activations: str = _setting("expected_average", _choice("expected_average", "none"))
    init_b_dec: str = _setting("mean", _choice("mean", "zeros"))
    threshold: float = _setting(0.01, _number(0))
    bandwidth: float = _setting(0.05, _number(0, open_low=True))
    dtype: str = _setting("float32", _choice("bfloat16", "float16", "float32"))

    def __post_init__(self) -> None:
        super().__post_init__()
        family = self.architecture in TOPK_FAMILY
        if family and (self.k is None or self.k > self.d_sae):
            raise ArgumentError(
                f"CoderSettings.k: expected an integer in 1..{self.d_sae}, got {self.k}", code="k-range"
            )
        if not family and self.k is not None:
            raise ArgumentError(
                f"CoderSettings.k: expected none for architecture {self.architecture}, got {self.k}; its sparsity comes from "
                "sparsity.coefficient",
                code="config-value",
            )
        if self.rescale_acts_by_decoder_norm and not family:
            raise ArgumentError(
                f"CoderSettings.rescale_acts_by_decoder_norm: expected false for architecture {self.architecture}, got true",
                code="config-value",
            )
        if self.architecture == "matryoshka":
            widths = self.widths if self.widths and self.widths[-1] == self.d_sae else (*self.widths, self.d_sae)
            if len(widths) < 2 or any(a >= b for a, b in itertools.pairwise(widths)):
                raise ArgumentError(
                    f"CoderSettings.widths: expected rising sizes below d_sae={self.d_sae}, got {list(self.widths)}",
                    code="config-value",
                )
            object.__setattr__(self, "widths", widths)
        elif self.widths:
            raise ArgumentError(
                f"CoderSettings.widths: expected none for architecture {self.architecture}, got {list(self.widths)}",
                code="config-value",
            )
        if self.normalize_decoder is None:
            object.__setattr__(self, "normalize_decoder", family)


@dataclass(frozen=True, kw_only=True)
class DataSettings(_Part):
    """Where rows come from. Not needed when :func:`iam.train` is given an iterator of rows.

    Args:
        site: The site that the coder reads, as ``resid_post.15`` or ``blocks.15.hook_resid_post``. A list, alone: the sites of a
            crosscoder, which predicts what it reads. A list with as many in ``site_out``: the layers of a cross-layer transcoder.
        site_out: The site that it predicts, for a transcoder; an SAE predicts what it reads. For a cross-layer transcoder a list:
            layer i reads ``site[i]`` and writes to ``site_out[i]`` and all that follow.
        model: What :class:`iam.LanguageModel` takes: an alias, a folder, a GGUF file, a hub id.
        text: Files: ``.jsonl`` with a key ``text``, or any other file as one document.
        tokens: Instead of text: a ``.npy`` file of token ids, ``[tokens]`` or ``[contexts, context]``.
        context: Tokens of a context. Documents are joined, with the tokenizer's end token between them, and cut.
        prepend_bos: Start each context with the tokenizer's BOS token, if it has one.
        model_batch: Contexts per forward pass.
        drop_positions: Positions dropped at the start of each context; position 0 is an attention sink in many models.
        sink_factor: Rows whose norm exceeds the median of their forward pass this many times are dropped; none keeps all.
        cache: Folder for activations on disk, written once and reused by later runs with the same model, text and settings.
        cache_sites: Further sites stored in the same forward passes, for other coders.
        cache_rows: Rows to store; none, or more than the text has, stores one pass over it.
        shard_rows: Rows of a file of the cache.
        buffer_rows: Rows held in memory and mixed.
        refill: The buffer is refilled when this share of it was used.
        dtype: How rows are held in memory and on disk: ``bfloat16`` or ``float16``.
    """

    site: str | tuple[str, ...] | None = _setting(None, _one_or_more_sites)
    site_out: str | tuple[str, ...] | None = _setting(None, _one_or_more_sites)
    model: str | None = _setting(None, _text(optional=True))
    text: tuple[str, ...] = _setting((), _list_of(_text()))
    tokens: str | None = _setting(None, _text(optional=True))
    context: int = _setting(256, _integer(2))
    prepend_bos: bool = _setting(True, _flag())
    model_batch: int = _setting(8, _integer(1))
    drop_positions: int = _setting(1, _integer(0))
    sink_factor: float | None = _setting(10.0, _number(1, open_low=True, optional=True))
    cache: str | None = _setting(None, _text(optional=True))
    cache_sites: tuple[str, ...] = _setting((), _list_of(_site))
    cache_rows: int | None = _setting(None, _integer(1, optional=True))
    shard_rows: int = _setting(65_536, _integer(1))
    buffer_rows: int = _setting(131_072, _integer(1))
    refill: float = _setting(0.5, _number(0, 1, open_low=True))
    dtype: str = _setting("bfloat16", _choice("bfloat16", "float16"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.drop_positions >= self.context:
            raise ArgumentError(
                f"DataSettings.drop_positions: expected less than context={self.context}, got {self.drop_positions}",
                code="config-value",
            )
        if self.text and self.tokens:
            raise ArgumentError("DataSettings: expected text or tokens, got both", code="config-value")

        if self.sites_out:
            _check_layers(self.sites_in, self.sites_out)

    @property
    def sites_in(self) -> tuple[str, ...]:
        """The sites that are read."""
        return (self.site,) if isinstance(self.site, str) else self.site or ()

    @property
    def sites_out(self) -> tuple[str, ...]:
        """The sites that are predicted; empty where they are those that are read."""
        found = (self.site_out,) if isinstance(self.site_out, str) else self.site_out or ()
        return () if found == self.sites_in else found

    @property
    def sites(self) -> tuple[str, ...]:
        """All sites, each once."""
        return tuple(dict.fromkeys((*self.sites_in, *self.sites_out)))


def _check_layers(sites: tuple[str, ...], sites_out: tuple[str, ...]) -> None:
    """Of a cross-layer transcoder: a site to write for each that is read, in the order of the forward pass."""
    if len(sites) != len(sites_out):
        raise ArgumentError(
            f"DataSettings.site_out: expected as many sites as in site ({len(sites)}), got {len(sites_out)}: layer i reads site[i] "
            "and writes to site_out[i] and all that follow",
            code="config-value",
        )
    if len(sites) == 1:
        return
    for name, each in (("site", sites), ("site_out", sites_out)):
        if sorted(each, key=Site.parse) != list(each):
            raise ArgumentError(
                f"DataSettings.{name}: expected the sites in the order of the forward pass, got {', '.join(each)}",
                code="config-value",
            )
    for read, written in zip(sites, sites_out, strict=True):
        if Site.parse(written) < Site.parse(read):
            raise ArgumentError(
                f"DataSettings.site_out: expected a site that comes after {read}, which its layer reads, got {written}",
                code="config-value",
            )


@dataclass(frozen=True, kw_only=True)
class OptimiserSettings(_Part):
    """How weights follow gradients.

    Args:
        name: ``adam`` (Kingma and Ba 2015, arXiv:1412.6980) or ``signum`` (Bernstein et al. 2018, arXiv:1802.04434).
        lr: Peak learning rate; by default ``2e-4 / sqrt(d_sae / 2**14)`` for Adam and ``5e-3 / sqrt(d_sae / 2**14)`` for
            signum (the rules of sparsify).
        beta1, beta2, eps: Of Adam.
        momentum: Of signum.
        clip: Largest norm of all gradients together; none does not clip.
    """

    name: str = _setting("adam", _choice("adam", "signum"))
    lr: float | None = _setting(None, _number(0, open_low=True, optional=True))
    beta1: float = _setting(0.9, _number(0, 0.9999999))
    beta2: float = _setting(0.999, _number(0, 0.9999999))
    eps: float = _setting(1e-8, _number(0, open_low=True))
    momentum: float = _setting(0.95, _number(0, 0.9999999))
    clip: float | None = _setting(1.0, _number(0, open_low=True, optional=True))


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings(_Part):
    """How long, and what changes on the way. All lengths are in steps.

    Args:
        steps: Optimiser steps.
        batch: Rows per step.
        warm_up: Steps over which the learning rate rises linearly.
        decay: Last steps, over which it falls.
        decay_shape: ``linear`` or ``cosine``.
        lr_end: Share of the peak learning rate at the end of the decay.
        k_start: For the TopK family: k at the start...
        k_steps: ...falling linearly to ``coder.k`` over this many steps.
        coefficient_warm_up: Steps over which ``sparsity.coefficient`` rises linearly from 0.
    """

    steps: int = _setting(dataclasses.MISSING, _integer(1))
    batch: int = _setting(2048, _integer(1))
    warm_up: int = _setting(0, _integer(0))
    decay: int = _setting(0, _integer(0))
    decay_shape: str = _setting("linear", _choice("cosine", "linear"))
    lr_end: float = _setting(0.0, _number(0, 1))
    k_start: int | None = _setting(None, _integer(1, optional=True))
    k_steps: int = _setting(0, _integer(0))
    coefficient_warm_up: int = _setting(0, _integer(0))


@dataclass(frozen=True, kw_only=True)
class SparsitySettings(_Part):
    """What keeps features few and alive.

    Args:
        coefficient: Weight of the sparsity loss of ``jumprelu``, ``gated`` and ``standard``.
        mode: For ``jumprelu``: ``step`` (number of active features), ``tanh`` or ``quadratic`` (around ``target_l0``).
        target_l0: For ``quadratic``; of each layer, for a cross-layer transcoder.
        tanh_scale: For ``tanh``.
        pre_act_coefficient: For ``jumprelu``: weight of the loss that pulls dead features to their threshold; none is off.
        aux_coefficient: For the TopK family: weight of AuxK, in which dead features explain what is left over; 0 is off.
        dead_after: A feature is dead when it did not fire in more than this many steps.
        threshold_rate: For ``batchtopk`` and ``matryoshka``: rate of the moving average of the threshold.
    """

    coefficient: float = _setting(1.0, _number(0))
    mode: str = _setting("step", _choice("quadratic", "step", "tanh"))
    target_l0: float | None = _setting(None, _number(0, open_low=True, optional=True))
    tanh_scale: float = _setting(4.0, _number(0, open_low=True))
    pre_act_coefficient: float | None = _setting(None, _number(0, optional=True))
    aux_coefficient: float = _setting(1.0, _number(0))
    dead_after: int = _setting(1000, _integer(1))
    threshold_rate: float = _setting(0.01, _number(0, 1, open_low=True))


@dataclass(frozen=True, kw_only=True)
class LoggingSettings(_Part):
    """What is written while it runs.

    Args:
        every: Steps between two lines of ``metrics.jsonl``.
        tensorboard: Also write TensorBoard's files (needs the package ``tensorboard``).
    """

    every: int = _setting(10, _integer(1))
    tensorboard: bool = _setting(False, _flag())


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings(_Part):
    """Where results go.

    Args:
        folder: Holds ``coder/`` (the result), ``checkpoint.safetensors``, ``metrics.jsonl`` and ``config.json``.
        every: Steps between two checkpoints; the last one and one at Ctrl-C are always written.
    """

    folder: str = _setting(dataclasses.MISSING, _text())
    every: int = _setting(1000, _integer(1))


def _kind_of(data: DataSettings) -> str:
    if len(data.sites_in) > 1:
        return "cross_layer" if data.sites_out else "crosscoder"
    return "transcoder" if data.sites_out else "sae"


@dataclass(frozen=True, kw_only=True)
class TrainConfig(_Part):
    """A training run. The parts: :class:`CoderSettings`, :class:`DataSettings` and so on; mappings are read as these.

    Raises:
        ArgumentError: an unknown key (``config-key``), or a value that is out of range or does not go with another one
            (``config-value``, ``k-range``).

    >>> TrainConfig.from_dict({"coder": {"architecture": "topk", "d_sae": 64, "kk": 4}})
    Traceback (most recent call last):
    ...
    iam.core.errors.ArgumentError: TrainConfig: expected a key "schedule", got ['coder']
    """

    coder: CoderSettings
    schedule: ScheduleSettings
    checkpoint: CheckpointSettings
    data: DataSettings = field(default_factory=DataSettings)
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    sparsity: SparsitySettings = field(default_factory=SparsitySettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    seed: int = _setting(0, _integer(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, cls in _PARTS.items():
            value = getattr(self, name)
            if not isinstance(value, cls):
                object.__setattr__(self, name, cls.from_dict(value, where=name))
        coder, sparsity, schedule = self.coder, self.sparsity, self.schedule
        if coder.architecture == "jumprelu" and sparsity.mode == "quadratic":
            target = sparsity.target_l0
            if target is None or target > coder.d_sae:
                raise ArgumentError(
                    f"sparsity.target_l0: expected a number in 0..d_sae={coder.d_sae} for mode quadratic, got {target}",
                    code="config-value",
                )
        if schedule.k_start is not None and (coder.k is None or not coder.k <= schedule.k_start <= coder.d_sae):
            raise ArgumentError(
                f"schedule.k_start: expected an integer from coder.k={coder.k} to d_sae={coder.d_sae}, got {schedule.k_start}",
                code="config-value",
            )
        self._check_kind()

    def _check_kind(self) -> None:
        """What the coder reads and writes, and what does not go with that."""
        coder, data, kind = self.coder, self.data, self.kind
        follows = _kind_of(data)
        if data.site is not None and kind != follows:
            raise ArgumentError(
                f"coder.kind: expected {follows}, which follows from data.site and data.site_out, got {kind}",
                code="config-value",
            )
        if coder.apply_b_dec_to_input and kind in ("cross_layer", "transcoder"):
            raise ArgumentError(
                "coder.apply_b_dec_to_input: expected false for a transcoder (data.site_out is another site: b_dec belongs to "
                "that one), got true",
                code="config-value",
            )
        known = data.site is not None or coder.kind is not None  # rows with targets may still be given
        if coder.skip and known and kind not in ("cross_layer", "transcoder"):
            article = "a crosscoder" if kind == "crosscoder" else "an SAE"
            raise ArgumentError(
                f"coder.skip: expected false for {article}, got true; a skip is for a transcoder (data.site_out)",
                code="config-value",
            )
        if kind == "cross_layer" and coder.architecture == "matryoshka":
            raise ArgumentError(
                "coder.architecture: expected another one than matryoshka for a cross-layer transcoder; its layers have no common "
                "order of features",
                code="config-value",
            )

    @property
    def kind(self) -> str:
        """One of :data:`CODER_KINDS`: what ``coder.kind`` says, or else what follows from the sites."""
        return self.coder.kind or _kind_of(self.data)

    @property
    def learning_rate(self) -> float:
        """The peak learning rate, given or by rule."""
        if self.optimiser.lr is not None:
            return self.optimiser.lr
        base = 2e-4 if self.optimiser.name == "adam" else 5e-3
        return base / math.sqrt(self.coder.d_sae / 2**14)

    @classmethod
    def from_yaml(cls, path: str | Path) -> TrainConfig:
        """Read a YAML (or JSON) file. Relative paths in it stay relative to the working directory.

        Raises:
            ArgumentError: no such file (``file-missing``), not YAML (``format``), or what :meth:`from_dict` refuses.
            MissingDependencyError: PyYAML is not installed.
        """
        from iam.core.lazy import require

        yaml = require("yaml", extra="models", purpose="TrainConfig.from_yaml")
        path = Path(path)
        if not path.is_file():
            near = nearest(path.name, (p.name for p in path.parent.glob("*.y*ml"))) if path.parent.is_dir() else None
            hint = f"; did you mean {path.parent / near}?" if near else ""
            raise ArgumentError(f"{path}: expected a YAML file, but there is none{hint}", code="file-missing")
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise ArgumentError(f"{path}: expected YAML: {error}", code="format") from error
        try:
            return cls.from_dict(values, where=str(path))
        except ArgumentError as error:
            if str(error).startswith(str(path)):
                raise
            raise ArgumentError(f"{path}: {error}", code=error.code) from error


_PARTS: dict[str, Any] = {
    "coder": CoderSettings,
    "data": DataSettings,
    "optimiser": OptimiserSettings,
    "schedule": ScheduleSettings,
    "sparsity": SparsitySettings,
    "logging": LoggingSettings,
    "checkpoint": CheckpointSettings,
}
