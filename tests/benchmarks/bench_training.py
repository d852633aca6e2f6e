"""One TopK training step: IAM's trainer against SAELens's TopKTrainingSAE and torch, from the same weights.

    python tests/benchmarks/bench_training.py [--rounds 5] [--threads 2] [--dead 8] [--small] [--json FILE]

"IAM" is ``Trainer.advance`` of ``iam.training`` with all that it measures, "IAM kernels" the same step written with the kernels
alone, what it could cost. A step is what SAELens's trainer does: forward, mean squared error, backward, clipping of the gradient's
norm to 1, Adam, and the count of which features fired. ``rescale_acts_by_decoder_norm`` is off, so that all contenders do the
same mathematics; their losses are compared step by step. Steps alternate in one process, so that what else the machine does
hits all alike. Memory is the growth of a fresh process's peak while it makes the coder and takes three steps.
Run it with the Python of an environment that has SAELens; without it, torch alone is compared.
"""

import argparse
import contextlib
import gc
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

os.environ.setdefault("HF_HUB_OFFLINE", "1")

LR = 3e-4
TARGET_SPEED, TARGET_MEMORY = 4.0, 2.0
Weights = dict[str, Any]
Step = Callable[[Any], float]


def initial(d: int, features: int, seed: int = 0) -> Weights:
    """SAELens's initialisation: decoder rows of length 0.1, the encoder their transpose, biases 0."""
    rng = np.random.default_rng(seed)
    W_dec = rng.standard_normal((features, d), dtype=np.float32)
    W_dec *= 0.1 / np.linalg.norm(W_dec, axis=1, keepdims=True)
    zeros = np.zeros(features, np.float32)
    return {"W_enc": np.ascontiguousarray(W_dec.T), "b_enc": zeros, "W_dec": W_dec, "b_dec": np.zeros(d, np.float32)}


