"""The native kernels as Python sees them: no copies, no GIL, errors of ours. The C++ tests cover the arithmetic."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from iam import _runtime as rt
from iam.core import errors

F32 = NDArray[np.float32]


@pytest.fixture(params=rt.available_cpu_levels())
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    before = rt.cpu_level()
    rt.set_cpu_level(request.param)
    yield request.param
    rt.set_cpu_level(before)


def normal(*shape: int, seed: int = 0) -> F32:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def test_encode_topk_is_the_topk_of_a_float64_product(level: str) -> None:
    x, w, b, center = normal(21, 96), normal(96, 1500, seed=1), normal(1500, seed=2), normal(96, seed=3)
    values, indices = rt.encode_topk(x, w, b, center, 20)
    pre = (x.astype(np.float64) - center) @ w + b
    # (2 d + 3) roundings of 2^-24 each, times the sum of magnitudes; x86-64-v2 rounds products, too.
    bound = (2 * 96 + 3) * 2.0**-24 * 1.01 * (np.abs(x.astype(np.float64) - center) @ np.abs(w) + np.abs(b))
    chosen = np.take_along_axis(pre, indices, 1)
    assert (np.abs(values - np.maximum(chosen, 0)) <= np.take_along_axis(bound, indices, 1)).all()
    kth = np.sort(pre, axis=1)[:, -20]
    assert (chosen >= kth[:, None] - 2 * bound.max(1, keepdims=True)).all()


def test_fused_and_dense_paths_agree_bit_for_bit(level: str) -> None:
    x, w, b = normal(37, 65), normal(65, 777, seed=1), normal(777, seed=2)
    pre = rt.encode_dense(x, w, b)
    for fused, dense in zip(rt.encode_topk(x, w, b, None, 9), rt.topk(pre, 9), strict=True):
        np.testing.assert_array_equal(fused, dense)
    for fused, dense in zip(rt.encode_threshold(x, w, b, None, np.abs(b)), rt.threshold(pre, np.abs(b)), strict=True):
        np.testing.assert_array_equal(fused, dense)


def test_row_by_row_equals_the_batch(level: str) -> None:
    x, w, b = normal(11, 40), normal(40, 900, seed=1), normal(900, seed=2)
    values, indices = rt.encode_topk(x, w, b, None, 7)
    for r in range(11):
        one = rt.encode_topk(x[r : r + 1], w, b, None, 7)
        np.testing.assert_array_equal(one[0][0], values[r])
        np.testing.assert_array_equal(one[1][0], indices[r])


# ---- memory


def peak_of(call: object) -> int:
    """Bytes of pool memory that a call needed at once."""
    before = rt.pool_stats()["bytes_in_use"]
    rt.pool_reset_peak()
    call()  # type: ignore[operator]
    return rt.pool_stats()["peak_bytes"] - before


def test_results_live_in_the_pool_and_go_back() -> None:
    h, v = normal(8, 64), normal(64, seed=1)
    before = rt.pool_stats()
    out = rt.steer(h, v, 2.0, 0)
    address = rt.data_pointer(out)
    assert address % 64 == 0
    assert rt.pool_stats()["blocks_in_use"] == before["blocks_in_use"] + 1
    view = out[2:]
    del out
    assert rt.pool_stats()["blocks_in_use"] == before["blocks_in_use"] + 1, "a view keeps the block"
    del view
    assert rt.pool_stats()["blocks_in_use"] == before["blocks_in_use"]
    again = rt.steer(h, v, 2.0, 0)
    assert rt.data_pointer(again) == address, "the block is reused"
    assert rt.pool_stats()["reuses"] > before["reuses"]


def test_inputs_are_not_copied() -> None:
    """A weight matrix that is copied would show in the pool or in the process; strided rows count as no copy, too."""
    w = normal(1000, 256)
    values, indices = np.ones((3, 2), np.float32), np.array([[0, 999]] * 3, np.int32)
    y = rt.decode(values, indices, None, w)
    np.testing.assert_array_equal(y[0], w[0] + w[999])
    wide = normal(1000, 300)[:, :256]
    np.testing.assert_array_equal(rt.decode(values, indices, None, wide)[0], wide[0] + wide[999])
    import tracemalloc

    tracemalloc.start()
    assert peak_of(lambda: rt.decode(values, indices, None, w)) < 8192
    assert peak_of(lambda: rt.decode(values, indices, None, wide)) < 8192
    peak = tracemalloc.get_traced_memory()[1]  # NumPy reports its allocations here
    tracemalloc.stop()
    assert peak < w.nbytes // 4


def test_torch_tensors_are_read_in_place() -> None:
    torch = pytest.importorskip("torch")
    t = torch.randn(5, 64)
    a = t.numpy()
    assert rt.data_pointer(a) == t.data_ptr()
    out = rt.steer(a, np.ones(64, np.float32), 1.0, 0)
    back = torch.from_numpy(out)
    assert back.data_ptr() == rt.data_pointer(out)
    assert torch.equal(back, t + 1)


def test_other_layouts_are_understood() -> None:
    x, w, b = normal(6, 20), normal(20, 50, seed=1), normal(50, seed=2)
    expected = rt.encode_dense(x, w, b)
    np.testing.assert_array_equal(rt.encode_dense(np.asfortranarray(x), np.asfortranarray(w), b), expected)
    np.testing.assert_array_equal(rt.encode_dense(x[::-1], w, b), expected[::-1])
    np.testing.assert_array_equal(rt.encode_dense(x, w, np.repeat(b, 2)[::2]), expected)


def test_the_fused_encoder_holds_no_dense_codes() -> None:
    x, w, b = normal(512, 32), normal(32, 8192, seed=1), normal(8192, seed=2)
    assert peak_of(lambda: rt.encode_topk(x, w, b, None, 8)) < 512 * 8192 * 4 // 2


# ---- threads


def test_kernels_release_the_gil() -> None:
    x, w, b = normal(512, 512), normal(512, 8192, seed=1), normal(8192, seed=2)
    ticks = 0
    done = threading.Event()

    def count() -> None:
        nonlocal ticks
        while not done.is_set():
            ticks += 1
            time.sleep(0.0005)

    counter = threading.Thread(target=count)
    counter.start()
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        before = ticks
        rt.encode_topk(x, w, b, None, 16)
        during = ticks - before
    finally:
        sys.setswitchinterval(switch)
        done.set()
        counter.join()
    assert during > 2, "no other Python thread ran during the kernel"


def test_number_of_threads_does_not_change_a_bit() -> None:
    x, w, b = normal(40, 48), normal(48, 3000, seed=1), normal(3000, seed=2)
    before = rt.get_num_threads()
    try:
        results = []
        for n in (1, 2, 3):
            rt.set_num_threads(n)
            assert rt.get_num_threads() == n
            results.append(rt.encode_topk(x, w, b, None, 12))
    finally:
        rt.set_num_threads(before)
    for values, indices in results[1:]:
        np.testing.assert_array_equal(values, results[0][0])
        np.testing.assert_array_equal(indices, results[0][1])


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True, check=False
    )


def test_environment_variables() -> None:
    show = "from iam import _runtime as rt; print(rt.get_num_threads(), rt.cpu_level())"
    weakest = rt.available_cpu_levels()[0]
    assert run(show, IAM_NUM_THREADS="3", IAM_CPU_LEVEL=weakest).stdout.split() == ["3", weakest]
    refused = run(show, IAM_CPU_LEVEL="x86-64-v9")
    assert refused.returncode != 0
    assert "IAM_CPU_LEVEL: expected a CPU level" in refused.stderr and weakest in refused.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kernels_work_after_fork() -> None:
    code = """
