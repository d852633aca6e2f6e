"""The loop: schedules, dead features, constraints, metrics, checkpoints."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from iam.core.errors import ArgumentError, NonFiniteError
from iam.formats._atomic import write_atomically
from iam.training import _steps as steps
from iam.training._checkpoint import load_checkpoint, save_checkpoint
from iam.training._config import TrainConfig
from iam.training._data import RingBuffer
from iam.training._export import export, export_cross_layer, export_crosscoder, folded
from iam.training._losses import Loss, Terms, layer_weights, loss_of
from iam.training._steps import Optimiser

if TYPE_CHECKING:
    from iam.vector.clt import SAE, Crosscoder, CrossLayerTranscoder, Transcoder

__all__ = ["SAMPLE", "BufferState", "Interrupt", "Trainer", "run"]

SAMPLE = 16_384
"""Rows on which scales and means are estimated."""

_FREE_ON_RESUME = ("checkpoint", "logging")

Metrics = dict[str, float]
BufferState = tuple[dict[str, Any], dict[str, torch.Tensor]]


class Interrupt:
    """Ctrl-C as a request: the step that runs is finished, then :meth:`check` raises. A second Ctrl-C raises at once."""

    def __init__(self) -> None:
        self.requested = False
        self.at_once = False

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` if it was requested."""
        if self.requested:
            raise KeyboardInterrupt

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            self.at_once = True
            raise KeyboardInterrupt
        self.requested = True

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle SIGINT here; nothing outside the main thread, where Python cannot."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGINT, self._on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)