def batches(rows: int, d: int, seed: int = 1) -> Callable[[], Any]:
    """Activations with some structure: sparse sums of 2,000 fixed directions, and noise."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((2000, d), dtype=np.float32) / np.float32(d**0.5)

    def draw() -> Any:
        weights = rng.standard_normal((rows, 2000), dtype=np.float32)
        weights *= rng.random((rows, 2000), dtype=np.float32) < 0.02
        return weights @ directions * np.float32(4) + 0.1 * rng.standard_normal((rows, d), dtype=np.float32)

    return draw


def dead_features(features: int, share: int) -> Any:
    """Every `share`-th feature, none for 0."""
    return np.arange(0, features, share, dtype=np.int32) if share else np.zeros(0, np.int32)


def trainer_step(w: Weights, k: int, share: int) -> Step:
    """What `iam train` does with a batch."""
    import torch

    from iam.training import TrainConfig
    from iam.training._steps import Optimiser
    from iam.training._trainer import Trainer

    features = len(w["b_enc"])
    config = TrainConfig.from_dict(
        {
            "coder": {
                "architecture": "topk",
                "d_sae": features,
                "k": k,
                "normalize_activations": "none",
                "normalize_decoder": False,
            },
            "schedule": {"steps": 10**6},
            "optimiser": {"lr": LR},
            "sparsity": {"aux_coefficient": 1.0},
            "checkpoint": {"folder": "unused"},  # nothing is written without Trainer.save
        }
    )
    trainer = Trainer(config)
    trainer.weights = {name: torch.from_numpy(a) for name, a in w.items() if name.startswith("b_")}
    trainer.weights |= {"encoder": torch.from_numpy(w["W_enc"]).T, "decoder": torch.from_numpy(w["W_dec"])}
    trainer.optimiser = Optimiser(trainer.weights, config.optimiser)
    dead = torch.from_numpy(dead_features(features, share)).long()

    def step(x: Any) -> float:
        trainer.since_fired.zero_()
        trainer.since_fired[dead] = 10**9  # as dead as those of the others, whether they fired or not
        return trainer.advance([torch.from_numpy(x)])["loss"]

    return step


def kernel_step(w: Weights, k: int, share: int, lazy: bool = False) -> Step:
    from iam import _runtime as rt

    d, features = w["W_enc"].shape
    m, v = ({n: np.zeros((features, d) if n == "W_enc" else a.shape, np.float32) for n, a in w.items()} for _ in "mv")
    fired = np.zeros(features, np.int64)
    dead = dead_features(features, share)
    t = 0
    rates = np.full(1 << 20, LR)
    last = {n: np.zeros(features, np.int64) for n in ("W_enc", "W_dec")} if lazy else None

    def step(x: Any) -> float:
        nonlocal t
        t += 1
        rows = len(x)
        values, indices = rt.encode_topk(x, w["W_enc"], w["b_enc"], w["b_dec"], k)
        on = rt.train_group(values, indices, None, features)
        if last is not None and t > 1:
            rt.train_adam_catch_up(
                w["W_dec"], m["W_dec"], v["W_dec"], last["W_dec"], on[0], lr=rates[: t - 1], step=t - 1
            )
        upstream = rt.decode(values, indices, None, w["W_dec"], w["b_dec"])
        upstream -= x
        loss = rt.train_sum_squares(upstream) / rows
        centred = x - w["b_dec"]
        group, weights, b_dec = on, values, np.float32(2 / rows) * rt.train_column_sums(upstream)
        if len(dead):  # AuxK: its entries are rows of their own in one CSR
            k_aux = min(d // 2, len(dead))
            scale = min(len(dead) / (d // 2), 1.0)
            aux, aux_indices = rt.train_encode_among(x, w["W_enc"], w["b_enc"], w["b_dec"], dead, k_aux)
            missing = rt.decode(aux, aux_indices, None, w["W_dec"])
            missing += upstream
            loss += scale * rt.train_sum_squares(missing) / rows
            missing *= np.float32(scale)
            upstream, centred = np.concatenate([upstream, missing]), np.concatenate([centred, centred])
            weights = np.concatenate([values.ravel(), aux.ravel()])
            indices = np.concatenate([indices.ravel(), aux_indices.ravel()])
            offsets = np.concatenate([[0], np.cumsum(np.repeat([k, k_aux], rows))])
            group = rt.train_group(weights, indices, offsets, features)
        upstream *= np.float32(2 / rows)
        active = group[0]
        d_pre = rt.train_grad_values(group, upstream, w["W_dec"], weights)
        sums = rt.train_grad_sums(group, d_pre, len(upstream))
        b_dec -= rt.train_grad_input(w["W_enc"], active, sums)
        b_enc = np.zeros(features, np.float32)
        b_enc[active] = sums
        dec, enc = (group, weights, upstream), (group, d_pre, centred)
        norm = sum(rt.train_sum_squares(g) for g in (dec, enc, b_enc, b_dec)) ** 0.5
        how: dict[str, Any] = {"step": t, "scale": min(1.0, 1.0 / (norm + 1e-6))}
        for name, grad in (("b_enc", b_enc), ("b_dec", b_dec)):
            rt.train_adam(w[name], grad, m[name], v[name], lr=LR, **how)
        for name, grad, update in (("W_dec", dec, rt.train_adam_rows), ("W_enc", enc, rt.train_adam_columns)):
            more = {"lr": LR} if last is None else {"lr": rates[:t], "last": last[name]}
            update(w[name], m[name], v[name], grad, **how, **more)
        fired[on[0]] += np.diff(on[1])
        return loss

    return step


def torch_step(w: Weights, k: int, share: int) -> Step:
    """A dense step as one writes it first: topk, scatter, two products, autograd, Adam."""
    import torch

    p = {name: torch.nn.Parameter(torch.from_numpy(a.copy())) for name, a in w.items()}
    optimiser = torch.optim.Adam(p.values(), lr=LR)
    fired = torch.zeros(len(w["b_enc"]))
    dead = torch.from_numpy(dead_features(len(w["b_enc"]), share)).long()

    def step(x: Any) -> float:
        xs = torch.from_numpy(x)
        pre = (xs - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
        top = torch.topk(pre, k, sorted=False)
        f = torch.zeros_like(pre).scatter(1, top.indices, torch.relu(top.values))
        error = f @ p["W_dec"] + p["b_dec"] - xs
        loss = (error**2).sum(1).mean()
        if len(dead):
            half = xs.shape[1] // 2
            top = torch.topk(pre[:, dead], min(half, len(dead)), sorted=False)
            aux = torch.zeros_like(pre).scatter(1, dead[top.indices], top.values) @ p["W_dec"]
            loss = loss + min(len(dead) / half, 1.0) * ((aux + error.detach()) ** 2).sum(1).mean()
        with torch.no_grad():
            fired.add_((f > 0).sum(0))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(p.values(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        return float(loss.detach())

    return step


def saelens_step(w: Weights, k: int, share: int, sparse: bool = False) -> Step:
    """SAETrainer._train_step without its logging."""
    import torch
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    d, features = w["W_enc"].shape
    config = TopKTrainingSAEConfig(
        d_in=d, d_sae=features, k=k, use_sparse_activations=sparse, rescale_acts_by_decoder_norm=False
    )
    sae = TopKTrainingSAE(config)
    with torch.no_grad():
        for name, a in w.items():
            getattr(sae, name).copy_(torch.from_numpy(a))
    optimiser = torch.optim.Adam(sae.parameters(), lr=LR)
    dead, fired = torch.zeros(features, dtype=torch.bool), torch.zeros(features)
    dead[torch.from_numpy(dead_features(features, share)).long()] = True

    def step(x: Any) -> float:
        sae.train()
        out = sae.training_forward_pass(TrainStepInput(torch.from_numpy(x), {}, dead, 0, False))
        with torch.no_grad():
            firing = out.feature_acts.bool().float()
            total = firing.sum(0)
            fired.add_(total.to_dense() if total.is_sparse else total)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        return float(out.loss.detach())

    return step


def contenders() -> dict[str, Callable[[Weights, int, int], Step]]:
    found: dict[str, Callable[[Weights, int, int], Step]] = {
        "IAM": trainer_step,
        "IAM kernels": kernel_step,
        "IAM kernels, lazy": lambda w, k, share: kernel_step(w, k, share, lazy=True),
        "torch": torch_step,
    }
    if importlib.util.find_spec("sae_lens"):
        found["SAELens"] = saelens_step
        found["SAELens sparse"] = lambda w, k, share: saelens_step(w, k, share, sparse=True)
    return found


def prepare(threads: int) -> None:
    import torch

    from iam import _runtime
    from iam.training import _trainer  # noqa: F401 (the memory of imports belongs to the baseline)

    warnings.filterwarnings("ignore", message="Sparse invariant checks")
    torch.set_num_threads(threads)
    _runtime.set_num_threads(threads)
    if importlib.util.find_spec("sae_lens"):
        import sae_lens  # noqa: F401


def resident(key: str) -> float:
    """VmRSS or VmHWM of this process, MB."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {key}")


