"""Compiled functions: containers, shapes, caches, errors, stages, threads."""

import gc
import re
import subprocess
import sys
import textwrap
import threading
import weakref

import numpy as np
import pytest

import iam
from iam import ops
from iam.compiler import PIPELINES, compile_module, pipelines
from iam.core.errors import ArgumentError, CompileError, DtypeError, NonFiniteError, ShapeError

D, F = 6, 21


def make_sae(architecture="topk", d_in=D, d_sae=F, k=4, seed=0, **cfg):
    rng = np.random.default_rng(seed)
    return iam.SAE(
        iam.SAEConfig(
            architecture=architecture, d_in=d_in, d_sae=d_sae, k=k if architecture == "topk" else None, **cfg
        ),
        W_enc=rng.normal(size=(d_in, d_sae)),
        b_enc=rng.normal(size=d_sae),
        W_dec=rng.normal(size=(d_sae, d_in)),
        b_dec=rng.normal(size=d_in),
        threshold=np.abs(rng.normal(size=d_sae)) if architecture == "jumprelu" else None,
    )


@pytest.fixture(scope="module")
def sae():
    return make_sae()


@pytest.fixture
def x(rng):
    return rng.normal(size=(5, D)).astype(np.float32)


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


# Containers, shapes, float types.


def test_numpy_in_numpy_out(sae, x):
    y = iam.jit(lambda x: sae(x))(x)
    assert type(y) is np.ndarray
    assert y.dtype == np.float32
    close(y, sae(x))


def test_torch_in_torch_out(sae, x):
    torch = pytest.importorskip("torch")

    @iam.jit
    def both(x):
        f = sae.encode(x)
        return f, sae.decode(f)

    f, y = both(torch.from_numpy(x))
    assert isinstance(y, torch.Tensor)
    assert isinstance(f.values, torch.Tensor)
    close(y, sae(x))
    close(f.to_dense(), sae.encode(x).to_dense())


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_other_float_types_come_back(sae, x, dtype):
    if dtype == "bfloat16":
        torch = pytest.importorskip("torch")
        given = torch.from_numpy(x).to(torch.bfloat16)
        compared = given.float().numpy()
    else:
        given = x.astype(dtype)
        compared = given.astype(np.float32)
    y = iam.jit(lambda x: sae(x))(given)
    assert y.dtype == given.dtype
    close(np.asarray(y.float() if dtype == "bfloat16" else y, np.float64), sae(compared), 3e-2)


@pytest.mark.parametrize("prefix", [(), (1,), (7,), (0,), (2, 3), (2, 0, 3), (1, 1, 1)])
def test_leading_dimensions(sae, rng, prefix):
    x = rng.normal(size=(*prefix, D)).astype(np.float32)

    @iam.jit
    def both(x):
        f = sae.encode(x)
        return {"f": f, "y": sae.decode(f)}

    result = both(x)
    assert result["y"].shape == x.shape
    assert result["f"].shape == (*prefix, F)
    close(result["y"], sae(x))


def test_one_compilation_for_every_batch_size(rng):
    sae = make_sae(seed=1)
    program = iam.jit(lambda x: sae(x) * 2.0)
    for shape in [(1, D), (0, D), (64, D), (3, 5, D), (257, D)]:
        x = rng.normal(size=shape).astype(np.float32)
        close(program(x), sae(x) * 2.0)
    assert program.stats()["compilations"] == 1
    assert program.stats()["recordings"] == 1


def test_strided_rows_and_columns(sae, rng):
    wide = rng.normal(size=(8, 3 * D)).astype(np.float32)
    program = iam.jit(lambda x: sae(x) + x)
    for view in (wide[:, :D], wide[::2, D : 2 * D], wide[:, ::3], wide[::-1, :D], np.asfortranarray(wide[:, :D])):
        close(program(view), sae(np.ascontiguousarray(view)) + view)


def test_transposed_torch(sae, rng):
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(rng.normal(size=(D, 4)).astype(np.float32)).T
    close(iam.jit(lambda x: sae(x))(x), sae(x.contiguous()))


# Identity and aliasing.


