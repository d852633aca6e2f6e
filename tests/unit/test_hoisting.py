"""What depends on weights only is computed once, and again when they change."""

import copy
import os
import pickle
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import iam
from iam.compiler import compile_module
from iam.compiler._once import Once, _state
from iam.core.errors import IamError, NonFiniteError
from iam.core.lazy import native

RNG = np.random.default_rng(11)
X = RNG.standard_normal((5, 8)).astype(np.float32)
V = RNG.standard_normal((3, 8)).astype(np.float32)
STRENGTHS = [1.0, -2.0, 0.5]


def expected(x, v=None):
    return x + iam.compose(V if v is None else v, STRENGTHS, "orthogonal")


def compose(x, vectors, strengths, rule):
    """The op in the program; ``iam.compose`` of arrays is computed while recording."""
    return x._trace._op_compose(vectors, strengths, rule)


def composing(v):
    """A compiled function that composes the directions ``v``, which it refers to."""
    held = [v]  # in a list of arrays: no guard of iam.jit looks into it

    @iam.jit
    def composed(x):
        return x + compose(x, held[0], STRENGTHS, "orthogonal")

    return composed


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def inits(function):
    return function.stats()["weight_inits"]


def test_once_for_many_calls():
    function = composing(V.copy())
    for rows in (5, 1, 0, 3):
        close(function(X[:rows]), expected(X[:rows]))
    assert inits(function) == 1


def test_bit_for_bit_what_the_op_gives_at_every_call():
    function = composing(V.copy())
    np.testing.assert_array_equal(function(X), (X + iam.compose(V, STRENGTHS, "orthogonal")))


def test_a_change_in_place_is_noticed():
    v = V.copy()
    function = composing(v)
    close(function(X), expected(X))
    v[1, 2] += 1.0
    close(function(X), expected(X, v))
    v[...] = V
    close(function(X), expected(X))
    assert inits(function) == 3
    assert function.stats()["recordings"] == 1


def test_a_change_in_place_of_a_tensor_is_noticed():
    torch = pytest.importorskip("torch")
    v = torch.from_numpy(V.copy())
    function = composing(v)
    close(function(X), expected(X))
    v.mul_(2.0)
    close(function(X), expected(X, 2 * V))
    assert inits(function) == 2


def test_another_array_is_another_recording_or_set():
    vectors = V.copy()

    @iam.jit
    def composed(x):
        return x + compose(x, vectors, STRENGTHS, "orthogonal")

    close(composed(X), expected(X))
    vectors = 3 * V
    close(composed(X), expected(X, 3 * V))


@pytest.mark.parametrize("at", [(0, 0), (0, 5), (1, 4095)])
def test_large_arrays_that_can_change(at):
    """One element of many is enough."""
    v = RNG.standard_normal((2, 4096)).astype(np.float32)
    x = np.zeros((2, 4096), np.float32)
    held = [v]
    function = iam.jit(lambda x: x + compose(x, held[0], [1.0, 1.0], "sum"))
    for _ in range(2):
        close(function(x), np.broadcast_to(v.sum(0), x.shape))
    assert inits(function) == 1
    v[at] += 1.0
    for _ in range(2):
        close(function(x), np.broadcast_to(v.sum(0), x.shape))
    assert inits(function) == 2
    assert function.stats()["recordings"] == 1


def test_what_is_not_noticed_can_be_said():
    torch = pytest.importorskip("torch")
    memory = V.copy()
    v = torch.from_numpy(memory)
    function = composing(v)
    close(function(X), expected(X))
    memory[1, 2] += 1.0  # torch does not see it
    function.weights_changed()
    close(function(X), expected(X, memory))
    assert inits(function) == 2