def memory(name: str, shape: tuple[int, int, int, int], share: int, threads: int) -> float:
    """Growth of the peak of this process, MB; weights and moments of the contender count, the batch does not."""
    d, features, k, rows = shape
    prepare(threads)
    x = batches(rows, d)()
    x @ np.ones((d, 8), np.float32)  # what NumPy sets up once
    gc.collect()
    before = resident("VmRSS")
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # starts VmHWM again
    step = contenders()[name](initial(d, features), k, share)
    for _ in range(3):
        step(x)
    return resident("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--small", action="store_true", help="96 x 768, for a look at the script itself")
    parser.add_argument("--dead", type=int, default=0, help="AuxK with every DEAD-th feature dead; 0: none")
    parser.add_argument("--only", nargs="*", help="names of contenders")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    shape = (96, 768, 8, 128) if args.small else (768, 24_576, 32, 2048)
    if args.memory_of:
        print(memory(args.memory_of, shape, args.dead, args.threads))
        return

    d, features, k, rows = shape
    names = [n for n in contenders() if not args.only or n in args.only]
    peak = {}
    for name in names:
        command = [
            sys.executable,
            __file__,
            "--memory-of",
            name,
            "--threads",
            str(args.threads),
            "--dead",
            str(args.dead),
        ]
        done = subprocess.run(command + ["--small"] * args.small, capture_output=True, text=True, check=True)
        peak[name] = float(done.stdout.split()[-1])

    prepare(args.threads)
    draw = batches(rows, d)
    steps = {name: contenders()[name](initial(d, features), k, args.dead) for name in names}
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    losses: dict[str, list[float]] = {name: [] for name in names}
    for number in range(args.rounds + 1):
        x = draw()
        for name, step in steps.items():
            t, c = time.perf_counter(), time.process_time()
            losses[name].append(step(x))
            if number:  # the first round warms up
                wall[name].append(time.perf_counter() - t)
                cpu[name].append(time.process_time() - c)

    print(f"TopK step, {d} x {features:,}, k {k}, {rows:,} rows, {args.threads} threads; IAM = 1")
    print(f"{'':18}{'ms':>9}{'CPU ms':>9}{'ratio':>8}{'CPU':>7}{'peak MB':>9}{'ratio':>8}   last loss")
    result = {}
    for name in names:
        ratios = [statistics.median(a / b for a, b in zip(s[name], s["IAM"], strict=True)) for s in (wall, cpu)]
        result[name] = {
            "ms": 1e3 * statistics.median(wall[name]),
            "cpu_ms": 1e3 * statistics.median(cpu[name]),
            "ratio": ratios[0],
            "cpu_ratio": ratios[1],
            "peak_mb": peak[name],
            "losses": losses[name],
        }
        print(
            f"{name:18}{result[name]['ms']:9.1f}{result[name]['cpu_ms']:9.1f}{ratios[0]:8.2f}{ratios[1]:7.2f}"
            f"{peak[name]:9.0f}{peak[name] / peak['IAM']:8.2f}   {losses[name][-1]:.6f}"
        )
    if "SAELens" in result:
        speed, space = result["SAELens"]["ratio"], peak["SAELens"] / peak["IAM"]
        print(
            f"target {TARGET_SPEED}x as fast as SAELens: {'met' if speed >= TARGET_SPEED else 'MISSED'} ({speed:.2f})"
        )
        print(
            f"target 1/{TARGET_MEMORY:.0f} of its memory: {'met' if space >= TARGET_MEMORY else 'MISSED'} ({space:.2f})"
        )
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
