"""What a compiled function costs besides its kernels: the first call, and every later one.

    python tests/benchmarks/bench_overhead.py [--repeats 5] [--json FILE]

The programs of ``iam demo`` at its sizes. *First call*, in a fresh process without the time of importing: recording,
rewriting, machine code; and the same with the machine code in the cache on the disk, where not even MLIR is imported.
*Cached call*, at one row and a tiny coder, so that the kernels take next to nothing: the time
above that of the kernels called directly through ``iam._runtime``.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

FIRST_CALL = """
import json, time
import numpy as np
import os
import iam, iam.compiler, iam.vector.clt, iam._runtime
if os.environ["IAM_CACHE"] == "0":
    import iam.mlir.ir, iam.mlir.passmanager, iam.mlir.execution_engine
    from iam.mlir.dialects import arith, func, linalg, tensor

d, n, k = 576, 4608, 32
rng = np.random.default_rng(0)
draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
cfg = iam.SAEConfig(architecture="topk", d_in=d, d_sae=n, k=k)
sae = iam.SAE(cfg, W_enc=draw(d, n), b_enc=draw(n), W_dec=draw(n, d), b_dec=draw(d))
x = draw(1, d)

@iam.jit
def reconstruct(x):
    f = sae.encode(x)
    return f, sae.decode(f)

@iam.jit
def steered(x, strength):
    f = sae.encode(x)
    return x + sae.decode(f.set([7], strength)) - sae.decode(f)

found = {}
for program, args in ((reconstruct, (x,)), (steered, (x, 3.0))):
    start = time.perf_counter()
    program.lower(*args)
    found[program.name] = {"total": (time.perf_counter() - start) * 1e3, **program.stats()}
print(json.dumps(found))
"""


def first_calls(repeats, folder=None):
    """Medians over fresh processes: without the cache, or with that in ``folder``, which is filled first."""
    environment = {**os.environ, "IAM_CACHE": "0" if folder is None else "1", "IAM_CACHE_DIR": folder or ""}
    runs = []
    for _ in range(repeats + (folder is not None)):
        done = subprocess.run(
            [sys.executable, "-c", FIRST_CALL], capture_output=True, text=True, check=True, env=environment
        )
        runs.append(json.loads(done.stdout))
    if folder is not None:
        runs = runs[1:]
        assert all(run[name]["cache_hits"] == 1 for run in runs for name in run)
    return {
        name: {key: statistics.median(run[name][key] for run in runs) for key in ("total", "record_ms", "compile_ms")}
        for name in runs[0]
    }


def per_call(function, *args, budget=0.5):
    """Microseconds of a call: the median over batches that fill ``budget`` seconds."""
    function(*args)
    times = []
    stop = time.perf_counter() + budget
    while time.perf_counter() < stop:
        start = time.perf_counter()
        for _ in range(200):
            function(*args)
        times.append((time.perf_counter() - start) / 200 * 1e6)
    return statistics.median(times)


def cached_calls():
    import iam
    from iam import _runtime

    d, n, k = 8, 64, 4
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    cfg = iam.SAEConfig(architecture="topk", d_in=d, d_sae=n, k=k)
    sae = iam.SAE(cfg, W_enc=draw(d, n), b_enc=draw(n), W_dec=draw(n, d), b_dec=draw(d))
    x, v = draw(1, d), draw(d)

    @iam.jit
    def reconstruct(x):
        f = sae.encode(x)
        return f, sae.decode(f)

    @iam.jit
    def steered(x, strength):
        f = sae.encode(x)
        return x + sae.decode(f.set([7], strength)) - sae.decode(f)

    @iam.jit
    def steer(x, strength):
        return iam.steer(x, v, strength)

    @iam.jit
    def identity(x):
        return x

    feature = np.array([7], np.int32)
    strength = np.array([3.0], np.float32)

    def kernels_reconstruct(x):
        values, indices = _runtime.encode_topk(x, sae.W_enc, sae.b_enc, sae.b_dec, k)
        return _runtime.decode(values, indices, None, sae.W_dec, sae.b_dec)

    def kernels_steered(x, s):
        values, indices = _runtime.encode_topk(x, sae.W_enc, sae.b_enc, sae.b_dec, k)
        values, indices = _runtime.delta(values, indices, None, feature, 0, strength, None)
        return _runtime.residual(_runtime.decode(values, indices, None, sae.W_dec, None), x, None)

    containers = {"numpy": x}
    try:
        import torch

        containers["torch"] = torch.from_numpy(x)
    except ImportError:
        pass
    rows = []
    for name, program, kernels, extra in (
        ("identity", identity, lambda x: None, ()),
        ("steer", steer, lambda x, s: _runtime.steer(x, v, s, 0), (3.0,)),
        ("reconstruct", reconstruct, kernels_reconstruct, ()),
        ("steered", steered, kernels_steered, (3.0,)),
    ):
        direct = per_call(kernels, x, *extra)
        for container, given in containers.items():
            rows.append((name, container, per_call(program, given, *extra), direct))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="fresh processes for the first call (default 5)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the numbers there, too")
    options = parser.parse_args()
    print("first call, 576 x 4608, k = 32 (ms)        total   record  compile   goal: total < 200")
    first = first_calls(options.repeats)
    with tempfile.TemporaryDirectory() as folder:
        from_disk = first_calls(options.repeats, folder)
    for found, how in ((first, ""), (from_disk, ", code from the disk")):
        for name, ms in found.items():
            print(f"  {name + how:38s} {ms['total']:8.1f} {ms['record_ms']:8.1f} {ms['compile_ms']:8.1f}")
    print("\ncached call, 1 row (us)                     call  kernels    above   goal: above < 30")
    cached = cached_calls()
    for name, container, call, direct in cached:
        print(f"  {name + ', ' + container:38s} {call:8.1f} {direct:8.1f} {call - direct:8.1f}")
    if options.json is not None:
        keys = ("program", "container", "call_us", "kernels_us")
        report = {
            "first_call_ms": first,
            "first_call_from_disk_ms": from_disk,
            "cached_call": [dict(zip(keys, row, strict=True)) for row in cached],
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
