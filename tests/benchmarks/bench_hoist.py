"""Attributions through a coder, with and without what is computed of its weights only, kept between calls.

    python tests/benchmarks/bench_hoist.py [--repeats 7] [--json FILE]

Integrated gradients of the reconstruction along a direction: the derivative of an encoder multiplies with its transpose, which
`iam-hoist-weights` makes once. Contenders are the compiled program and the same without that pass, which compute the same
numbers; they take turns, and medians are compared. The weights can be written to, so that each call looks at all of them.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
from comparing import take_turns, without

import iam
from iam import _runtime

SHAPES = ((2304, 16384, 8), (576, 4608, 8), (576, 4608, 128))


def contenders(d, n_features, rows, steps=4):
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((n_features, d), dtype=np.float32) / np.float32(d) ** 0.5
    zeros, threshold = np.zeros, np.full(n_features, 2.5, np.float32)
    sae = iam.SAE(
        iam.SAEConfig(architecture="jumprelu", d_in=d, d_sae=n_features),
        W_enc=np.ascontiguousarray(directions.T),
        b_enc=zeros(n_features, np.float32),
        W_dec=directions,
        b_dec=zeros(d, np.float32),
        threshold=threshold,
    )
    x, v = rng.standard_normal((rows, d), dtype=np.float32), rng.standard_normal(d, dtype=np.float32)

    def attributions(x):
        return iam.ops.integrated_gradients(lambda h: sae.decode(sae.encode(h)) @ v, x, steps=steps)

    kept, again = iam.jit(attributions), without("iam-hoist-weights", attributions, x)
    first, second = kept(x), again(x)
    assert np.array_equal(first, second), "keeping work on weights changed a result"
    assert np.abs(first).max() > 0, "nothing was attributed"
    return {"kept": lambda: kept(x), "computed at each call": lambda: again(x)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    torch.set_num_threads(_runtime.get_num_threads())
    results = {}
    for shape in SHAPES:
        times = take_turns(contenders(*shape), options.repeats)
        d, n_features, rows = shape
        print(f"{d} x {n_features:,}, {rows} rows")
        for name, taken in times.items():
            print(f"  {name:24} {taken:9.2f} ms  {taken / times['kept']:6.2f} x kept")
        results[f"{d}x{n_features}x{rows}"] = times
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
