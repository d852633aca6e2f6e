"""The loop: schedules, dead features, constraints, metrics, checkpoints."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from iam.core.errors import ArgumentError, NonFiniteError
from iam.formats._atomic import write_atomically
from iam.training._checkpoint import load_checkpoint, save_checkpoint
from iam.training._config import TrainConfig
from iam.training._data import RingBuffer
from iam.training._export import export, folded
from iam.training._losses import LOSSES, Loss, Terms
from iam.training._steps import Optimiser

if TYPE_CHECKING:
    from iam.vector.clt import SAE, Transcoder

__all__ = ["Interrupt", "Trainer"]

_SAMPLE = 16_384
_FREE_ON_RESUME = ("checkpoint", "logging")

Metrics = dict[str, float]


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
    """A coder in training, on batches of a buffer.

    Args:
        config: The run.
        buffer: Where batches come from.
        transcoder: Whether the second rows of a batch are what is predicted.
        metadata: Of the coder: model and sites.

    Weights are made when the first rows are there, from ``config.seed``; :meth:`restore` puts back a checkpoint.
    """

    def __init__(
        self, config: TrainConfig, buffer: RingBuffer, *, transcoder: bool, metadata: dict[str, Any] | None = None
    ) -> None:
        self.config, self.buffer, self.transcoder = config, buffer, transcoder
        self.metadata = dict(metadata or {})
        given = config.coder.apply_b_dec_to_input
        self.apply_b_dec = not transcoder if given is None else given
        if transcoder and self.apply_b_dec:
            raise ArgumentError("train: coder.apply_b_dec_to_input: expected false for a transcoder, got true")
        if transcoder and config.coder.architecture == "gated":
            raise ArgumentError(
                "train: coder.architecture: gated is for SAEs: no published format holds a gated transcoder; expected one of "
                "batchtopk, jumprelu, matryoshka, standard, topk"
            )
        if config.coder.skip and not transcoder:
            raise ArgumentError("train: coder.skip: expected false for an SAE, got true; a skip is for a transcoder")
        self.step = 0
        self.threshold = 0.0
        self.scales = (1.0, 1.0)
        self.weights: dict[str, torch.Tensor] = {}
        self.optimiser: Optimiser | None = None
        self.since_fired = torch.zeros(config.coder.d_sae, dtype=torch.long)

    # ------------------------------------------------------------------------------------------------------ start

    def start(self) -> None:
        """Estimate scales and means on the first rows, and make the weights."""
        if self.weights:
            return
        sample = self.buffer.sample(_SAMPLE)
        if not len(sample[0]):
            raise ArgumentError("train: expected rows to train on, got none")
        if len(sample) != 1 + self.transcoder:
            raise ArgumentError(
                f"train: expected {'rows and targets' if self.transcoder else 'rows'}, got {len(sample)} arrays"
            )
        settings = self.config.coder
        if settings.normalize_activations == "expected_average":
            means = [float(one.double().norm(dim=1).mean()) for one in sample]
            if min(means) == 0:
                raise ArgumentError("train: expected rows that are not all zero")
            scales = [math.sqrt(one.shape[1]) / mean for one, mean in zip(sample, means, strict=True)]
            self.scales = (scales[0], scales[-1])
        x, y = sample[0] * self.scales[0], sample[-1] * self.scales[1]
        self.weights = self._initial(x.mean(0), y.mean(0))
        self.optimiser = Optimiser(self.weights, self.config.optimiser)

    def _initial(self, mean_in: torch.Tensor, mean_out: torch.Tensor) -> dict[str, torch.Tensor]:
        """Decoder rows in random directions. The encoder of an SAE is the decoder transposed; that of a transcoder, whose two
        sides have nothing to do with each other, is drawn too, and its bias centres the input."""
        settings = self.config.coder
        generator = torch.Generator().manual_seed(self.config.seed)
        norm = 1.0 if settings.normalize_decoder else settings.decoder_init_norm

        def directions(width: int) -> torch.Tensor:
            rows = torch.randn(settings.d_sae, width, generator=generator)
            return rows * (norm / rows.norm(dim=1, keepdim=True))

        decoder = directions(len(mean_out))
        encoder = directions(len(mean_in)) if self.transcoder else decoder.clone()
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

    def advance(self) -> Metrics | None:
        """One step; what it measured, or None when no batch is left."""
        batch = self.buffer.next()
        if batch is None:
            return None
        assert self.optimiser is not None
        began = time.perf_counter()
        config, step = self.config, self.step
        x = batch[0].mul_(self.scales[0])
        y = batch[1].mul_(self.scales[1]) if self.transcoder else x
        dead = self.since_fired > config.sparsity.dead_after
        loss = LOSSES[config.coder.architecture](self.weights, x, y, self._terms(step, dead))
        total = float(sum(loss.parts.values()))
        if not math.isfinite(total):
            parts = ", ".join(f"{name} {float(value):g}" for name, value in loss.parts.items())
            raise NonFiniteError(
                f"train: step {step}: expected a finite loss, got {total:g} ({parts}); lower optimiser.lr or "
                "sparsity.coefficient, and go on from the last checkpoint"
            )
        norm = self._condition(loss.gradients)
        rate = self.learning_rate(step)
        self.optimiser.step(loss.gradients, rate)
        self._project()
        self.since_fired = torch.where(loss.fired, 0, self.since_fired + 1)
        self._follow_threshold(loss)
        self.step += 1
        variance = float((y - y.mean(0)).square().sum())
        metrics = {
            "step": self.step,
            "loss": total,
            "fvu": float(loss.squared_error) / variance if variance else math.nan,
            "l0": loss.active / len(x),
            "dead": float(dead.float().mean()),
            "lr": rate,
            "gradient_norm": norm,
            "rows": len(x),
            "rows_per_second": len(x) / max(time.perf_counter() - began, 1e-9),
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
        )

    def _condition(self, gradients: dict[str, torch.Tensor]) -> float:
        """Drop what a decoder of norm 1 cannot follow, clip; the norm of all gradients before clipping."""
        if self.config.coder.normalize_decoder:
            decoder, gradient = self.weights["decoder"], gradients["decoder"]
            gradient.addcmul_(decoder, (gradient * decoder).sum(1, keepdim=True), value=-1)
        norm = math.hypot(*(float(torch.linalg.vector_norm(one)) for one in gradients.values()))
        limit = self.config.optimiser.clip
        if limit is not None and norm > limit:
            for one in gradients.values():
                one.mul_(limit / norm)
        return norm

    def _project(self) -> None:
        if self.config.coder.normalize_decoder:
            decoder = self.weights["decoder"]
            decoder.div_(decoder.norm(dim=1, keepdim=True).clamp_min(1e-8))
        if "threshold" in self.weights:
            self.weights["threshold"].clamp_(min=0)

    def _follow_threshold(self, loss: Loss) -> None:
        if self.config.coder.architecture in ("batchtopk", "matryoshka") and loss.smallest is not None:
            rate = self.config.sparsity.threshold_rate
            self.threshold = (1 - rate) * self.threshold + rate * float(loss.smallest)

    # ----------------------------------------------------------------------------------------------------- result

    def coder(self) -> SAE | Transcoder:
        """The coder as it is now, for rows as the model makes them."""
        threshold = self.threshold
        if self.config.coder.architecture in ("batchtopk", "matryoshka"):
            # an average that started at 0 is too small after few steps: as Adam does, divide by the weight it has gathered
            gathered = 1 - (1 - self.config.sparsity.threshold_rate) ** self.step
            threshold = threshold / gathered if gathered > 0 else 0.0
        weights = folded(
            self.config.coder,
            self.weights,
            scale_in=self.scales[0],
            scale_out=self.scales[1],
            threshold=threshold,
        )
        return export(
            self.config.coder,
            weights,
            apply_b_dec=self.apply_b_dec,
            transcoder=self.transcoder,
            metadata=self.metadata,
        )

    # ------------------------------------------------------------------------------------------------ checkpoints

    def save(self, folder: Path) -> Path:
        """Write a checkpoint from which the run goes on as if it had not stopped."""
        assert self.optimiser is not None
        numbers, tensors = self.buffer.state()
        tensors = {f"buffer.{name}": value for name, value in tensors.items()}
        tensors |= {f"weight.{name}": value for name, value in self.weights.items()}
        tensors |= {f"optimiser.{name}": value for name, value in self.optimiser.state().items()}
        tensors["since_fired"] = self.since_fired
        record = {
            "step": self.step,
            "threshold": self.threshold,
            "scales": list(self.scales),
            "buffer": numbers,
            "config": self.config.to_dict(),
        }
        return save_checkpoint(folder, record, tensors)

    def restore(self, folder: Path) -> bool:
        """Take the checkpoint in `folder`; False if there is none.

        Raises:
            ArgumentError: it belongs to another configuration; the message says where they differ.
            FormatError: it is damaged.
        """
        found = load_checkpoint(folder)
        if found is None:
            return False
        numbers, tensors = found
        self._same_run(numbers["config"], folder)

        def part(prefix: str) -> dict[str, torch.Tensor]:
            return {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}

        self.weights = part("weight.")
        self.optimiser = Optimiser(self.weights, self.config.optimiser)
        self.optimiser.restore(part("optimiser."))
        self.since_fired = tensors["since_fired"]
        self.step, self.threshold = int(numbers["step"]), float(numbers["threshold"])
        self.scales = (float(numbers["scales"][0]), float(numbers["scales"][1]))
        self.buffer.restore(numbers["buffer"], part("buffer."))
        return True

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

    # -------------------------------------------------------------------------------------------------------- run

    def run(self, *, interrupt: Interrupt, watch: Callable[[Metrics], None]) -> None:
        """Train to the last step, or until the data end; Ctrl-C saves a checkpoint and raises.

        Raises:
            KeyboardInterrupt: after Ctrl-C, with the checkpoint saved.
            NonFiniteError: the loss is NaN or infinite. The last checkpoint stays.
        """
        folder = Path(self.config.checkpoint.folder)
        saved = self.step
        try:
            with metrics_files(self.config, self.step) as record:
                while self.step < self.config.schedule.steps:
                    interrupt.check()
                    metrics = self.advance()
                    if metrics is None:
                        print(f"iam train: the data ended after {self.step} steps", file=sys.stderr)
                        break
                    watch(metrics)
                    if self.step % self.config.logging.every == 0 or self.step == self.config.schedule.steps:
                        record(metrics)
                    if self.step % self.config.checkpoint.every == 0:
                        self.save(folder)
                        saved = self.step
        except KeyboardInterrupt:
            # at once means in the middle of a step: what is in memory then is no state to go on from
            if interrupt.requested and not interrupt.at_once and self.step > saved:
                self.save(folder)
            raise
        if self.step > saved:
            self.save(folder)


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

        board = SummaryWriter(str(path.parent / "tensorboard"), purge_step=step)
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
