"""What the benchmarks of single passes share: a program without a pass, and contenders that take turns."""

import os
import statistics
import time

os.environ["IAM_CACHE"] = "0"  # programs are compiled in this process

import iam
from iam.compiler import _engine


def without(name, function, *arguments):
    """``function`` under iam.jit, compiled for these arguments by the pipelines of the JIT without the pass ``name``."""
    with _engine.LOCK, _engine.context():
        table = {pipeline.name: pipeline.passes.split(",") for pipeline in _engine.pipelines()}
    before = _engine.PIPELINES["llvm"]
    left = [",".join(p for p in table[part] if p != name) if name in table[part] else part for part in before]
    left = tuple(part for part in left if part)
    assert left != before, f"the pipelines of the JIT have no pass {name}"
    program = iam.jit(lambda *given: function(*given))
    _engine.PIPELINES["llvm"] = left
    try:
        program(*arguments)
    finally:
        _engine.PIPELINES["llvm"] = before
    return program


def take_turns(calls, repeats):
    """Median milliseconds of each call.

    In its turn a contender runs twice, and the second run counts: OpenMP's workers spin for some milliseconds after a call of
    torch's, on cores that others need.
    """
    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            call()
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) * 1e3 for name, taken in times.items()}
