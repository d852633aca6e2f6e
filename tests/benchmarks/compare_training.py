"""Whole training runs of SAELens and IAM on the same activations, from the same weights, batch by batch.

    iam train configs/smollm2_sae.yaml        # its data.cache is the folder below
    .venv-bench/bin/python tests/benchmarks/compare_training.py build/smollm2/activations [--site resid_post.15] [--steps 2000]

Reads a cache of activations (``data.cache`` of a training run; its last file is held out), or ``train-rows.npy`` and
``heldout-rows.npy`` (``[contexts, positions, d_in]`` or ``[rows, d_in]``). Rows are scaled to a mean norm of √d_in; attention sinks
(norm above ten times the median) are left out. TopK with AuxK, Adam, constant learning rate, no
decoder-norm rescaling: what both trainers have. Prints the explained variance on held-out rows and the CPU time of each run; the
runs take turns of 50 steps, so that what else the machine does hits both alike.
"""

import argparse
import json
import math
import pathlib
import tempfile
import time
import warnings
from typing import Any

import numpy as np
import torch

K, LR, DEAD_AFTER = 32, 1e-3, 100
TURN = 50


def read(folder: pathlib.Path, site: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows to train on and rows held out, as they are stored."""
    index = folder / "index.json"
    if not index.is_file():
        pair = (torch.from_numpy(np.load(folder / f"{name}-rows.npy")) for name in ("train", "heldout"))
        rows, held_out = (without_sinks(one.flatten(0, -2)) for one in pair)
        return rows, held_out
    from safetensors import safe_open

    shards = []
    for shard in json.loads(index.read_text())["shards"]:
        with safe_open(folder / shard["file"], framework="pt") as file:
            shards.append(without_sinks(file.get_tensor(site)))
    if len(shards) < 2:
        raise SystemExit(f"{folder}: expected at least two shards (the last is held out), got {len(shards)}")
    return torch.cat(shards[:-1]), shards[-1]


def without_sinks(rows: torch.Tensor) -> torch.Tensor:
    norms = torch.cat([block.float().norm(dim=1) for block in rows.split(65_536)])
    return rows[norms < 10 * norms.median()]


def explained_variance(x: torch.Tensor, reconstruct: Any) -> float:
    error = sum(float((reconstruct(block) - block).double().square().sum()) for block in x.split(2048))
    return 1 - error / float((x.double() - x.double().mean(0)).square().sum())


def saelens(d_in: int, d_sae: int, batch: int) -> tuple[Any, Any]:
    """The coder and a function that does one step and returns its loss."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(0)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d_in, d_sae=d_sae, k=K, rescale_acts_by_decoder_norm=False))
    config = SAETrainerConfig(
        n_checkpoints=0, checkpoint_path=None, save_final_checkpoint=False, total_training_samples=batch * 10**6,
        device="cpu", autocast=False, lr=LR, lr_end=LR, lr_scheduler_name="constant", lr_warm_up_steps=0, adam_beta1=0.9,
        adam_beta2=0.999, lr_decay_steps=0, n_restart_cycles=1, train_batch_size_samples=batch,
        dead_feature_window=DEAD_AFTER, feature_sampling_window=10**9, logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter(()))
    return sae, lambda x: float(trainer._train_step(sae=sae, sae_in=x).loss.detach())


def iam_trainer(sae: Any, steps: int, batch: int, folder: str) -> tuple[Any, Any]:
    """The weights and a function that does one step, from the weights of SAELens's coder."""
    from iam.training import TrainConfig
    from iam.training._steps import Optimiser
    from iam.training._trainer import Trainer

    config = TrainConfig.from_dict(
        {
            "coder": {
                "architecture": "topk",
                "d_sae": sae.cfg.d_sae,
                "k": K,
                "normalize_activations": "none",
                "normalize_decoder": False,
            },
            "schedule": {"steps": steps, "batch": batch},
            "optimiser": {"lr": LR},
            "sparsity": {"dead_after": DEAD_AFTER, "coefficient": 1.0, "aux_coefficient": 1.0},
            "checkpoint": {"folder": folder},
        }
    )
    trainer = Trainer(config)
    trainer.apply_b_dec = sae.cfg.apply_b_dec_to_input
    names = {"W_enc": "encoder", "W_dec": "decoder"}
    trainer.weights = {names.get(name, name): value.detach().clone() for name, value in sae.named_parameters()}
    trainer.weights["encoder"] = trainer.weights["encoder"].T.contiguous()
    trainer.optimiser = Optimiser(trainer.weights, config.optimiser)

    def step(x: torch.Tensor) -> float:
        return float(trainer.advance([x])["loss"])

    return trainer.weights, step


def decode(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    pre = torch.addmm(weights["b_enc"], x - weights["b_dec"], weights["encoder"].T)
    values, indices = pre.topk(K, dim=1)
    mixed = torch.nn.functional.embedding_bag(
        indices, weights["decoder"], per_sample_weights=values.relu_(), mode="sum"
    )
    return mixed + weights["b_dec"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, help="a cache of activations, or of .npy files")
    parser.add_argument("--site", default="resid_post.15", help="of the cache (default resid_post.15)")
    parser.add_argument("--d-sae", type=int, default=4608, help="features (default 4608)")
    parser.add_argument("--steps", type=int, default=2000, help="steps of each run (default 2000)")
    parser.add_argument("--batch", type=int, default=1024, help="rows of a step (default 1024)")
    parser.add_argument("--threads", type=int, help="of both (default: as many as there are cores)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the numbers there, too")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")

    if args.threads:
        from iam import _runtime

        torch.set_num_threads(args.threads)
        _runtime.set_num_threads(args.threads)
    rows, held_out = read(args.folder, args.site)
    generator = torch.Generator().manual_seed(0)
    sample = rows[torch.randperm(len(rows), generator=generator)[:20_000]].float()
    scale = math.sqrt(rows.shape[1]) / float(sample.norm(dim=1).mean())
    held_out = held_out[torch.randperm(len(held_out), generator=generator)[:8192]].float() * scale

    sae, their_step = saelens(rows.shape[1], args.d_sae, args.batch)
    with tempfile.TemporaryDirectory() as folder:
        weights, our_step = iam_trainer(sae, args.steps, args.batch, folder)
    order = torch.randperm(len(rows), generator=generator)
    spent = {"SAELens": 0.0, "IAM": 0.0}
    losses: dict[str, list[float]] = {"SAELens": [], "IAM": []}
    curve = []
    for first in range(0, args.steps, TURN):
        last = min(args.steps, first + TURN)
        batches = []
        for step in range(first, last):
            at = step * args.batch % (len(rows) - args.batch + 1)
            batches.append(rows[order[at : at + args.batch]].float() * scale)
        for name, one in (("SAELens", their_step), ("IAM", our_step)):
            start = time.process_time()
            with torch.set_grad_enabled(name == "SAELens"):
                losses[name] += [one(x) for x in batches]
            spent[name] += time.process_time() - start
        if last % 500 == 0 or last == args.steps:
            with torch.no_grad():
                found = {
                    "SAELens": explained_variance(held_out, sae),
                    "IAM": explained_variance(held_out, lambda x: decode(weights, x)),
                }
            curve.append({"step": last, **found, "cpu_seconds": dict(spent)})
            print(
                f"step {last:5d}: explained variance, held out: SAELens {found['SAELens']:.4f}, IAM {found['IAM']:.4f}; "
                f"loss {losses['SAELens'][-1]:.4f}, {losses['IAM'][-1]:.4f}; "
                f"CPU {spent['SAELens']:.0f} s, {spent['IAM']:.0f} s: {spent['SAELens'] / spent['IAM']:.1f}x",
                flush=True,
            )
    if args.json is not None:
        args.json.write_text(json.dumps({"arguments": vars(args), "curve": curve, "loss": losses}, default=str) + "\n")


if __name__ == "__main__":
    main()