import os, numpy as np
from iam import _runtime as rt
x, w, b = np.ones((64, 8), np.float32), np.ones((8, 2000), np.float32), np.zeros(2000, np.float32)
rt.encode_topk(x, w, b, None, 3)
pid = os.fork()
values, _ = rt.encode_topk(x, w, b, None, 3)
assert (values == 8).all()
if pid: raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
os._exit(0)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


# ---- errors


def test_errors_are_ours() -> None:
    x, w, b = normal(3, 8), normal(8, 20, seed=1), normal(20, seed=2)
    with pytest.raises(errors.ArgumentError, match=r"expected k in 1\.\.20 \(features\), got k=21") as info:
        rt.encode_topk(x, w, b, None, 21)
    assert info.value.code == "k-range"
    with pytest.raises(errors.ShapeError, match="W_enc of shape"):
        rt.encode_topk(x[:, :7], w, b, None, 2)
    with pytest.raises(errors.ShapeError, match=r"expected x of rank 2, got shape \(8,\)"):
        rt.encode_topk(x[0], w, b, None, 2)
    with pytest.raises(errors.DtypeError, match="x of dtype float32, got float64"):
        rt.encode_topk(x.astype(np.float64), w, b, None, 2)  # type: ignore[arg-type]
    with pytest.raises(errors.DtypeError, match="NumPy array, got list"):
        rt.encode_topk([[1.0]], w, b, None, 2)  # type: ignore[arg-type]
    bad = x.copy()
    bad[1, 5] = np.nan
    with pytest.raises(errors.NonFiniteError, match="got nan at row 1, column 5"):
        rt.encode_topk(bad, w, b, None, 2)
    with pytest.raises(errors.ArgumentError, match="got 20 in row 0") as info:
        rt.decode(np.ones((1, 1), np.float32), np.array([[20]], np.int32), None, normal(20, 4))
    assert info.value.code == "feature-range"
    with pytest.raises(errors.ArgumentError, match="expected a CPU level"):
        rt.set_cpu_level("pentium")
    with pytest.raises(errors.ArgumentError, match="set_num_threads"):
        rt.set_num_threads(0)
    with pytest.raises(errors.ArgumentError, match="mode") as info:
        rt.steer(x, normal(8), 1.0, 9)
    assert info.value.code == "mode"
    with pytest.raises(errors.ArgumentError) as info:
        rt.edit(np.ones((1, 1), np.float32), np.zeros((1, 1), np.int32), None, np.array([2, 2], np.int32), 3)
    assert info.value.code == "feature-duplicate"


