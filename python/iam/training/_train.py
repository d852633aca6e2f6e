"""``iam.train``: from configurations to coders on disk."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from iam.core.errors import ArgumentError, MissingDependencyError
from iam.core.lazy import require
from iam.formats._atomic import write_atomically
from iam.training._config import TrainConfig

if TYPE_CHECKING:
    from iam.models import LanguageModel
    from iam.training._data import RingBuffer
    from iam.training._trainer import BufferState, Trainer
    from iam.vector.clt import SAE, Crosscoder, CrossLayerTranscoder, Transcoder

    Coder = SAE | Transcoder | CrossLayerTranscoder | Crosscoder

__all__ = ["plan", "train", "with_steps"]

Configuration = TrainConfig | Mapping[str, Any] | str | Path


@overload
def train(
    config: Configuration,
    data: Any = None,
    *,
    model: LanguageModel | None = None,
    resume: bool = False,
    progress: bool = True,
    callback: Callable[[dict[str, float]], None] | None = None,
) -> Coder: ...


@overload
def train(
    config: list[Any],
    data: Any = None,
    *,
    model: LanguageModel | None = None,
    resume: bool = False,
    progress: bool = True,
    callback: Callable[[dict[str, float]], None] | None = None,
) -> list[Coder]: ...


def train(
    config: Configuration | list[Any],
    data: Any = None,
    *,
    model: LanguageModel | None = None,
    resume: bool = False,
    progress: bool = True,
    callback: Callable[[dict[str, float]], None] | None = None,
) -> Coder | list[Coder]:
    """Train a sparse autoencoder, a transcoder, a cross-layer transcoder or a crosscoder; or several, on the same rows.

    Args:
        config: The run: a :class:`iam.training.TrainConfig`, a mapping with its keys, or the path of a YAML file. A list of
            these, which differ in nothing that makes batches but the sites: one pass of the model feeds all coders, step by
            step, and each becomes what it becomes alone.
        data: Rows to train on, instead of a model's: an array ``[rows, d_in]`` (NumPy or torch; used again and again), a pair of
            arrays for a transcoder, or an iterable of such blocks (used once). With ``coder.kind`` ``crosscoder`` a list of arrays
            instead of the array, with ``cross_layer`` a pair of lists. None runs the model that ``config.data`` names.
        model: The language model, instead of loading ``config.data.model``.
        resume: Go on from the checkpoint in ``config.checkpoint.folder``, if there is one.
        progress: Show a progress bar, if standard error is a terminal.
        callback: Called after each step with what it measured: ``step``, ``loss``, ``fvu``, ``l0``, ``dead`` (fraction of
            features)...; with several configurations also ``run``, the place in the list.

    Returns:
        The coder, in float32, for rows as the model makes them; ``<folder>/coder`` holds it, in ``config.coder.dtype``. A list for a
        list.

    Raises:
        ArgumentError: a setting out of range, or one that does not go with the data; a folder with a checkpoint and no ``resume``;
            configurations that cannot share batches, or checkpoints at different steps.
        NonFiniteError: a row, or the loss, is NaN or infinite.
        KeyboardInterrupt: Ctrl-C; a checkpoint was saved first, and a note on standard error says how to go on.
        MissingDependencyError: torch is not installed.

    The same configuration, data, torch and number of threads give the same weights, interrupted and resumed or not.
    Formulas: ``docs/training.md``.

    >>> sae = train({"coder": {"architecture": "topk", "d_sae": 4096, "k": 32},         # doctest: +SKIP
    ...              "data": {"model": "smollm2", "site": "resid_post.15", "text": "texts.jsonl"},
    ...              "schedule": {"steps": 2000}, "checkpoint": {"folder": "build/sae"}})
    """
    torch = require("torch", extra="models", purpose="iam.train")
    require("safetensors.torch", extra="models", purpose="iam.train")
    from iam.training._export import save
    from iam.training._progress import bar
    from iam.training._trainer import Interrupt, Trainer, run

    several = isinstance(config, list)
    configs = [_read(one) for one in (config if isinstance(config, list) else [config])]
    for each in configs:
        _check_start(each, resume)
    _check_together(configs)
    stream, places = None, _places(configs)
    if data is not None:
        stream, configs, places = _given(configs, data)
    trainers = [
        Trainer(one, sites=place, metadata=_metadata(one, model)) for one, place in zip(configs, places, strict=True)
    ]
    names = [one.folder.name for one in trainers] if several else ["train"]
    interrupt = Interrupt()
    steps = [one.schedule.steps for one in configs]
    with interrupt.installed(), torch.no_grad(), bar(list(zip(names, steps, strict=True)), show=progress) as show:
        try:
            states = [one.restore() if resume else None for one in trainers]
            unfinished = [one for one in trainers if not one.finished]
            if unfinished:
                if data is None:
                    stream = _stream(unfinished, model, interrupt.check, show.harvested)
                buffer = _buffer(stream, unfinished[0].config, interrupt.check)
                _start(
                    unfinished, [state for state, one in zip(states, trainers, strict=True) if not one.finished], buffer
                )
                for one in trainers:
                    one.folder.mkdir(parents=True, exist_ok=True)
                    text = json.dumps(one.config.to_dict(), indent=2) + "\n"
                    write_atomically(one.folder / "config.json", text.encode())

                def watch(trainer: Trainer, metrics: dict[str, float]) -> None:
                    at = trainers.index(trainer)
                    show.stepped(at, metrics)
                    if callback is not None:
                        callback({**metrics, "run": at} if several else metrics)

                run(unfinished, buffer, interrupt=interrupt, watch=watch)
        except KeyboardInterrupt:
            _say_how_to_go_on(trainers)
            raise
        coders = [one.coder() for one in trainers]
        for one, coder in zip(trainers, coders, strict=True):
            save(coder, one.folder / "coder")
    return coders if several else coders[0]


def _read(config: Configuration) -> TrainConfig:
    if isinstance(config, TrainConfig):
        return config
    if isinstance(config, (str, Path)):
        return TrainConfig.from_yaml(config)
    return TrainConfig.from_dict(config)


def _check_start(config: TrainConfig, resume: bool) -> None:
    from iam.training._checkpoint import CHECKPOINT_NAME

    if config.logging.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise MissingDependencyError(
            "train: logging.tensorboard needs the package tensorboard, which is not installed: pip install tensorboard, or set it "
            "to false; metrics.jsonl holds the same figures"
        )
    folder = Path(config.checkpoint.folder)
    if (folder / CHECKPOINT_NAME).exists() and not resume:
        raise ArgumentError(
            f"train: {folder} holds a checkpoint; resume=True (iam train --resume) goes on from it; for a new run choose another "
            "checkpoint.folder"
        )


def _check_together(configs: Sequence[TrainConfig]) -> None:
    """Several runs at once need the same batches."""
    if not configs:
        raise ArgumentError("train: expected at least one configuration, got none")

    def batches(config: TrainConfig) -> dict[str, Any]:
        settings = {
            f"data.{name}": value for name, value in config.data.to_dict().items() if not name.startswith("site")
        }
        return settings | {"schedule.batch": config.schedule.batch, "seed": config.seed}

    first = batches(configs[0])
    for at, config in enumerate(configs[1:], 1):
        differing = [
            f"{name} {first[name]!r} and {value!r}" for name, value in batches(config).items() if value != first[name]
        ]
        if differing:
            raise ArgumentError(
                f"train: expected configurations that make the same batches, to train them at once; number 0 and number {at} differ in "
                f"{', '.join(differing)}; make them equal, or train one after the other"
            )
    folders = [str(Path(config.checkpoint.folder).resolve()) for config in configs]
    if len(set(folders)) < len(folders):
        raise ArgumentError(f"train: expected a checkpoint.folder for each configuration, got {', '.join(folders)}")


def _say_how_to_go_on(trainers: Sequence[Trainer]) -> None:
    from iam.training._checkpoint import CHECKPOINT_NAME

    saved = [str(one.folder / CHECKPOINT_NAME) for one in trainers if (one.folder / CHECKPOINT_NAME).exists()]
    if saved:
        what = "the same call with resume=True (iam train --resume) goes on from it"
        what = f"{', '.join(saved)} {'is' if len(saved) == 1 else 'are'} saved; {what}"
    else:
        what = "no step was finished; activations stored so far are kept and used by the next run"
    print(f"iam train: interrupted; {what}", file=sys.stderr)


# ---------------------------------------------------------------------------------------------------------------- data


def _places(configs: Sequence[TrainConfig]) -> list[tuple[int, ...]]:
    """Of each configuration, where its sites are in blocks that have all sites of all of them."""
    sites = _sites(configs)
    return [tuple(sites.index(site) for site in (*one.data.sites_in, *one.data.sites_out)) for one in configs]


def _sites(configs: Sequence[TrainConfig]) -> list[str]:
    return list(dict.fromkeys(site for one in configs for site in one.data.sites))


def _metadata(config: TrainConfig, model: LanguageModel | None) -> dict[str, Any]:
    """What a coder says of its origin."""
    from iam.core.sites import Site

    settings = config.data
    metadata: dict[str, Any] = {}
    for name, sites in (("hook_name", settings.sites_in), ("hook_name_out", settings.sites_out)):
        hooks = [Site.parse(site).hook_name for site in sites]
        if len(hooks) == 1:
            metadata[name] = hooks[0]
        elif hooks:
            metadata[name.replace("name", "names")] = hooks
    model_name = model.name if model is not None else settings.model
    if model_name is not None:
        metadata["model_name"] = model_name
    if settings.text:  # of a file of token ids, nothing is known
        metadata |= {
            "context_size": settings.context,
            "prepend_bos": settings.prepend_bos,
            "seqpos_slice": [settings.drop_positions, settings.context],
        }
    return metadata


def _stream(
    trainers: Sequence[Trainer],
    model: LanguageModel | None,
    check: Callable[[], None],
    report: Callable[[int, int], None],
) -> Any:
    """Rows of a model, at the sites of these coders; tells the coders where in a block theirs are."""
    from iam.training import _data

    configs = [one.config for one in trainers]
    settings, seed = configs[0].data, configs[0].seed
    name = model.name if model is not None else settings.model
    nowhere = any(not one.data.sites for one in configs)
    if nowhere or name is None:
        raise ArgumentError(
            "train: expected rows (data=...), or a model, a site and text in the configuration; "
            f"{'data.site' if nowhere else 'data.model'} is missing"
        )
    sites = _sites(configs)
    for one, place in zip(trainers, _places(configs), strict=True):
        one.sites = place

    def loaded() -> LanguageModel:
        if model is not None:
            return model
        from iam.models import LanguageModel

        return LanguageModel.from_pretrained(name)

    if settings.cache is not None:
        return _data.harvest(settings, loaded, name, sites=sites, seed=seed, check=check, report=report)
    language_model = loaded()
    contexts = _data.contexts_of(settings, language_model)
    return _data.ModelStream(language_model, contexts, sites, settings, seed=seed)


_COUNTS = {
    "cross_layer": "a pair of lists of arrays, as many to predict as to read, and at least two",
    "crosscoder": "a list of at least two arrays, one for each site",
    "sae": "an array",
    "transcoder": "a pair of arrays",
}


def _given(configs: Sequence[TrainConfig], data: Any) -> tuple[Any, list[TrainConfig], list[tuple[int, ...]]]:
    """The stream of rows that were given, what kinds of coders it trains, and where in a block their sites are."""
    from iam.training import _data

    wanted = configs[0].kind if configs[0].coder.kind or configs[0].data.sites else None
    seed = configs[0].seed
    stream: Any
    pair = isinstance(data, tuple) and len(data) == 2
    if hasattr(data, "shape") or pair or _is_block(data, wanted):
        block = data
        stream = _data.ArrayStream(block, seed=seed)
    elif isinstance(data, Iterable) and not isinstance(data, (str, bytes, Mapping)):
        blocks: Iterator[Any] = iter(data)
        block = next(blocks, None)
        if block is None:
            raise ArgumentError("train: expected data to yield rows, got none")

        def again() -> Iterator[Any]:
            yield block
            yield from blocks

        stream = _data.IteratorStream(again())
    else:
        raise ArgumentError(
            f"train: data: expected rows [rows, d_in], a pair of arrays, or an iterable of these, got {type(data).__name__}"
        )
    found = []
    for config in configs:
        known = config.coder.kind or config.data.sites
        kind = config.kind if known else "sae" if hasattr(block, "shape") else "transcoder"
        if not _is_block(block, kind):
            raise ArgumentError(
                f"train: data: expected {_COUNTS[kind]} for kind {kind}, got {_described(block)}; coder.kind says what is trained"
            )
        found.append(dataclasses.replace(config, coder=dataclasses.replace(config.coder, kind=kind)))
    place = tuple(range(len(list(_data.flat(block)))))
    return stream, found, [place] * len(configs)


def _is_block(value: Any, kind: str | None) -> bool:
    """Whether these are the arrays that a coder of this kind reads and predicts."""
    if kind == "sae":
        return hasattr(value, "shape")
    if kind is None or not isinstance(value, (list, tuple)):
        return False
    if kind == "cross_layer":
        return len(value) == 2 and len(value[0]) == len(value[1]) and all(_is_block(one, "crosscoder") for one in value)
    if kind == "transcoder" and len(value) != 2:
        return False
    return len(value) > 1 and all(hasattr(one, "shape") for one in value)


def _described(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"({', '.join(_described(one) for one in value)})"
    return "an array" if hasattr(value, "shape") else type(value).__name__


def _buffer(stream: Any, config: TrainConfig, check: Callable[[], None]) -> RingBuffer:
    from iam.training._data import RingBuffer

    batch = config.schedule.batch
    held = min(config.data.buffer_rows, max(getattr(stream, "rows_per_pass", 2**62), batch))
    if held < batch:
        raise ArgumentError(
            f"train: data.buffer_rows: expected at least schedule.batch={batch}, got {config.data.buffer_rows}"
        )
    return RingBuffer(
        stream,
        rows=held,
        batch=batch,
        refill=config.data.refill,
        dtype=config.data.dtype,
        seed=config.seed,
        check=check,
    )


def _start(trainers: Sequence[Trainer], states: Sequence[BufferState | None], buffer: RingBuffer) -> None:
    """Fill the buffer, from checkpoints or anew; make the weights of coders that have none.

    Each checkpoint has the rows of the sites of its coder; together they have those of all.
    """
    from iam.training._trainer import SAMPLE

    if len({one.step for one in trainers}) > 1:
        steps = ", ".join(f"{one.folder} at step {one.step}" for one in trainers)
        raise ArgumentError(
            f"train: expected checkpoints of the same step, to go on together, got {steps}; resume them one by one, which ends with "
            "the same weights"
        )
    merged: dict[str, Any] = {}
    numbers: dict[str, Any] | None = None
    for one, state in zip(trainers, states, strict=True):
        if state is None:
            continue
        numbers, tensors = state
        merged["order"] = tensors["order"]
        for at, place in enumerate(dict.fromkeys(one.sites)):
            merged |= {
                f"{name}.{place}": tensors[f"{name}.{at}"] for name in ("rows", "pending") if f"{name}.{at}" in tensors
            }
    if numbers is not None:
        buffer.restore(numbers, merged)
        return
    sample = buffer.sample(SAMPLE)
    for one in trainers:
        one.start(sample)


def plan(config: TrainConfig) -> dict[str, Any]:
    """The configuration with what follows from it: what ``iam train --dry-run`` prints. Nothing is loaded or computed."""
    values = config.to_dict()
    values["optimiser"] = {**values["optimiser"], "lr": config.learning_rate}
    if config.coder.apply_b_dec_to_input is None:
        values["coder"] = {**values["coder"], "apply_b_dec_to_input": config.kind == "sae"}
    values["follows"] = {
        "kind": config.kind,
        "rows": config.schedule.steps * config.schedule.batch,
        "checkpoint_exists": (Path(config.checkpoint.folder) / "checkpoint.safetensors").exists(),
    }
    return values


def with_steps(config: TrainConfig, steps: int | None) -> TrainConfig:
    """The configuration with another number of steps."""
    if steps is None:
        return config
    return dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, steps=steps))
