"""Compare encode, top-k and decode with torch's, interleaved in one process.

    python cpp/bench/compare_torch.py [threads repeats rows...]    # default: 2 3 1024 64 8 1

`default` and `sparse` are what SAELens 6 does without and with `use_sparse_activations`. Ratios are to ours. CPU time
is what to compare on a shared machine.
"""

import sys
import time

import numpy as np
import torch

import iam._runtime as rt

D, FEATURES, K = 768, 24576, 32


def main() -> None:
    args = [int(a) for a in sys.argv[1:]] or [2, 3, 1024, 64, 8, 1]
    threads, repeats, row_counts = args[0], args[1], args[2:]
    torch.set_num_threads(threads)
    rt.set_num_threads(threads)
    g = torch.Generator().manual_seed(0)
    w = torch.randn(D, FEATURES, generator=g) / D**0.5
    b = torch.randn(FEATURES, generator=g) * 0.1
    w_dec = torch.randn(FEATURES, D, generator=g) / FEATURES**0.5

    def codes(x):
        values, indices = torch.topk(x @ w + b, K, dim=-1, sorted=False)
        return values.relu(), indices

    def default(x):
        v, i = codes(x)
        return torch.zeros(len(x), FEATURES).scatter_(-1, i, v) @ w_dec

    def sparse(x):
        v, i = codes(x)
        at = torch.stack([torch.arange(len(x)).repeat_interleave(K), i.flatten()])
        return torch.sparse.mm(torch.sparse_coo_tensor(at, v.flatten(), (len(x), FEATURES)), w_dec)

    def product(x):
        return torch.addmm(b, x, w)

    def encode(x):
        return rt.encode_topk(x.numpy(), w.numpy(), b.numpy(), None, K)

    def ours(x):
        values, indices = encode(x)
        return rt.decode(values, indices, None, w_dec.numpy())

    def cost(f, x):
        wall, cpu = time.perf_counter(), time.process_time()
        f(x)
        return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)

    print(f"{rt.cpu_level()}, {threads} threads; ms")
    for rows in row_counts:
        x = torch.randn(rows, D, generator=g)
        costs = {f: [] for f in (default, sparse, product, encode, ours)}
        for f in costs:
            f(x)
        for _ in range(repeats if rows > 100 else 4 * repeats):
            for f, seen in costs.items():
                seen.append(cost(f, x))
        best = {f: np.min(seen, axis=0) for f, seen in costs.items()}
        for f, seen in costs.items():
            ratios = [a[0] / o[0] for a, o in zip(seen, costs[ours], strict=True)]
            print(
                f"{rows:5d} rows  {f.__name__:8s} wall {best[f][0]:8.2f}  cpu {best[f][1]:8.2f}   to ours: "
                f"wall {best[f][0] / best[ours][0]:5.2f} (median {np.median(ratios):5.2f})  "
                f"cpu {best[f][1] / best[ours][1]:5.2f}"
            )
        values, indices = (torch.as_tensor(np.asarray(a)) for a in encode(x))
        pre = x.double() @ w.double() + b.double()
        same = (indices.long().sort(-1).values == pre.topk(K).indices.sort(-1).values).all(-1)
        exact = pre.gather(1, indices.long())
        error = ((values - exact).abs() / exact.abs()).max()
        print(f"{rows:5d} rows  {int(same.sum())} with the indices of float64; values within {error:.1e}")


main()
