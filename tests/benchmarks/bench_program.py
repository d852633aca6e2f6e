"""An analysis end to end: what features of a coder do to what the model says, in IAM and in SAELens + torch.

    python tests/benchmarks/bench_program.py [--features 16] [--steps 8] [--repeats 3] [--json FILE]

SmolLM2-135M and the autoencoder of its residual stream that the package carries, read by both tools. Of four prompts:

1. the features that are most active at their last tokens;
2. for each prompt and each of three pairs of words, integrated gradients of the difference of their logits by the residual
   stream;
3. the three differences with each feature ablated, one at a time, in every position, keeping what the coder does not explain.

Everything from the tokens on is timed, for IAM also the compilation. Results are compared before. Contenders:

* *IAM*: one program for each prompt's part of 2 and 3, compiled once. It starts at the coder's site, runs what the three
  attributions share once, and the ablations together.
* *SAELens + torch, a run for each*: SAELens's coder in a forward hook of the `transformers` model, a run for each point and
  each feature, as tutorials have it.
* *SAELens + torch, batched*: the same with all points, and all ablations, of a prompt as batches, the three gradients from
  one forward pass, weights without gradients, and logits at the last position alone: what an expert writes by hand.
"""

import argparse
import contextlib
import json
import pathlib
import tempfile
import warnings

import numpy as np
import torch
from comparing import take_turns

import iam
from iam import _runtime

PROMPTS = (
    "The capital of France is the city of Paris, and the capital of Italy is",
    "Rome was not built in a day, and it is still the largest city of",
    "In Germany they travelled from Munich to the capital, a train that arrives in",
    "She studied the history of the Roman empire for years before she moved to",
)
PAIRS = ((" Rome", " Paris"), (" Rome", " Berlin"), (" Milan", " London"))
SITE, LAYER = "resid_post.15", 15


def with_iam(model, sae, pairs, count, steps):
    flat = [token for pair in pairs for token in pair]

    def logits(prompt, h):
        return prompt.run(h, from_=SITE, to="logits", tokens=flat, positions=[-1])

    def difference(prompt, i):
        def metric(h):
            found = logits(prompt, h)
            return found[:, 2 * i] - found[:, 2 * i + 1]

        return metric

    def analysis():
        prompts = [model.on(text) for text in PROMPTS]
        features = strongest([sae.encode(prompt.run(to=SITE)[0, -1:]).to_dense() for prompt in prompts], count)

        @iam.jit
        def program(prompt):
            h = prompt.run(to=SITE)
            start = 0 * h
            points, weights = iam.ops.path(h, start, steps)
            gradients = [iam.ops.grad(difference(prompt, i), h, start, points, weights) for i in range(len(pairs))]
            f = sae.encode(h)
            ablated = [logits(prompt, h + sae.decode(f.ablate(j)) - sae.decode(f)) for j in features]
            return logits(prompt, h), gradients, ablated

        def numbers(prompt):
            before, gradients, after = program(prompt)
            said = np.array([np.asarray(a) for a in (before, *after)]).reshape(-1, len(pairs), 2)
            return np.array([np.asarray(g).reshape(-1, g.shape[-1]) for g in gradients]), said[..., 0] - said[..., 1]

        return features, *zip(*map(numbers, prompts), strict=True)

    return analysis


def strongest(codes, count):
    """The features with the largest sums over codes."""
    total = sum(np.asarray(c, np.float64).ravel() for c in codes)
    return np.argsort(-total, kind="stable")[:count].tolist()


@contextlib.contextmanager
def hook(model, function):
    """``function`` on the residual stream after the coder's layer."""

    def change(_module, _inputs, output):
        whole = output if isinstance(output, torch.Tensor) else output[0]
        changed = function(whole)
        if changed is None:
            return None
        return changed if isinstance(output, torch.Tensor) else (changed, *output[1:])

    handle = model.model.layers[LAYER].register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


