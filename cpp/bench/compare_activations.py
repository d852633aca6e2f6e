"""Compare AbsTopK, GroupMax and matching pursuit with plain torch, interleaved in one process.

    python cpp/bench/compare_activations.py [threads repeats rows...]    # default: 2 3 1024 64 1

CPU time is what to compare on a shared machine. Ratios are to ours; `found` is the number of features per row.
"""

import sys
import time

import numpy as np
import torch

import iam._runtime as rt

D, FEATURES, K, STEPS = 576, 12288, 32, 24


def abstopk(x, w, b):
    pre = torch.addmm(b, x, w)
    at = pre.abs().topk(K, sorted=False).indices
    return pre.gather(-1, at), at


def groupmax(x, w, b):
    values, at = torch.addmm(b, x, w).view(len(x), K, FEATURES // K).max(-1)
    return values.relu(), at


def pursuit(x, w_dec):
    """Rows that end leave the products."""
    left, live = x.clone(), torch.arange(len(x))
    chosen = torch.full((len(x), STEPS), -1)
    found = []
    for step in range(STEPS):
        values, at = (left @ w_dec.T).max(-1)
        values = values.relu()
        left -= values[:, None] * w_dec[at]
        found.append((live, at, values))
        done = (values == 0) | (chosen[live] == at[:, None]).any(-1) | (left.norm(dim=-1) < 1e-2)
        chosen[live, step] = at
        left, live = left[~done], live[~done]
        if not len(live):
            break
    return found


def cost(f):
    wall, cpu = time.perf_counter(), time.process_time()
    f()
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)


def compare(name, rows, repeats, pair):
    costs = {side: [] for side in pair}
    for f in pair.values():
        f()
    for _ in range(repeats):
        for side, f in pair.items():
            costs[side].append(cost(f))
    best = {side: np.min(seen, axis=0) for side, seen in costs.items()}
    for side in pair:
        ratio = best[side] / best["ours"]
        print(
            f"{name:9s} {rows:5d} rows  {side:6s} wall {best[side][0]:9.2f}  cpu {best[side][1]:9.2f}   "
            f"to ours: wall {ratio[0]:5.2f}  cpu {ratio[1]:5.2f}"
        )


def compare_all(x, repeats, w, b, w_dec):
    rows, arrays = len(x), (x.numpy(), w.numpy(), b.numpy(), None, K)
    found = np.sort(rt.encode_abstopk(*arrays)[1]) == np.sort(abstopk(x, w, b)[1].numpy())
    assert found.all(-1).mean() > 0.99
    pair = {"torch": lambda: abstopk(x, w, b), "ours": lambda: rt.encode_abstopk(*arrays)}
    compare("abstopk", rows, repeats, pair)
    assert np.allclose(rt.encode_groupmax(*arrays)[0], groupmax(x, w, b)[0], atol=1e-4)
    pair = {"torch": lambda: groupmax(x, w, b), "ours": lambda: rt.encode_groupmax(*arrays)}
    compare("groupmax", rows, repeats, pair)
    rule = x.numpy(), w_dec.numpy(), None, 1e-2, STEPS, True
    values, _, offsets = rt.matching_pursuit(*rule)
    total = sum(float(v.sum()) for *_, v in pursuit(x, w_dec))
    assert abs(float(values.sum()) / total - 1) < 1e-3
    print(f"pursuit   {rows:5d} rows  found {offsets[-1] / rows:.1f}")
    pair = {"torch": lambda: pursuit(x, w_dec), "ours": lambda: rt.matching_pursuit(*rule)}
    compare("pursuit", rows, repeats, pair)


def main() -> None:
    args = [int(a) for a in sys.argv[1:]] or [2, 3, 1024, 64, 1]
    threads, repeats, row_counts = args[0], args[1], args[2:]
    torch.set_num_threads(threads)
    rt.set_num_threads(threads)
    g = torch.Generator().manual_seed(0)
    w = torch.randn(D, FEATURES, generator=g) / D**0.5
    b = torch.randn(FEATURES, generator=g) * 0.1
    w_dec = torch.nn.functional.normalize(torch.randn(FEATURES, D, generator=g))
    print(f"{rt.cpu_level()}, {threads} threads, d {D}, {FEATURES} features; ms")
    for rows in row_counts:
        compare_all(torch.randn(rows, D, generator=g), repeats, w, b, w_dec)


main()