def test_arithmetic_of_weights():
    W = RNG.standard_normal((8, 2048)).astype(np.float32)
    b = RNG.standard_normal(8).astype(np.float32)
    text = """
    func.func @main(%x: tensor<?x2048xf32>, %w: tensor<8x2048xf32> {iam.weight}, %b: tensor<8x2048xf32> {iam.weight})
        -> (tensor<?x2048xf32>, tensor<8x2048xf32>) {
      %p = arith.mulf %w, %b : tensor<8x2048xf32>
      %q = arith.subf %p, %w : tensor<8x2048xf32>
      %y = arith.negf %x : tensor<?x2048xf32>
      return %y, %q : tensor<?x2048xf32>, tensor<8x2048xf32>
    }"""
    B = np.ascontiguousarray(np.broadcast_to(b[:, None], W.shape))
    for array in (W, B):
        array.flags.writeable = False
    module = compile_module(text)
    x = RNG.standard_normal((3, 2048)).astype(np.float32)
    for _ in range(2):
        y, q = module(x, W, B)
        close(y, -x)
        close(q, W * B - W)
        q[...] = 0  # the caller's own: what is kept stays
    assert module._once.runs == 1
    # Other arrays; the first ones are still known.
    close(module(x, B, W)[1], W * B - B)
    close(module(x, W, B)[1], W * B - W)
    assert module._once.runs == 2
    module.weights_changed()
    close(module(x, W, B)[1], W * B - W)
    assert module._once.runs == 3
    W = W * 2  # one that can be written to
    for _ in range(2):
        close(module(x, W, B)[1], W * B - W)
    assert module._once.runs == 4
    W[7, 2047] += 1
    close(module(x, W, B)[1], W * B - W)
    assert module._once.runs == 5
    assert "main.init" in module.mlir("llvm") or "iam_program.init" in module.mlir("llvm")


FEATURES = """
    func.func @main(%x: tensor<?x8xf32>, %v: tensor<?x8xf32> {iam.weight}, %w: tensor<8x16xf32> {iam.weight},
                    %b: tensor<16xf32> {iam.weight}) -> (tensor<?x8xf32>, !iam.features<?x16xf32, k = 2>) {
      %f = iam.clt.encode_sparse topk %v, %w, %b k = 2
          : (tensor<?x8xf32>, tensor<8x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32, k = 2>
      return %x, %f : tensor<?x8xf32>, !iam.features<?x16xf32, k = 2>
    }"""


def test_features_of_weights():
    module = compile_module(FEATURES)
    w, b = RNG.standard_normal((8, 16)).astype(np.float32), np.zeros(16, np.float32)
    for _ in range(2):
        _, f = module(X, V, w, b)
        pre = np.maximum(V @ w, 0)
        top = np.sort(pre, 1)[:, -2:]
        close(np.sort(f.to_numpy().values, 1), top)
    assert module._once.runs == 1


def make_sae(seed):
    rng = np.random.default_rng(seed)
    W_enc, W_dec = (rng.standard_normal(shape).astype(np.float32) for shape in ((8, 16), (16, 8)))
    cfg = iam.SAEConfig(architecture="topk", d_in=8, d_sae=16, k=4)
    return iam.SAE(cfg, W_enc=W_enc, b_enc=np.zeros(16, np.float32), W_dec=W_dec, b_dec=np.zeros(8, np.float32))


def test_errors_come_at_every_call_and_nothing_is_kept():
    module = compile_module(FEATURES)
    v, w, b = V.copy(), np.eye(8, 16, dtype=np.float32), np.zeros(16, np.float32)
    v[2, 1] = np.nan
    for _ in range(2):
        with pytest.raises(NonFiniteError, match="encode"):
            module(X, v, w, b)
    v[2, 1] = 0.0
    module(X, v, w, b)
    assert module._once.runs == 1


def test_coders_as_arguments_have_their_own():
    strengths = [0.1 * i for i in range(16)]

    @iam.jit
    def along_all(sae, x):
        return x + compose(x, sae.W_dec, strengths, "sum")

    saes = [make_sae(seed) for seed in (1, 2)]
    for sae in (*saes, *saes):
        close(along_all(sae, X), X + iam.compose(sae.W_dec, strengths, "sum"))
    assert inits(along_all) == 2
    assert along_all.stats()["compilations"] <= 1


def test_threads_compute_it_once():
    function = composing(V.copy())
    function.lower(X)
    results, start = [], threading.Barrier(8)

    def call():
        start.wait()
        results.append(function(X))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        close(result, expected(X))
    assert inits(function) == 1


KEPT = V.copy()


@iam.jit
def kept(x):
    return x + compose(x, KEPT, STRENGTHS, "orthogonal")


