"""Error-preserving steering of a few features: with and without demand-driven encode, and in torch.

    python tests/benchmarks/bench_demand.py [--rows 256] [--d 2304] [--features 16384] [--repeats 5] [--json FILE]

``x + decode(edit(f)) - decode(f)`` with JumpReLU, in one process. Every contender is checked against the others before
it is timed. *encode+decode* is ``decode(encode(x))`` in torch, dense, as SAELens does it; the steered program in torch
costs a second decode. Contenders take turns, and the medians are compared.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
from comparing import take_turns, without

import iam
from iam import _runtime

SCALE = 0.05  # of the weights: pre-activations of about 2.4, so that a threshold of 4 leaves some 5 % of the features


def contenders(sae, x, features):
    def steered(x):
        f = sae.encode(x)
        return x + sae.decode(f.scale(features, 3.0)) - sae.decode(f)

    with_pass = iam.jit(steered)
    with_pass(x)
    whole = without("iam-demand-driven-encode", steered, x)

    W_enc, b_enc, W_dec, b_dec, threshold = (
        torch.from_numpy(w) for w in (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, sae.threshold)
    )
    t, index = torch.from_numpy(x), torch.tensor(features)

    def encode(x):
        pre = x @ W_enc + b_enc
        return torch.relu(pre) * (pre > threshold)

    def decode(f):
        return f @ W_dec + b_dec

    def reconstruct(x):
        return decode(encode(x))

    def steer(x):
        f = encode(x)
        g = f.clone()
        g[:, index] *= 3.0
        return x + decode(g) - decode(f)

    return {
        "compiled": lambda: with_pass(x),
        "compiled, without the pass": lambda: whole(x),
        "torch, encode+decode": lambda: reconstruct(t),
        "torch, steered": lambda: steer(t),
        "torch.compile, encode+decode": (lambda f: lambda: f(t))(torch.compile(reconstruct)),
        "torch.compile, steered": (lambda f: lambda: f(t))(torch.compile(steer)),
    }


def check(calls, x, sae, features):
    """All steered outputs agree, those with and without the pass to the bit.

    Torch subtracts two reconstructions: the bound of docs/passes/iam-clt-fusion.md, with k active features a row. And it sums a
    pre-activation in another order, which moves an edited feature by up to (d + 2) u sum |x| |W_enc|, and its two
    decodes, scaled by 3 and by 1.
    """
    outputs = {name: np.asarray(call()) for name, call in calls.items()}
    f = np.asarray(sae.encode(x).to_dense())
    g = f.copy()
    g[:, features] *= 3
    u, W_dec = 2.0**-24, np.abs(sae.W_dec)
    k = np.count_nonzero(f, axis=1)[:, None]
    bound = (2 * k + 4) * u * (np.abs(x) + (f + g) @ W_dec)
    bound += 4 * (x.shape[1] + 2) * u * np.abs(x) @ np.abs(sae.W_enc[:, features]) @ W_dec[features]
    reference = outputs["compiled, without the pass"]
    assert np.array_equal(outputs["compiled"], reference), "the pass changed a bit"
    for name, output in outputs.items():
        if name.endswith("steered"):
            assert (np.abs(output - reference) <= bound).all(), f"{name} differs by more than rounding"
    assert not np.array_equal(reference, x), "nothing was steered"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("rows", 256), ("d", 2304), ("features", 16384), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    torch.set_num_threads(_runtime.get_num_threads())
    rng = np.random.default_rng(0)
    d, n = options.d, options.features

    def normal(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    cfg = iam.SAEConfig(architecture="jumprelu", d_in=d, d_sae=n, apply_b_dec_to_input=False)
    sae = iam.SAE(
        cfg,
        W_enc=normal(d, n) * SCALE,
        b_enc=np.zeros(n, np.float32),
        W_dec=normal(n, d) * SCALE,
        b_dec=np.zeros(d, np.float32),
        threshold=np.full(n, 4.0, np.float32),
    )
    x = normal(options.rows, d)
    found = {}
    for count in (1, 16):
        features = sorted(rng.choice(n, count, replace=False).tolist())
        calls = contenders(sae, x, features)
        with torch.no_grad():
            check(calls, x, sae, features)
            times = take_turns(calls, options.repeats)
        found[count] = times
        print(f"{count} of {n} features, {options.rows} rows, d = {d}")
        for name, taken in times.items():
            print(f"  {name:32} {taken:10.2f} ms  {taken / times['compiled']:8.1f} x compiled")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