class Trainer:
    """A coder in training.

    Args:
        config: The run; ``config.kind`` says how many sites the coder has.
        sites: Where in a block of rows the sites are: those that are read, then those that are predicted, if they are others.
        metadata: Of the coder: model and sites.

    Weights are made from the first rows, by :meth:`start`, and from ``config.seed``; :meth:`restore` puts back a checkpoint.
    """

    def __init__(
        self, config: TrainConfig, *, sites: Sequence[int] = (0,), metadata: dict[str, Any] | None = None
    ) -> None:
        self.config, self.sites = config, tuple(sites)
        self.metadata = dict(metadata or {})
        given = config.coder.apply_b_dec_to_input
        self.apply_b_dec = config.kind == "sae" if given is None else given
        self.step = 0
        self.weights: dict[str, torch.Tensor] = {}
        self.optimiser: Optimiser | None = None
        self.since_fired = torch.zeros(self.layers * config.coder.d_sae, dtype=torch.long)
        self.thresholds = [0.0] * self.layers
        self.scales = [1.0] * len(self.sites)

    @property
    def layers(self) -> int:
        """Sets of features: more than one for a cross-layer transcoder."""
        return len(self.sites) // 2 if self.config.kind == "cross_layer" else 1

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return Path(self.config.checkpoint.folder)

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.config.schedule.steps

    def _split(self, rows: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """One for each site, as what is read and what is predicted."""
        mine = list(rows)
        if self.config.kind in ("crosscoder", "sae"):
            return mine, mine
        half = len(mine) // 2
        return mine[:half], mine[half:]

    def _rows(self, block: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Scaled rows for each layer: read, and to predict. The sites of a crosscoder are side by side."""
        scaled = [block[at] * scale for at, scale in zip(self.sites, self.scales, strict=True)]
        if self.config.kind == "crosscoder":
            scaled = [torch.cat(scaled, 1)]
        return self._split(scaled)

    # ------------------------------------------------------------------------------------------------------ start

    def start(self, sample: Sequence[torch.Tensor]) -> None:
        """Estimate scales and means on a block of first rows, and make the weights."""
        mine = [sample[at] for at in self.sites]
        if not len(mine[0]):
            raise ArgumentError("train: expected rows to train on, got none")
        for widths in ({one.shape[1] for one in part} for part in self._split(mine)):
            if len(widths) > 1:
                raise ArgumentError(
                    f"train: expected sites of one width in a {self.config.kind} coder, got widths {sorted(widths)}"
                )
        if self.config.coder.normalize_activations == "expected_average":
            means = [float(one.double().norm(dim=1).mean()) for one in mine]
            if min(means) == 0:
                raise ArgumentError("train: expected rows that are not all zero")
            self.scales = [math.sqrt(one.shape[1]) / mean for one, mean in zip(mine, means, strict=True)]
        xs, ys = self._rows(sample)
        self.weights = self._initial([x.mean(0) for x in xs], [y.mean(0) for y in ys])
        self.optimiser = self._optimiser()

    def _initial(self, means_in: list[torch.Tensor], means_out: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(self.config.seed)
        if self.layers == 1:
            return self._initial_layer(means_in[0], means_out, generator)
        found: dict[str, torch.Tensor] = {}
        for layer, mean_in in enumerate(means_in):
            weights = self._initial_layer(mean_in, means_out[layer:], generator)
            found |= {f"layers.{layer}.{name}": value for name, value in weights.items()}
        return found

    def _initial_layer(
        self, mean_in: torch.Tensor, means_out: list[torch.Tensor], generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Decoder rows in random directions. The encoder of an SAE is the decoder transposed; that of a transcoder, whose two
        sides have nothing to do with each other, is drawn too. Where the encoder does not subtract `b_dec`, its bias centres
        the input."""
        settings = self.config.coder
        norm = 1.0 if settings.normalize_decoder else settings.decoder_init_norm

        def directions(width: int) -> torch.Tensor:
            rows = torch.randn(settings.d_sae, width, generator=generator)
            return rows * (norm / rows.norm(dim=1, keepdim=True))

        mean_out = means_out[0]
        decoder = directions(sum(len(one) for one in means_out))
        itself = self.config.kind in ("crosscoder", "sae")
        encoder = decoder.clone() if itself else directions(len(mean_in))
        centre = settings.init_b_dec == "mean"
        weights = {"encoder": encoder, "decoder": decoder, "b_dec": mean_out.clone() if centre else 0 * mean_out}
        bias = -(encoder @ mean_in) if centre and not self.apply_b_dec else torch.zeros(settings.d_sae)
        if settings.architecture == "gated":
            weights |= {"b_gate": bias, "b_mag": bias.clone(), "r_mag": torch.zeros(settings.d_sae)}
        else:
            weights["b_enc"] = bias
        if settings.architecture == "jumprelu":
            weights["threshold"] = torch.full((settings.d_sae,), settings.threshold)
        if settings.skip:
            weights["W_skip"] = torch.zeros(len(mean_out), len(mean_in))
        return weights

    def _optimiser(self) -> Optimiser:
        decoders = [name for name in self.weights if name.rpartition(".")[2] == "decoder"]
        kept = decoders if self.config.coder.normalize_decoder else ()
        return Optimiser(self.weights, self.config.optimiser, normalize=kept)

    # -------------------------------------------------------------------------------------------------- schedules

    def learning_rate(self, step: int) -> float:
        """Linear warm-up to the peak, constant, then the decay."""
        plan = self.config.schedule
        rate = self.config.learning_rate
        if step < plan.warm_up:
            rate *= (step + 1) / plan.warm_up
        left = plan.steps - step
        if left <= plan.decay:
            share = left / plan.decay
            if plan.decay_shape == "cosine":
                share = (1 - math.cos(math.pi * share)) / 2
            rate *= plan.lr_end + (1 - plan.lr_end) * share
        return rate

    def k(self, step: int) -> int:
        """k at a step: from ``k_start`` down to ``coder.k``."""
        k, plan = self.config.coder.k or 0, self.config.schedule
        if plan.k_start is None or step >= plan.k_steps:
            return k
        return round(plan.k_start + (k - plan.k_start) * step / plan.k_steps)

    def coefficient(self, step: int) -> float:
        """Weight of the sparsity loss at a step."""
        warm_up = self.config.schedule.coefficient_warm_up
        return self.config.sparsity.coefficient * (min(1.0, (step + 1) / warm_up) if warm_up else 1.0)

    # ------------------------------------------------------------------------------------------------------- step

    def advance(self, block: Sequence[torch.Tensor]) -> Metrics:
        """One step on a batch, float32 `[rows, width]` for each site of the block; what it measured."""
        assert self.optimiser is not None
        began = time.perf_counter()
        config, step = self.config, self.step
        xs, ys = self._rows(block)
        dead = self.since_fired > config.sparsity.dead_after
        loss = loss_of(config.coder.architecture, self.weights, xs, ys, self._terms(step, dead))
        total = float(sum(loss.parts.values()))
        if not math.isfinite(total):
            parts = ", ".join(f"{name} {float(value):g}" for name, value in loss.parts.items())
            raise NonFiniteError(
                f"train: step {step}: expected a finite loss, got {total:g} ({parts}); lower optimiser.lr or "
                "sparsity.coefficient, and go on from the last checkpoint"
            )
        rate = self.learning_rate(step)
        norm = self.optimiser.step(loss.factored, rate)
        self.since_fired = torch.where(loss.fired, 0, self.since_fired + 1)
        self._follow_threshold(loss)
        self.step += 1
        variance = sum(steps.variance(y) for y in ys)
        rows = len(xs[0])
        metrics = {
            "step": self.step,
            "loss": total,
            "fvu": float(loss.squared_error) / variance if variance else math.nan,
            "l0": loss.active / rows,
            "dead": float(dead.float().mean()),
            "lr": rate,
            "gradient_norm": norm,
            "rows": rows,
            "rows_per_second": rows / max(time.perf_counter() - began, 1e-9),
        }
        return metrics | {f"loss_{name}": float(value) for name, value in loss.parts.items()}

    def _terms(self, step: int, dead: torch.Tensor) -> Terms:
        coder, sparsity = self.config.coder, self.config.sparsity
        return Terms(
            apply_b_dec_to_input=self.apply_b_dec,
            k=self.k(step),
            widths=coder.widths,
            rescale=coder.rescale_acts_by_decoder_norm,
            coefficient=self.coefficient(step),
            mode=sparsity.mode,
            target_l0=sparsity.target_l0,
            tanh_scale=sparsity.tanh_scale,
            pre_act_coefficient=sparsity.pre_act_coefficient,
            aux_coefficient=sparsity.aux_coefficient,
            bandwidth=coder.bandwidth,
            dead=dead,
            sites=len(self.sites) if self.config.kind == "crosscoder" else 1,
        )

    def _follow_threshold(self, loss: Loss) -> None:
        if self.config.coder.architecture not in ("batchtopk", "matryoshka"):
            return
        rate = self.config.sparsity.threshold_rate
        for layer, smallest in enumerate(loss.smallest):
            if smallest is not None:
                self.thresholds[layer] = (1 - rate) * self.thresholds[layer] + rate * float(smallest)

    # ----------------------------------------------------------------------------------------------------- result

    def coder(self) -> SAE | Transcoder | CrossLayerTranscoder | Crosscoder:
        """The coder as it is now, for rows as the model makes them."""
        settings, kind = self.config.coder, self.config.kind
        rows = self.step * self.config.schedule.batch
        metadata = {**self.metadata, "training_steps": self.step, "training_rows": rows, "seed": self.config.seed}
        layers = [
            folded(
                settings,
                layer_weights(self.weights, layer) if self.layers > 1 else self.weights,
                scale_in=scale_in,
                scale_out=scale_out,
                threshold=self._threshold(layer),
            )
            for layer, (scale_in, scale_out) in enumerate(self._scales_of_layers())
        ]
        if kind == "cross_layer":
            return export_cross_layer(settings, layers, metadata=metadata)
        if kind == "crosscoder":
            return export_crosscoder(
                settings, layers[0], sites=len(self.sites), apply_b_dec=self.apply_b_dec, metadata=metadata
            )
        return export(
            settings, layers[0], apply_b_dec=self.apply_b_dec, transcoder=kind == "transcoder", metadata=metadata
        )

    def _threshold(self, layer: int) -> float:
        """The moving average. One that started at 0 is too small after few steps: as Adam does, divide by the weight it has
        gathered."""
        gathered = 1 - (1 - self.config.sparsity.threshold_rate) ** self.step
        return self.thresholds[layer] / gathered if gathered > 0 else 0.0

    def _scales_of_layers(self) -> Iterator[tuple[float | torch.Tensor, float | torch.Tensor]]:
        """For each layer, the scale of what it reads and the scales of what it writes, one for each column of its decoder."""
        scales = torch.tensor(self.scales, dtype=torch.float64)
        if self.config.kind == "crosscoder":
            each = scales.repeat_interleave(self.weights["decoder"].shape[1] // len(scales))
            yield each, each
        elif self.config.kind == "cross_layer":
            width = len(self.weights["layers.0.b_dec"])
            written = scales[self.layers :].repeat_interleave(width)
            for layer in range(self.layers):
                yield self.scales[layer], written[layer * width :]
        else:
            yield self.scales[0], self.scales[-1]

    # ------------------------------------------------------------------------------------------------ checkpoints

    def save(self, buffer: RingBuffer) -> Path:
        """Write a checkpoint from which the run goes on as if it had not stopped. Of the buffer it holds the sites of this coder."""
        assert self.optimiser is not None
        numbers, tensors = buffer.state(list(dict.fromkeys(self.sites)))
        tensors = {f"buffer.{name}": value for name, value in tensors.items()}
        tensors |= {f"weight.{name}": value for name, value in self.weights.items()}
        tensors |= {f"optimiser.{name}": value for name, value in self.optimiser.state().items()}
        tensors["since_fired"] = self.since_fired
        record = {
            "step": self.step,
            "thresholds": self.thresholds,
            "scales": self.scales,
            "buffer": numbers,
            "config": self.config.to_dict(),
        }
        return save_checkpoint(self.folder, record, tensors)

    def restore(self) -> BufferState | None:
        """Take the checkpoint in the folder of the run; the state of the buffer with the sites of this coder, or None if there is no
        checkpoint.

        Raises:
            ArgumentError: it belongs to another configuration; the message says where they differ.
            FormatError: it is damaged.
        """
        found = load_checkpoint(self.folder)
        if found is None:
            return None
        numbers, tensors = found
        self._same_run(numbers["config"], self.folder)

        def part(prefix: str) -> dict[str, torch.Tensor]:
            return {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}

        self.weights = part("weight.")
        self.optimiser = self._optimiser()
        self.optimiser.restore(part("optimiser."))
        self.since_fired = tensors["since_fired"]
        self.step = int(numbers["step"])
        self.thresholds = [float(one) for one in numbers["thresholds"]]
        self.scales = [float(one) for one in numbers["scales"]]
        return numbers["buffer"], part("buffer.")

    def _same_run(self, saved: dict[str, Any], folder: Path) -> None:
        mine = self.config.to_dict()
        differing = []
        for part, value in mine.items():
            if part in _FREE_ON_RESUME:
                continue
            before = saved.get(part)
            if isinstance(value, dict) and isinstance(before, dict):
                differing += [
                    f"{part}.{name} was {before.get(name)!r}, is {now!r}"
                    for name, now in value.items()
                    if before.get(name) != now and (part, name) != ("schedule", "steps")
                ]
            elif before != value:
                differing.append(f"{part} was {before!r}, is {value!r}")
        if differing:
            raise ArgumentError(
                f"train: {folder} holds a checkpoint of another configuration: {'; '.join(differing)}; change it back, or "
                "choose another checkpoint.folder"
            )


def run(
    trainers: Sequence[Trainer], buffer: RingBuffer, *, interrupt: Interrupt, watch: Callable[[Trainer, Metrics], None]
) -> None:
    """Train to the last step, or until the data end, each step of all coders on one batch. Ctrl-C saves checkpoints and raises.

    Checkpoints of all are written when that of one is due, so that the coders can go on together.

    Raises:
        KeyboardInterrupt: after Ctrl-C, with checkpoints saved.
        NonFiniteError: a loss is NaN or infinite. The last checkpoints stay.
    """
    saved = {id(one): one.step for one in trainers}

    def save(which: Sequence[Trainer]) -> None:
        for one in which:
            if one.step > saved[id(one)]:
                one.save(buffer)
                saved[id(one)] = one.step

    active = [one for one in trainers if not one.finished]
    try:
        with ExitStack() as files:
            records = {id(one): files.enter_context(metrics_files(one.config, one.step)) for one in active}
            while active:
                interrupt.check()
                batch = buffer.next()
                if batch is None:
                    print(f"iam train: the data ended after {active[0].step} steps", file=sys.stderr)
                    break
                for one in active:
                    metrics = one.advance(batch)
                    watch(one, metrics)
                    if one.step % one.config.logging.every == 0 or one.finished:
                        records[id(one)](metrics)
                if any(one.step % one.config.checkpoint.every == 0 for one in active):
                    save(active)
                save([one for one in active if one.finished])
                active = [one for one in active if not one.finished]
    except KeyboardInterrupt:
        # at once means in the middle of a step: what is in memory then is no state to go on from
        if interrupt.requested and not interrupt.at_once:
            save(active)
        raise
    save(active)


@contextmanager
def metrics_files(config: TrainConfig, step: int) -> Iterator[Callable[[Metrics], None]]:
    """Writes metrics to ``metrics.jsonl``, and to TensorBoard if asked to. Lines after `step`, of a run that was stopped later
    than its checkpoint, are removed first."""
    path = Path(config.checkpoint.folder) / "metrics.jsonl"
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if line.strip() and json.loads(line)["step"] <= step]
        write_atomically(path, "".join(f"{line}\n" for line in kept).encode())
    board: Any = None
    if config.logging.tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        # TensorBoard hides what other files say of this step and later ones
        board = SummaryWriter(str(path.parent / "tensorboard"), purge_step=step + 1)
    try:
        with path.open("a", encoding="utf-8") as file:

            def record(metrics: Metrics) -> None:
                file.write(json.dumps({n: v if math.isfinite(v) else None for n, v in metrics.items()}) + "\n")
                file.flush()
                if board is not None:
                    for name, value in metrics.items():
                        board.add_scalar(name, value, int(metrics["step"]))

            yield record
    finally:
        if board is not None:
            board.close()
