"""``iam.train``: from a configuration to a coder on disk."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iam.core.errors import ArgumentError, MissingDependencyError
from iam.core.lazy import require
from iam.formats._atomic import write_atomically
from iam.training._config import TrainConfig

if TYPE_CHECKING:
    from iam.models import LanguageModel
    from iam.vector.clt import SAE, Transcoder

__all__ = ["plan", "train", "with_steps"]


def train(
    config: TrainConfig | Mapping[str, Any] | str | Path,
    data: Any = None,
    *,
    model: LanguageModel | None = None,
    resume: bool = False,
    progress: bool = True,
    callback: Callable[[dict[str, float]], None] | None = None,
) -> SAE | Transcoder:
    """Train a sparse autoencoder or a transcoder.

    Args:
        config: The run: a :class:`iam.training.TrainConfig`, a mapping with its keys, or the path of a YAML file.
        data: Rows to train on, instead of a model's: an array ``[rows, d_in]`` (NumPy or torch; used again and again), a pair of
            arrays for a transcoder, or an iterable of such blocks (used once). None runs the model that ``config.data`` names.
        model: The language model, instead of loading ``config.data.model``.
        resume: Go on from the checkpoint in ``config.checkpoint.folder``, if there is one.
        progress: Show a progress bar, if standard error is a terminal.
        callback: Called after each step with what it measured: ``step``, ``loss``, ``fvu``, ``l0``, ``dead`` (fraction of
            features)...

    Returns:
        The coder, in float32, for rows as the model makes them; ``<folder>/coder`` holds it, in ``config.coder.dtype``.

    Raises:
        ArgumentError: a setting out of range, or one that does not go with the data; a folder with a checkpoint and no ``resume``.
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
    from iam.training._checkpoint import CHECKPOINT_NAME
    from iam.training._data import RingBuffer
    from iam.training._export import save
    from iam.training._progress import bar
    from iam.training._trainer import Interrupt, Trainer

    config = _read(config)
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
    folder.mkdir(parents=True, exist_ok=True)
    interrupt = Interrupt()
    with interrupt.installed(), torch.no_grad(), bar(config.schedule.steps, show=progress) as show:
        try:
            stream, transcoder, metadata = _stream(config, data, model, interrupt.check, show.harvested)
            batch = config.schedule.batch
            held = min(config.data.buffer_rows, max(getattr(stream, "rows_per_pass", 2**62), batch))
            if held < batch:
                raise ArgumentError(
                    f"train: data.buffer_rows: expected at least schedule.batch={batch}, got {config.data.buffer_rows}"
                )
            buffer = RingBuffer(
                stream,
                rows=held,
                batch=batch,
                refill=config.data.refill,
                dtype=config.data.dtype,
                seed=config.seed,
                check=interrupt.check,
            )
            trainer = Trainer(config, buffer, transcoder=transcoder, metadata=metadata)
            if resume:
                trainer.restore(folder)
            trainer.start()
            write_atomically(folder / "config.json", (json.dumps(config.to_dict(), indent=2) + "\n").encode())

            def watch(metrics: dict[str, float]) -> None:
                show.stepped(metrics)
                if callback is not None:
                    callback(metrics)

            trainer.run(interrupt=interrupt, watch=watch)
        except KeyboardInterrupt:
            _say_how_to_go_on(folder / CHECKPOINT_NAME)
            raise
        coder = trainer.coder()
        save(coder, folder / "coder")
    return coder


def _read(config: TrainConfig | Mapping[str, Any] | str | Path) -> TrainConfig:
    if isinstance(config, TrainConfig):
        return config
    if isinstance(config, (str, Path)):
        return TrainConfig.from_yaml(config)
    return TrainConfig.from_dict(config)


def _say_how_to_go_on(checkpoint: Path) -> None:
    if checkpoint.exists():
        what = f"{checkpoint} is saved; the same call with resume=True (iam train --resume) goes on from it"
    else:
        what = "no step was finished; activations stored so far are kept and used by the next run"
    print(f"iam train: interrupted; {what}", file=sys.stderr)


def _stream(
    config: TrainConfig,
    data: Any,
    model: LanguageModel | None,
    check: Callable[[], None],
    report: Callable[[int, int], None],
) -> tuple[Any, bool, dict[str, Any]]:
    """Where rows come from, whether they have targets, and what the coder says of its origin."""
    from iam.training import _data

    settings = config.data
    metadata: dict[str, Any] = {}
    if settings.site is not None:
        from iam.core.sites import Site

        metadata["hook_name"] = Site.parse(settings.site).hook_name
        if config.is_transcoder and settings.site_out is not None:
            metadata["hook_name_out"] = Site.parse(settings.site_out).hook_name
    name = model.name if model is not None else settings.model
    if name is not None:
        metadata["model_name"] = name
    if data is not None:
        stream, transcoder = _given(config, data)
        return stream, transcoder, metadata
    if settings.site is None or name is None:
        missing = "data.site" if settings.site is None else "data.model"
        raise ArgumentError(
            f"train: expected rows (data=...), or a model, a site and text in the configuration; {missing} is missing"
        )
    if settings.text:  # of a file of token ids, nothing is known
        metadata |= {"context_size": settings.context, "prepend_bos": settings.prepend_bos}

    def loaded() -> LanguageModel:
        if model is not None:
            return model
        from iam.models import LanguageModel

        return LanguageModel.from_pretrained(name)

    if settings.cache is not None:
        cache = _data.harvest(settings, loaded, name, seed=config.seed, check=check, report=report)
        return cache, config.is_transcoder, metadata
    language_model = loaded()
    contexts = _data.contexts_of(settings, language_model)
    source = _data.ModelStream(language_model, contexts, settings.sites, settings, seed=config.seed)
    return source, config.is_transcoder, metadata


def _given(config: TrainConfig, data: Any) -> tuple[Any, bool]:
    from iam.training import _data

    if isinstance(data, tuple) and len(data) == 2:
        return _data.ArrayStream(data[0], data[1], seed=config.seed), True
    if hasattr(data, "shape"):
        return _data.ArrayStream(data, seed=config.seed), False
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes, Mapping)):
        blocks: Iterator[Any] = iter(data)
        first = next(blocks, None)
        if first is None:
            raise ArgumentError("train: expected data to yield rows, got none")

        def again() -> Iterator[Any]:
            yield first
            yield from blocks

        return _data.IteratorStream(again()), isinstance(first, (tuple, list))
    raise ArgumentError(
        f"train: data: expected rows [rows, d_in], a pair of arrays, or an iterable of these, got {type(data).__name__}"
    )


def plan(config: TrainConfig) -> dict[str, Any]:
    """The configuration with what follows from it: what ``iam train --dry-run`` prints. Nothing is loaded or computed."""
    values = config.to_dict()
    values["optimiser"] = {**values["optimiser"], "lr": config.learning_rate}
    transcoder = config.is_transcoder
    if config.coder.apply_b_dec_to_input is None:
        values["coder"] = {**values["coder"], "apply_b_dec_to_input": not transcoder}
    values["follows"] = {
        "kind": "transcoder" if transcoder else "sae",
        "rows": config.schedule.steps * config.schedule.batch,
        "checkpoint_exists": (Path(config.checkpoint.folder) / "checkpoint.safetensors").exists(),
    }
    return values


def with_steps(config: TrainConfig, steps: int | None) -> TrainConfig:
    """The configuration with another number of steps."""
    if steps is None:
        return config
    return dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, steps=steps))