def test_identity(x):
    y = iam.jit(lambda x: x)(x)
    assert np.array_equal(y, x)
    assert not np.shares_memory(x, y)
    y[:] = 0.0
    assert not np.array_equal(y, x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x, x),
        lambda x: [x + 0.0, x * 1.0],
        lambda x: {"same": x, "other": x - 0.0},
        lambda x: (iam.steer(x, np.ones(D, np.float32), 0.0), x),
    ],
)
def test_results_never_share_memory_with_arguments(function, x):
    before = x.copy()
    results = iam.jit(function)(x)
    results = list(results.values()) if isinstance(results, dict) else results
    for y in results:
        assert np.array_equal(y, before)
        assert not np.shares_memory(x, y)
    for y in {id(y): y for y in results}.values():  # (x, x) is one object twice, as in Python
        assert np.array_equal(y, before)
        y[:] = -1.0
    assert np.array_equal(x, before)


def test_identity_of_features_and_vectors(sae, x):
    f = sae.encode(x)
    program = iam.jit(lambda x, f, v: (f, v, x + v))
    v = np.arange(D, dtype=np.float32)
    g, w, y = program(x, f, v)
    assert np.array_equal(g.values, f.values)
    assert np.array_equal(g.indices, f.indices)
    assert not np.shares_memory(g.values, f.values)
    assert np.array_equal(w, v)
    assert not np.shares_memory(w, v)
    close(y, x + v)


def test_results_outlive_the_program(sae, x):
    program = iam.jit(lambda x: sae(x) + 1.0)
    y = program(x)
    expected = y.copy()
    del program
    gc.collect()
    assert np.array_equal(y, expected)


# Arguments.


def test_floats_are_given_anew(sae, x):
    program = iam.jit(lambda x, s: x * s + (s - 1.0) / 2.0 - (-s))
    for s in (1.0, -2.5, 0.0):
        close(program(x, s), x * s + (s - 1.0) / 2.0 + s)
    assert program.stats()["compilations"] == 1


def test_numpy_numbers_are_floats(x):
    program = iam.jit(lambda x, s: x * s)
    close(program(x, np.float64(3.0)), x * 3.0)
    close(program(x, np.float32(4.0)), x * 4.0)
    close(program(x, np.array(5.0)), x * 5.0)
    assert program.stats()["recordings"] == 1


def test_ints_bools_and_strings_are_constants(sae, x):
    @iam.jit
    def edited(x, feature, mode, doubled):
        f = sae.encode(x).set(feature, 3.0)
        y = iam.steer(sae.decode(f), sae.W_dec[feature], 1.0, mode)
        return y * 2.0 if doubled else y

    for feature, mode, doubled in [(1, "add", True), (2, "add", False), (1, "ablate", True), (1, "add", True)]:
        expected = iam.steer(sae.decode(sae.encode(x).set(feature, 3.0)), sae.W_dec[feature], 1.0, mode)
        close(edited(x, feature, mode, doubled), expected * (2.0 if doubled else 1.0), 1e-4)
    assert edited.stats()["recordings"] == 3


def test_keywords_containers_and_defaults(sae, x):
    @iam.jit
    def combined(pair, *, scale=2.0, features=(1, 2)):
        a, b = pair["a"], pair["b"][0]
        return {"y": [a * scale + b], "f": sae.encode(a).ablate(features)}

    for options in ({}, {"scale": 3.0}, {"features": [5]}):
        result = combined({"a": x, "b": [x + 1.0]}, **options)
        close(result["y"][0], x * options.get("scale", 2.0) + x + 1.0)
        close(result["f"].to_dense(), sae.encode(x).ablate(options.get("features", (1, 2))).to_dense())


def test_vectors_as_arguments_and_from_outside(x):
    outside = np.arange(D, dtype=np.float64)
    program = iam.jit(lambda x, v: (x + v) * outside - v / (1.0 + outside))
    v = np.linspace(1, 2, D).astype(np.float32)
    close(program(x, v), (x + v) * outside - v / (1 + outside))
    outside[:] = 7.0  # 1.0 + outside is NumPy's business: it is computed anew
    close(program(x, v), (x + v) * outside - v / (1 + outside))
    assert program.stats()["recordings"] == 2


