"""Three attributions of one prompt: in one program, in three, and in eager torch.

    python tests/benchmarks/bench_attribution.py [--site resid_post.20] [--steps 8] [--repeats 3] [--json FILE]

Integrated gradients of three logit differences by the residual stream of SmolLM2, in one process. Every contender is
checked against the others before it is timed; they take turns, and the medians are compared.

* *one program*: the three attributions in one function under iam.jit. `iam-attribution-cache` shares the forward pass.
* *one program, without the pass*: the same with that pass left out of the pipeline.
* *three programs*: a function for each attribution, called one after the other.
* *torch, point by point*, *torch, all points at once*: autograd by hand, one attribution after the other, each with its own
  capture of the activation, through the same blocks: those below the site run once for each attribution, not once for each
  point. *At once* gives all points to one batched forward and backward pass, which no contender of ours does.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
from comparing import take_turns, without

import iam
from iam import _runtime

PROMPT = "The capital of France is the city of Paris, and the capital of Italy is"
TARGETS = ((" Rome", " Paris"), (" Rome", " Berlin"), (" Milan", " London"))


def one_attribution(prompt, site, h, baseline, points, weights, tokens):
    def difference(h):
        logits = prompt.run(h, from_=site, to="logits", tokens=tokens, positions=[-1])
        return logits[:, 0] - logits[:, 1]

    return iam.ops.grad(difference, h, baseline, points, weights)


def together(site, steps, pairs):
    def attributions(prompt):
        h = prompt.run(to=site)
        baseline = 0 * h
        points, weights = iam.ops.path(h, baseline, steps=steps)
        return [one_attribution(prompt, site, h, baseline, points, weights, pair) for pair in pairs]

    return attributions


def by_hand(prompt, site, steps, pairs, *, at_once):
    results = []
    for pair in pairs:
        h = prompt.run(to=site)
        points, weights = iam.ops.path(h, 0 * h, steps=steps)
        total = torch.zeros(h.shape, dtype=torch.float64)
        groups = [points] if at_once else list(points)
        for group, weight in zip(groups, [weights] if at_once else weights, strict=True):
            leaf = group.reshape(-1, *h.shape[1:]).requires_grad_()
            with torch.enable_grad():
                logits = prompt.run(leaf, from_=site, to="logits", tokens=pair, positions=[-1])
                (gradient,) = torch.autograd.grad((logits[..., 0] - logits[..., 1]).sum(), leaf)
            weight = weight.double().reshape(-1, *[1] * h.dim())
            total += (weight * gradient.reshape(-1, *h.shape).double()).sum(0)
        results.append((h.double() * total).float())
    return results


def check(calls):
    """All contenders agree within rounding of the model: float32 over its blocks, in another order where the shapes differ."""
    outputs = {
        name: [np.asarray(a).reshape(-1, np.asarray(a).shape[-1]) for a in call()] for name, call in calls.items()
    }
    reference = outputs["three programs"]
    for name, output in outputs.items():
        for a, b in zip(output, reference, strict=True):
            error = float(np.abs(a - b).max() / np.abs(b).max())
            assert error < 1e-4, f"{name} differs by {error:.1e} of the largest attribution"
    assert all(np.abs(a).max() > 0 for a in reference), "nothing was attributed"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--site", default="resid_post.20")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    torch.set_num_threads(_runtime.get_num_threads())
    model = iam.LanguageModel("smollm2")
    for parameter in model.model.parameters():  # torch: nobody wants the weights' gradients
        parameter.requires_grad_(False)
    prompt = model.on(PROMPT)
    pairs = [tuple(int(model.tokens(word)[0, 0]) for word in words) for words in TARGETS]
    site, steps = options.site, options.steps

    one = iam.jit(together(site, steps, pairs))
    three = [iam.jit(together(site, steps, [pair])) for pair in pairs]
    plain = without("iam-attribution-cache", together(site, steps, pairs), prompt)
    calls = {
        "one program": lambda: one(prompt),
        "one program, without the pass": lambda: plain(prompt),
        "three programs": lambda: [program(prompt)[0] for program in three],
        "torch, point by point": lambda: by_hand(prompt, site, steps, pairs, at_once=False),
        "torch, all points at once": lambda: by_hand(prompt, site, steps, pairs, at_once=True),
    }
    check(calls)
    times = take_turns(calls, options.repeats)
    print(f"{len(pairs)} attributions, {prompt.rows} tokens, {site}, {steps} points")
    for name, taken in times.items():
        print(f"  {name:32} {taken:10.1f} ms  {taken / times['three programs']:6.2f} of three programs")
    if options.json:
        options.json.write_text(json.dumps(times, indent=1))


if __name__ == "__main__":
    main()