def test_a_pickle_holds_nothing_of_it():
    close(kept(X), expected(X))
    assert pickle.loads(pickle.dumps(kept)) is kept
    assert copy.deepcopy(kept) is kept
    assert len(pickle.dumps(kept)) < 1000


def test_from_the_disk(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent(
            """
            import numpy as np, iam
            V = np.arange(24, dtype=np.float32).reshape(3, 8) % 5
            f = iam.jit(lambda x: x + x._trace._op_compose(V, [1.0, 2.0, 3.0], "orthogonal"))
            x = np.ones((2, 8), np.float32)
            np.testing.assert_allclose(f(x), x + iam.compose(V, [1.0, 2.0, 3.0], "orthogonal"), rtol=1e-5)
            f(x)
            s = f.stats()
            print(int(s["cache_hits"]), s["weight_inits"])
            """
        )
    )
    environment = {**os.environ, "IAM_CACHE_DIR": str(tmp_path), "IAM_CACHE": "1"}
    said = [
        subprocess.run(
            [sys.executable, str(script)], env=environment, check=True, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    ]
    from iam.compiler import _object

    assert said == ["0 1\n", "1 1\n" if _object.supported() is None else "0 1\n"]


def test_explain_says_what_and_where():
    function = composing(V.copy())
    remarks = "\n".join(function.explain(X).remarks)
    line = compose.__code__.co_firstlineno + 2
    assert (
        f"test_hoisting.py:{line}: remark: iam.policy.compose is computed once for each set of weights (32 bytes)"
        in remarks
    )


def test_stablehlo_does_not_split():
    text = composing(V.copy()).stablehlo(X).text()
    assert ".init" not in text
    assert "iam.weight" not in text


def test_attributes_are_checked():
    with pytest.raises(IamError, match=r"expected iam\.weight of argument 0 to be a unit attribute, got true"):
        compile_module(
            "func.func @f(%v: tensor<4xf32> {iam.weight = true}) -> tensor<4xf32> { return %v : tensor<4xf32> }"
        )


@pytest.mark.parametrize("size", [0, 7, 4096, 4097, 300_001])
def test_state_of_arrays(size):
    array = RNG.standard_normal(size).astype(np.float32)
    before = _state(array, array)
    assert _state(array, array.copy()) == before
    for i in range(0, size, max(1, size // 3)):
        changed = array.copy()
        changed[i] = -changed[i]
        assert _state(changed, changed) != before


def test_state_of_arrays_that_cannot_change():
    array = np.ones(4097, np.float32)
    view = array[:]
    view.flags.writeable = False
    assert _state(view, view) is not None  # its base can be written to
    array.flags.writeable = False
    assert _state(view, view) is None


def test_fingerprints():
    """Changes that a weak hash misses: two signs, two rows, the same number elsewhere, zeros more or less."""
    W = RNG.standard_normal((257, 1031)).astype(np.float32)
    found = {native().fingerprint(W)}
    for step in (1, 2, 8, 16, 32):
        signs = W.copy()
        signs[0, 1] *= -1
        signs[0, 1 + step] *= -1
        found.add(native().fingerprint(signs))
    rows = W.copy()
    rows[[3, 200]] = rows[[200, 3]]
    found.add(native().fingerprint(rows))
    for size in (0, 1, 8, 63, 64, 65, 4096):
        found.add(native().fingerprint(np.zeros(size, np.uint8)))
    assert len(found) == 1 + 5 + 1 + 7
    before = native().get_num_threads()
    try:
        native().set_num_threads(1)
        assert native().fingerprint(W) in found
    finally:
        native().set_num_threads(before)
    with pytest.raises(ValueError, match="C-contiguous"):
        native().fingerprint(W.T)


def test_sets_of_weights_are_kept_and_dropped():
    once = Once(lambda v: (v * 2,))
    arrays = [np.full(3, i, np.float32) for i in range(6)]
    for _ in range(2):
        for array in arrays[:4]:
            assert once.values([array], [array])[0][0] == 2 * array[0]
    assert once.runs == 4
    for array in arrays[4:]:
        once.values([array], [array])
    assert once.runs == 6
    once.values([arrays[0]], [arrays[0]])
    assert once.runs == 7
    del array
    arrays.clear()
    other = np.zeros(3, np.float32)
    once.values([other], [other])
    assert len(once._kept) == 1