def test_large_and_torch_arrays_from_outside_are_watched(x):
    torch = pytest.importorskip("torch")
    large, tensor = np.zeros(100_000, np.float32), torch.zeros(D)
    program = iam.jit(lambda x: x + float(large.max()) + 2.0 * tensor)
    close(program(x), x)
    large += 1.0
    tensor.add_(2.0)
    close(program(x), x + 5.0)
    program(x)
    assert program.stats()["recordings"] == 2


def test_one_dimensional_arguments(sae, x):
    program = iam.jit(lambda x, v: (sae(x) + v, v * 2.0))
    y, w = program(x[0], x[1])
    assert y.shape == (D,)
    close(y, sae(x[0]) + x[1])
    close(w, x[1] * 2.0)


def test_rows_that_must_agree(x):
    program = iam.jit(lambda x, y: x + y)
    close(program(x, x), x + x)
    with pytest.raises(ShapeError, match=r"arguments x and y of the same leading dimensions, got \(5,\) and \(1,\)"):
        program(x, x[:1])
    free = iam.jit(lambda x, y: (x * 2.0, y * 3.0))
    a, b = free(x, x[:1])
    assert a.shape == (5, D)
    assert b.shape == (1, D)


def test_coder_arguments(x):
    first, second, other = make_sae(seed=1), make_sae(seed=2), make_sae("jumprelu", seed=3)
    program = iam.jit(lambda coder, x: iam.steer(coder(x), coder.W_dec[3], 2.0))
    for coder in (first, second, other, first, second):
        close(program(coder, x), iam.steer(coder(x), coder.W_dec[3], 2.0))
    # Two coders of one form share machine code.
    assert program.stats()["recordings"] == 3
    assert program.stats()["compilations"] == 2


def test_the_same_coder_twice_is_one_set_of_weights(sae, x):
    program = iam.jit(lambda a, b, x: a.decode(b.encode(x).set(3, 1.0)) - b.decode(a.encode(x)))
    program(sae, sae, x)
    same = program.mlir("iam")
    program(sae, make_sae(seed=5), x)
    assert same.count("tensor<21x6xf32>,") < program.mlir("iam").count("tensor<21x6xf32>,") or same != program.mlir(
        "iam"
    )
    assert "iam.clt.delta" in iam.jit(lambda a, x: a.decode(a.encode(x).set(3, 1.0)) - a.decode(a.encode(x))).lower(
        sae, x
    ).mlir("fused")


def test_coders_that_were_arguments_are_not_kept(x):
    program = iam.jit(lambda coder, x: coder(x))
    coder = make_sae(seed=4)
    program(coder, x)
    weights = weakref.ref(coder.W_enc)
    del coder
    program(make_sae(seed=5), x)
    gc.collect()
    assert weights() is None


def test_weights_changed_in_place_and_replaced(x):
    sae = make_sae("jumprelu", seed=6)
    program = iam.jit(lambda x: (sae(x), x + sae.W_dec[2]))
    close(program(x)[0], sae(x))
    sae.W_dec[:] *= 2.0
    y, z = program(x)
    close(y, sae(x))
    close(z, x + sae.W_dec[2])
    assert program.stats()["recordings"] == 1
    sae.fold_W_dec_norm()
    y, z = program(x)
    close(y, sae(x))
    close(z, x + sae.W_dec[2])
    assert program.stats()["compilations"] == 1


# What a function refers to.


def test_changed_names_are_noticed(x):
    factor, coder, features = 2.0, make_sae(seed=7), [1, 2]

    def helper(x):
        return coder.decode(coder.encode(x).ablate(features)) * factor

    program = iam.jit(lambda x: helper(x) + factor)

    def check():
        close(program(x), coder.decode(coder.encode(x).ablate(features)) * factor + factor)

    check()
    check()
    assert program.stats()["recordings"] == 1
    factor = 3.0
    check()
    features.append(5)
    check()
    coder = make_sae(seed=8)
    check()
    assert program.stats()["recordings"] == 4