def with_saelens(model, sae, tokens, pairs, count, steps, *, batched):
    left, right = (torch.tensor([pair[i] for pair in pairs]) for i in (0, 1))
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    nodes, weights = torch.from_numpy((nodes + 1) / 2).float(), torch.from_numpy(weights / 2)
    keep = {"logits_to_keep": 1} if batched else {}

    def differences(ids, copies=1):
        logits = model(ids.expand(copies, -1), use_cache=False, **keep).logits[:, -1]
        return logits[:, left] - logits[:, right]  # [copies, pairs]

    @torch.enable_grad()
    def attributions(ids, h):
        """Integrated gradients by h [1, positions, d], one for each pair."""
        total = torch.zeros(len(pairs), *h.shape[1:], dtype=torch.float64)
        for group in [slice(0, steps)] if batched else [slice(i, i + 1) for i in range(steps)]:
            for i in range(len(pairs)):
                if i == 0 or not batched:
                    leaf = (nodes[group, None, None] * h).requires_grad_()
                    with hook(model, lambda _, leaf=leaf: leaf):
                        found = differences(ids, leaf.shape[0])
                (gradient,) = torch.autograd.grad(found[:, i].sum(), leaf, retain_graph=batched and i + 1 < len(pairs))
                total[i] += (weights[group, None, None] * gradient.double()).sum(0)
        return (h.double() * total).float().numpy()

    def ablated(h, group):
        f = sae.encode(h)
        g = f.clone()
        for row, j in enumerate(group):
            g[row, :, j] = 0
        return h + sae.decode(g) - sae.decode(f)

    @torch.no_grad()
    def analysis():
        seen, said = [], []
        for ids in tokens:
            with hook(model, lambda h: seen.append(h)):
                said.append([differences(ids)])
        features = strongest([sae.encode(h)[0, -1] for h in seen], count)
        gradients = [attributions(ids, h) for ids, h in zip(tokens, seen, strict=True)]
        for ids, found in zip(tokens, said, strict=True):
            for group in [features] if batched else [[j] for j in features]:
                with hook(model, lambda h, group=group: ablated(h, group)):
                    found.append(differences(ids, len(group)))
        return features, gradients, [torch.cat(found).numpy() for found in said]

    return analysis


def check(calls):
    """All find the same features, and numbers within rounding of the model: float32 over its blocks."""
    results = {name: call() for name, call in calls.items()}
    features, *first = results["IAM"]
    for name, (others, *result) in results.items():
        assert others == features, f"{name}: other features"
        for ours, theirs, what in zip(first, result, ("gradients", "differences"), strict=True):
            for a, b in zip(ours, theirs, strict=True):
                error = float(np.abs(a - b).max() / np.abs(a).max())
                assert error < 1e-4, f"{name}: {what} differ by {error:.1e} of the largest"
    assert max(np.abs(said[1:] - said[0]).max() for said in first[1]) > 0.1, "no ablation changed anything"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("features", 16), ("steps", 8), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    import sae_lens

    torch.set_num_threads(_runtime.get_num_threads())
    model = iam.LanguageModel("smollm2")
    for parameter in model.model.parameters():
        parameter.requires_grad_(False)
    ours = iam.SAE.from_pretrained("iam", "smollm2-135m-resid_post-15")
    with tempfile.TemporaryDirectory() as folder:
        ours.save_model(folder, dtype="float32")
        theirs = sae_lens.SAE.load_from_disk(folder)
    pairs = [tuple(int(model.tokens(word)[0, 0]) for word in words) for words in PAIRS]
    tokens, arguments = [model.on(text).tokens for text in PROMPTS], (pairs, options.features, options.steps)
    calls = {
        "IAM": with_iam(model, ours, *arguments),
        "SAELens + torch, a run for each": with_saelens(model.model, theirs, tokens, *arguments, batched=False),
        "SAELens + torch, batched": with_saelens(model.model, theirs, tokens, *arguments, batched=True),
    }
    check(calls)
    times = take_turns(calls, options.repeats)
    lengths = ", ".join(str(ids.shape[1]) for ids in tokens)
    print(
        f"{len(PROMPTS)} prompts of {lengths} tokens; of each {len(pairs)} attributions of {options.steps} points, "
        f"{options.features} ablations"
    )
    for name, taken in times.items():
        print(f"  {name:34} {taken:10.1f} ms  {taken / times['IAM']:6.2f} x IAM")
    if options.json:
        options.json.write_text(json.dumps(times, indent=1))


if __name__ == "__main__":
    main()