# ---- compiled programs, stood in for by a function of ctypes


Packed = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_void_p))


class Descriptor(ctypes.Structure):
    _fields_ = [
        ("allocated", ctypes.c_void_p),
        ("aligned", ctypes.c_void_p),
        ("offset", ctypes.c_int64),
        ("extents", ctypes.c_int64 * 4),
    ]


@Packed
def hand_through(args: ctypes.Array[ctypes.c_void_p]) -> None:
    """result = the first argument itself, as a program that returns its input would."""
    result = ctypes.cast(args[0], ctypes.POINTER(ctypes.POINTER(Descriptor)))[0]
    given = ctypes.cast(args[1], ctypes.POINTER(ctypes.POINTER(Descriptor)))[0]
    result[0] = given[0]


def test_program_passes_descriptors_and_never_frees_an_argument() -> None:
    address = ctypes.cast(hand_through, ctypes.c_void_p).value
    assert address
    program = rt.Program(address, [("f32", 2), ("f32", -1)], [("f32", 2)])
    x = normal(3, 4)
    (y,) = program(x, 1.5)
    np.testing.assert_array_equal(x, y)
    assert rt.data_pointer(y) != rt.data_pointer(x)
    (z,) = program(x.T.copy().T, 2)  # another layout
    np.testing.assert_array_equal(x, z)
    with pytest.raises(errors.ArgumentError, match="expected 2 arguments, got 1"):
        program(x)
    with pytest.raises(errors.ShapeError, match="argument 0 of rank 2"):
        program(x[0], 1.0)
    with pytest.raises(errors.DtypeError, match="argument 0 of dtype float32"):
        program(x.astype(np.float64), 1.0)
    with pytest.raises(errors.DtypeError, match="expected a number as argument 1"):
        program(x, "1")  # type: ignore[arg-type]
    with pytest.raises(errors.ArgumentError):
        rt.Program(0, [], [])