def test_methods(sae, x):
    class Analysis:
        def __init__(self, shift):
            self.shift = shift

        @iam.jit
        def run(self, x):
            return x + self.shift

    one, two = Analysis(1.0), Analysis(2.0)
    close(one.run(x), x + 1.0)
    close(two.run(x), x + 2.0)
    close(one.run(x), x + 1.0)


def test_nested_jit(sae, x):
    inner = iam.jit(lambda x: sae(x), name="inner")
    outer = iam.jit(lambda x: x - inner(x), name="outer")
    close(outer(x), x - sae(x))
    assert outer.mlir("iam").count("func.func") == 1


# Errors.


def test_non_finite_input(sae, x):
    x[3, 2] = np.nan
    program = iam.jit(lambda x: sae(x))
    with pytest.raises(NonFiniteError, match=r"row 3.*2"):
        program(x)
    x[3, 2] = 0.0
    close(program(x), sae(x))  # the error is not kept


def test_zero_direction(x):
    program = iam.jit(lambda x, v: iam.steer(x, v, 1.0, "ablate"))
    with pytest.raises(ArgumentError):
        program(x, np.zeros(D, np.float32))


def test_gradients_are_refused(sae, x):
    torch = pytest.importorskip("torch")
    program = iam.jit(lambda x: sae(x))
    given = torch.from_numpy(x).requires_grad_()
    with pytest.raises(ArgumentError, match=r"argument x records gradients.*no_grad.*\.function"):
        program(given)
    with torch.no_grad():
        close(program(given), sae(x))
    program.function(given).sum().backward()
    assert given.grad is not None


def test_other_devices_are_refused(sae):
    torch = pytest.importorskip("torch")
    with pytest.raises(ArgumentError, match="argument x is on meta; compiled programs run on the CPU"):
        iam.jit(lambda x: sae(x))(torch.ones(2, D, device="meta"))


def test_wrong_dtype_at_a_later_call(sae, x):
    program = iam.jit(lambda x: sae(x))
    program(x)
    with pytest.raises(DtypeError, match="argument x"):
        program(np.ones((2, D), np.int32))


# Stages.


def test_stages(sae, x):
    @iam.jit(name="steered")
    def steered(x, s):
        f = sae.encode(x)
        return x + sae.decode(f.set([7], s)) - sae.decode(f)

    lowered = steered.lower(x, 1.0)
    assert steered.stats()["compilations"] == 1
    at = {stage: steered.mlir(stage) for stage in ("iam", "fused", "llvm")}
    assert at["iam"] == lowered.mlir()
    for op in ("iam.clt.encode", "iam.clt.topk", "iam.clt.edit set", "features [7]", "iam.clt.decode", "arith.addf"):
        assert op in at["iam"]
    assert "func.func @steered(%x: tensor<?x6xf32>, %s: f32, %sae_b_dec: tensor<6xf32>" in at["iam"]
    assert "iam.clt.encode_sparse topk" in at["fused"]
    assert "iam.clt.delta set" in at["fused"]
    assert at["fused"].count("iam.clt.decode") == 1
    assert "llvm.call @_mlir_ciface_iam_rt_encode_topk" in at["llvm"]
    assert "iam.clt" not in at["llvm"]
    close(steered(x, 3.0), x + sae.decode(sae.encode(x).set([7], 3.0)) - sae.decode(sae.encode(x)), 1e-4)
    assert steered.stats()["compilations"] == 1


def test_locations_are_python_lines(sae, x):
    program = iam.jit(lambda x: sae.encode(x))
    program.lower(x)
    line = program.function.__code__.co_firstlineno
    assert f'test_jit.py":{line}:' in program._last.text


def test_weights_are_arguments(sae, x):
    program = iam.jit(lambda x: sae(x))
    program(x)
    text = program.mlir("iam")
    assert "dense<" not in text
    assert "%sae_W_enc: tensor<6x21xf32>" in text


def test_the_table_of_pipelines():
    named = {pipeline.name for pipeline in pipelines()}
    assert {name for stage in PIPELINES.values() for name in stage} <= named
    assert all(pipeline.passes and pipeline.why for pipeline in pipelines())


