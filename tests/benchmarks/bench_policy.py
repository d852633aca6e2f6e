"""Five composed edits and a projection against one pass over memory.

    python tests/benchmarks/bench_policy.py [--rows 16384] [--d 2304] [--repeats 9] [--json FILE]

Add, ablate, clamp, add and ablate along five directions, then a projection onto a half-space, in one process and with one
number of threads: the compiled program, the same without `iam-policy-projection`, eager torch, torch.compile, and, as the
floor, one pass over the memory: a copy of the activations. Results are compared before anything is timed; contenders take
turns, and medians are compared.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
from comparing import take_turns, without

import iam
from iam import _runtime


def contenders(t, v, bound):
    def edited(h):
        h = iam.steer(h, v[0], 2.0)
        h = iam.steer(h, v[1], 1.0, "ablate")
        h = iam.steer(h, v[2], 3.0, "clamp")
        h = iam.steer(h, v[3], -1.0)
        h = iam.steer(h, v[4], 0.5, "ablate")
        return iam.project(h, "halfspace", v[5], bound)

    compiled = iam.jit(edited)
    compiled(t)
    single = without("iam-policy-projection", edited, t)

    w = torch.from_numpy(v)
    target = torch.empty_like(t)

    def in_torch(h):
        h = h + 2.0 * w[0]
        h = h - ((h @ w[1]) / (w[1] @ w[1]))[:, None] * w[1]
        u = w[2] / w[2].norm()
        h = h + (3.0 - h @ u)[:, None] * u
        h = h - w[3]
        h = h - 0.5 * ((h @ w[4]) / (w[4] @ w[4]))[:, None] * w[4]
        excess = (h @ w[5] - bound).clamp(min=0) / (w[5] @ w[5])
        return h - excess[:, None] * w[5]

    return {
        "one pass over memory (copy)": lambda: target.copy_(t),
        "compiled": lambda: compiled(t),
        "compiled, without the pass": lambda: single(t),
        "torch": lambda: in_torch(t),
        "torch.compile": (lambda f: lambda: f(t))(torch.compile(in_torch)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("rows", 16384), ("d", 2304), ("repeats", 9)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    torch.set_num_threads(_runtime.get_num_threads())
    rng = np.random.default_rng(0)
    x = rng.standard_normal((options.rows, options.d), dtype=np.float32)
    v = rng.standard_normal((6, options.d), dtype=np.float32)
    t = torch.empty(x.shape)  # aligned to cache lines, as activations of a model are
    t.copy_(torch.from_numpy(x))
    calls = contenders(t, v, 5.0)
    with torch.no_grad():
        results = {name: np.asarray(call()) for name, call in calls.items() if "memory" not in name}
        assert (results["compiled"].astype(np.float64) @ v[5] <= 5.0).all(), "the projection does not hold"
        for name, result in results.items():
            # six inner products of d terms each, in float32 in torch and in float64 here
            bound = 6 * options.d * 2.0**-24 * np.abs(x).max() * np.abs(v).max() * 4
            assert np.abs(result - results["compiled"]).max() <= bound, f"{name} differs by more than rounding"
        del results, result
        medians = take_turns(calls, options.repeats)
    floor = medians["one pass over memory (copy)"]
    size = x.nbytes / 1e6
    print(f"{options.rows} rows, d = {options.d}: {size:.0f} MB read and written, {torch.get_num_threads()} threads")
    for name, taken in medians.items():
        print(f"  {name:32} {taken:9.2f} ms  {taken / floor:6.2f} x one pass  {2 * size / taken:6.1f} GB/s")
    if options.json:
        options.json.write_text(json.dumps(medians, indent=1))


if __name__ == "__main__":
    main()