# Text.

PROGRAM = """
func.func @main(%x: tensor<?x6xf32>, %s: f32) -> tensor<?x6xf32> {
  %c0 = arith.constant 0 : index
  %rows = tensor.dim %x, %c0 : tensor<?x6xf32>
  %all = tensor.splat %s[%rows] : tensor<?x6xf32>
  %y = arith.mulf %x, %all : tensor<?x6xf32>
  return %y : tensor<?x6xf32>
}
"""


def test_compile_module(x):
    double = compile_module(PROGRAM)
    close(double(x, 2.0), x * 2)
    assert double.name == "main"
    assert "llvm.func" in double.mlir("llvm")
    with pytest.raises(ShapeError, match=r"@main: argument 0: expected shape \?x6, got 5x5"):
        double(x[:, :5], 2.0)
    with pytest.raises(ArgumentError, match="expected 2 arguments, got 1"):
        double(x)
    with pytest.raises(DtypeError, match="argument 1: expected a number"):
        double(x, "2")


def test_compile_module_with_features(sae, x):
    text = """
    func.func @edit(%f: !iam.features<?x21xf32, k = 4>) -> (!iam.features<?x21xf32, k = 4>, tensor<?x21xf32>) {
      %g = iam.clt.edit ablate %f features [3, 5]
          : (!iam.features<?x21xf32, k = 4>) -> !iam.features<?x21xf32, k = 4>
      %d = iam.clt.densify %g : !iam.features<?x21xf32, k = 4> -> tensor<?x21xf32>
      return %g, %d : !iam.features<?x21xf32, k = 4>, tensor<?x21xf32>
    }
    func.func private @other(%x: tensor<?xf32>) -> tensor<?xf32> {
      return %x : tensor<?xf32>
    }
    """
    f = sae.encode(x)
    g, dense = compile_module(text)(f)
    close(dense, f.ablate([3, 5]).to_dense())
    close(g.to_dense(), dense)
    with pytest.raises(ShapeError, match="expected features"):
        compile_module(text, entry="edit")(make_sae(k=5).encode(x))
    with pytest.raises(CompileError, match="no function @missing with a body; there are @edit, @other"):
        compile_module(text, entry="missing")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not mlir", r"prog\.mlir:1:1: error: .*\n  not mlir\n  \^"),
        (
            PROGRAM.replace("%all\n", "%none\n").replace("%x, %all", "%x, %nothing"),
            r"prog\.mlir:6:23: error: use of undeclared",
        ),
        (PROGRAM.replace("arith.mulf", "iam.clt.topk"), r"prog\.mlir:6:\d+: error: "),
        (PROGRAM + PROGRAM.replace("@main", "@other"), r"one public function with a body, got 2 \(@main, @other\)"),
        ("module {}", "one public function with a body, got 0"),
        (
            "func.func @f(%x: tensor<2xi1>) -> tensor<2xi1> { return %x : tensor<2xi1> }",
            "argument 0 of @f has type tensor<2xi1>",
        ),
    ],
)
def test_malformed_programs(text, says):
    with pytest.raises(CompileError) as caught:
        compile_module(text, filename="prog.mlir")
    assert re.search(says, str(caught.value)), str(caught.value)


def test_verifier_errors_point_at_the_op():
    text = PROGRAM.replace(
        "%y = arith.mulf %x, %all : tensor<?x6xf32>",
        "%f = iam.clt.topk %x, k = 9 : tensor<?x6xf32> -> !iam.features<?x6xf32, k = 9>\n"
        "  %y = iam.clt.densify %f : !iam.features<?x6xf32, k = 9> -> tensor<?x6xf32>",
    )
    with pytest.raises(CompileError) as caught:
        compile_module(text)
    message = str(caught.value)
    assert "-:6:8: error: 'iam.clt.topk' op expected k" in message
    assert "\n  " + " " * 7 + "^" in message


def test_functions_that_are_not_there_are_named():
    text = """
    func.func private @nowhere(tensor<2xf32>) -> tensor<2xf32>
    func.func @f(%x: tensor<2xf32>) -> tensor<2xf32> {
      %0 = call @nowhere(%x) : (tensor<2xf32>) -> tensor<2xf32>
      return %0 : tensor<2xf32>
    }"""
    with pytest.raises(CompileError, match="it declares @nowhere without a body"):
        compile_module(text)


def test_ops_without_a_lowering_say_so():
    text = """
    func.func @circuit(%f: tensor<5xf32>, %W_dec: tensor<5x4xf32>, %W_enc: tensor<4x3xf32>) -> tensor<5x3xf32> {
      %0 = iam.attr.circuit %f, %W_dec, %W_enc : (tensor<5xf32>, tensor<5x4xf32>, tensor<4x3xf32>) -> tensor<5x3xf32>
      return %0 : tensor<5x3xf32>
    }"""
    with pytest.raises(CompileError, match=r"-:3:12: error: .*not lowered yet"):
        compile_module(text)


# Threads, processes, interruption.


def test_many_threads_one_compilation(rng):
    sae = make_sae(seed=9)
    program = iam.jit(lambda x, s: sae(x) * s)
    inputs = [rng.normal(size=(n, D)).astype(np.float32) for n in range(1, 9)]
    errors = []
    barrier = threading.Barrier(len(inputs))

    def work(x):
        try:
            barrier.wait()
            for s in range(20):
                close(program(x, float(s)), sae(x) * s, 1e-4)
        except Exception as error:  # noqa: BLE001 - reported by the main thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(x,)) for x in inputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert program.stats()["compilations"] == 1


def test_errors_stay_on_their_thread(sae, x):
    program = iam.jit(lambda x: sae(x))
    program(x)
    bad = x.copy()
    bad[0, 0] = np.inf
    failures, wrong = [], []

    def work(given, fails):
        for _ in range(200):
            try:
                program(given)
                wrong.extend([1] if fails else [])
            except NonFiniteError:
                (failures if fails else wrong).append(1)

    threads = [threading.Thread(target=work, args=(given, fails)) for given, fails in ((x, False), (bad, True))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == 200
    assert not wrong


def test_interrupted_recording_leaves_nothing(x):
    interrupt = [True]

    @iam.jit
    def program(x):
        if interrupt.pop():
            raise KeyboardInterrupt
        return x + 1.0

    with pytest.raises(KeyboardInterrupt):
        program(x)
    interrupt.append(False)
    close(program(x), x + 1.0)
    assert program.stats()["recordings"] == 1


@pytest.mark.parametrize("order", ["import torch, iam", "import iam, torch"])
def test_import_orders(order):
    pytest.importorskip("torch")
    code = f"""
    {order}
    x = torch.ones(3, 4)
    y = iam.jit(lambda x: x * 2.0)(x)
    assert torch.equal(y, x * 2), y
    torch.nn.Linear(4, 2)(y).sum().backward()
    print("fine")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300)
    assert done.stdout == "fine\n", done.stderr


def test_ops_of_every_kind(rng):
    W, b, skip = (rng.normal(size=s).astype(np.float32) for s in ((D, F), (F,), (D, F)))
    x = rng.normal(size=(4, D)).astype(np.float32)

    @iam.jit
    def everything(x):
        pre = ops.encode(x, W, b)
        return (
            ops.topk(pre, 3),
            ops.batch_topk(pre, 2),
            ops.jumprelu(pre, np.full(F, 0.5, np.float32)),
            ops.relu(pre),
            ops.gate(pre, -pre),
            ops.residual(pre, x, skip),
            ops.decode(ops.relu(pre), W.T.copy()),
        )

    pre = ops.encode(x, W, b)
    expected = (
        ops.topk(pre, 3),
        ops.batch_topk(pre, 2),
        ops.jumprelu(pre, np.full(F, 0.5, np.float32)),
        ops.relu(pre),
        ops.gate(pre, -pre),
        ops.residual(pre, x, skip),
        ops.decode(ops.relu(pre), W.T.copy()),
    )
    for got, want in zip(everything(x), expected, strict=True):
        if isinstance(want, iam.SparseFeatures):
            got, want = got.to_dense(), want.to_dense()
        close(got, want, 1e-4)
