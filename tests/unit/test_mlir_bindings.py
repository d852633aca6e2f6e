"""iam.mlir: the dialect in Python. What goes wrong is an exception; the process survives it."""

import json
import subprocess
import sys
import threading

import numpy as np
import pytest

from iam import ops
from iam._tools import install_root

ir = pytest.importorskip("iam.mlir.ir", reason="IAM was built without its compiler")

from iam.mlir import passmanager  # noqa: E402
from iam.mlir.dialects import func  # noqa: E402
from iam.mlir.dialects import iam as dialect  # noqa: E402

FUSIBLE = """
func.func @f(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) -> !iam.features<?x16xf32, k = 2> {
  %pre = iam.clt.encode %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  %f = iam.clt.topk %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
  return %f : !iam.features<?x16xf32, k = 2>
}
"""


@pytest.fixture
def context():
    with ir.Context() as made, ir.Location.unknown():
        yield made


def tensor(*shape):
    sizes = [ir.ShapedType.get_dynamic_size() if size is None else size for size in shape]
    return ir.RankedTensorType.get(sizes, ir.F32Type.get())


def codes(k=None, rows=None):
    return dialect.FeaturesType.get(rows, 16, ir.F32Type.get(), k)


def build(inputs, body):
    """A module with one function, of which `body` makes the ops from the arguments."""
    module = ir.Module.create()
    with ir.InsertionPoint(module.body):
        function = func.FuncOp("main", ir.FunctionType.get(inputs, []))
        block = function.add_entry_block()
    with ir.InsertionPoint(block):
        body(*block.arguments)
        func.ReturnOp([])
    return module


# The features type.


def test_features_type(context):
    f32 = ir.F32Type.get()
    compressed = dialect.FeaturesType.get(4, 16, f32)
    slots = dialect.FeaturesType.get(rows=None, dictionary=24576, element_type=f32, k=32)
    assert str(compressed) == "!iam.features<4x16xf32>"
    assert str(slots) == "!iam.features<?x24576xf32, k = 32>"
    assert (compressed.rows, compressed.dictionary, compressed.element_type, compressed.k) == (4, 16, f32, None)
    assert (slots.rows, slots.dictionary, slots.k) == (None, 24576, 32)
    assert dialect.FeaturesType.get(0, 1, f32, 5).rows == 0


def test_features_type_is_found_by_parsing(context):
    parsed = ir.Type.parse("!iam.features<?x16xf32, k = 2>")
    assert type(parsed) is dialect.FeaturesType
    assert parsed == codes(k=2)
    assert parsed != codes()


def test_other_types_are_no_features(context):
    with pytest.raises(ValueError, match="Cannot cast type to FeaturesType"):
        dialect.FeaturesType(ir.F32Type.get())


@pytest.mark.parametrize(
    ("rows", "dictionary", "element", "k"),
    [(-2, 16, "f32", None), (None, 0, "f32", None), (None, 16, "f64", None), (None, 16, "f32", 0)],
)
def test_features_type_refuses(context, rows, dictionary, element, k):
    with pytest.raises(ValueError, match=r"expected (a number of rows|a dictionary size|element type|k) "):
        dialect.FeaturesType.get(rows, dictionary, ir.Type.parse(element), k)


# Ops.


def test_build_clt_ops(context):
    def body(x, W_enc, b_enc, b_dec, W_dec, a):
        pre = dialect.clt_encode(tensor(None, 16), x, W_enc, b_enc, b_dec=b_dec)
        f = dialect.clt_topk(codes(k=2), pre, 2)
        t = dialect.clt_jumprelu(codes(), pre, b_enc)
        g = dialect.clt_edit(codes(k=3), dialect.EditMode.Set, f, [7], a=a)
        dialect.clt_decode(tensor(None, 4), g, W_dec, b_dec=b_dec)
        dialect.clt_densify(tensor(None, 16), t)
        dialect.clt_sub(codes(), t, t)
        sparse = dialect.CLTEncodeSparseOp(codes(k=2), dialect.Activation.TopK, x, W_enc, b_enc, k=2)
        dialect.clt_delta(codes(k=1), dialect.EditMode.Ablate, sparse.result, [7])

    inputs = [tensor(None, 4), tensor(4, 16), tensor(16), tensor(4), tensor(16, 4), tensor(1)]
    module = build(inputs, body)
    assert module.operation.verify()
    text = str(module)
    assert "features [7] by %arg5" in text
    assert "iam.clt.encode_sparse topk" in text
    # What was built is what its text says.
    assert str(ir.Module.parse(text)) == text


def test_build_policy_and_attr_ops(context):
    def body(h, v, s, scores):
        dialect.policy_steer(tensor(None, 4), dialect.SteerMode.Clamp, h, v, s)
        dialect.AttrSelectOp(
            ir.RankedTensorType.get([ir.ShapedType.get_dynamic_size(), 2], ir.IntegerType.get_signless(32)),
            tensor(None, 2),
            scores,
            2,
        )

    module = build([tensor(None, 4), tensor(4), ir.F32Type.get(), tensor(None, 16)], body)
    assert module.operation.verify()
    assert "iam.policy.steer clamp" in str(module)
    assert "iam.attr.select" in str(module)


def test_op_views(context):
    """A parsed op is of its class, with operands and attributes by name."""
    module = ir.Module.parse(FUSIBLE)
    encode, topk, _ = module.body.operations[0].regions[0].blocks[0].operations
    assert type(encode) is dialect.CLTEncodeOp
    assert type(topk) is dialect.CLTTopKOp
    assert topk.k.value == 2
    assert topk.pre == encode.result
    assert encode.b_dec is None
    assert type(topk.f.type) is dialect.FeaturesType


def test_enumerations(context):
    attribute = ir.Attribute.parse("3 : i32")
    module = ir.Module.parse(
        "func.func @f(%f: !iam.features<?x16xf32>) { "
        "%g = iam.clt.edit ablate %f features [1] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32> return }"
    )
    edit = module.body.operations[0].regions[0].blocks[0].operations[0]
    assert edit.mode == attribute
    assert ir.IntegerAttr(edit.mode).value == dialect.EditMode.Ablate
    assert str(dialect.EditMode.Ablate) == "ablate"
    for words, enumeration in (
        (ops.EDIT_MODES, dialect.EditMode),
        (ops.STEER_MODES, dialect.SteerMode),
        (ops.COMPOSE_RULES, dialect.ComposeRule),
        (ops.SET_KINDS, dialect.SetKind),
    ):
        assert [(str(case), case.value) for case in enumeration] == [(word, i) for i, word in enumerate(words)]


# Errors are exceptions.


def test_verifier_error_while_building(context):
    module = build(
        [tensor(3, 8)], lambda pre: dialect.clt_topk(dialect.FeaturesType.get(3, 8, ir.F32Type.get(), 9), pre, 9)
    )
    with pytest.raises(ir.MLIRError, match="expected k to be at most the width of pre") as caught:
        module.operation.verify()
    assert "'iam.clt.topk' op" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("func.func @f(", "expected"),
        (FUSIBLE.replace("k = 2 :", "k = 99 :"), "expected k to be at most"),
        (FUSIBLE.replace("iam.clt.topk", "iam.clt.none"), "iam.clt.none"),
        ("func.func private @f(!iam.features<4x0xf32>)", "expected a dictionary size >= 1, got 0"),
        ("func.func private @f(!iam.nothing)", r"unknown +type `nothing` in dialect `iam`"),
    ],
)
def test_malformed_text(context, text, message):
    with pytest.raises(ir.MLIRError, match=message):
        ir.Module.parse(text)


def test_wrong_operands_are_errors(context):
    with pytest.raises((TypeError, ValueError)):
        build([tensor(3, 8)], lambda pre: dialect.clt_topk(codes(k=2), None, 2))


def test_failing_pass(context):
    module = ir.Module.parse(
        "func.func @f(%f: tensor<5xf32>, %D: tensor<5x4xf32>, %E: tensor<4x3xf32>) -> tensor<5x3xf32> {\n"
        "  %0 = iam.attr.circuit %f, %D, %E : (tensor<5xf32>, tensor<5x4xf32>, tensor<4x3xf32>) -> tensor<5x3xf32>\n"
        "  return %0 : tensor<5x3xf32>\n}"
    )
    manager = passmanager.PassManager.parse("builtin.module(iam-to-runtime)")
    with pytest.raises(ir.MLIRError) as caught:
        manager.run(module.operation)
    (error,) = caught.value.error_diagnostics
    assert error.message.startswith("'iam.attr.circuit' op is not lowered yet")
    assert str(error.location) == 'loc("-":2:8)'
    assert module.operation.verify()


# Passes and registration.


def test_pass_manager(context):
    module = ir.Module.parse(FUSIBLE)
    passmanager.PassManager.parse("builtin.module(iam-fuse)").run(module.operation)
    assert "iam.clt.encode_sparse topk" in str(module)
    assert "iam.clt.encode " not in str(module)


def test_pass_managers_know_single_passes_and_options(context):
    text = "builtin.module(iam-clt-fusion,iam-to-linalg,func.func(convert-linalg-to-loops))"
    assert "iam-clt-fusion" in str(passmanager.PassManager.parse(text))
    with pytest.raises(ValueError, match="no-such-pass"):
        passmanager.PassManager.parse("builtin.module(no-such-pass)")


def test_pipelines_are_those_of_iam_opt(context):
    from iam.compiler import pipelines

    listed = pipelines()
    assert [p.name for p in listed] == [
        "iam-fuse",
        "iam-attribute",
        "iam-hoist",
        "iam-to-loops",
        "iam-loops-to-llvm",
        "iam-to-llvm",
        "iam-export-stablehlo",
    ]
    help_text = subprocess.run(
        [install_root() / "bin" / "iam-opt", "--help"], check=True, capture_output=True, text=True
    ).stdout
    of_the_tool = {
        words[0].removeprefix("--"): words[2]
        for line in help_text.partition("Pass Pipelines:")[2].splitlines()
        if (words := line.split(maxsplit=2)) and words[0].startswith("--iam-")
    }
    assert {p.name: p.why for p in listed} == of_the_tool
    for pipeline in listed:
        # Every pass exists, and the name is the passes.
        manager = passmanager.PassManager.parse(f"builtin.module({pipeline.passes})")
        assert str(manager) == str(passmanager.PassManager.parse(f"builtin.module({pipeline.name})"))


def test_every_context_knows_the_dialect():
    for _ in range(3):
        with ir.Context():
            assert ir.Module.parse(FUSIBLE).operation.verify()


def test_contexts_in_threads():
    seen, errors = [], []

    def work():
        try:
            with ir.Context(), ir.Location.unknown():
                module = ir.Module.parse(FUSIBLE)
                passmanager.PassManager.parse("builtin.module(iam-to-llvm)").run(module.operation)
                seen.append("llvm.func" in str(module))
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert seen == [True] * 4


def test_a_fresh_interpreter_knows_the_dialect():
    """Nothing but iam.mlir.ir is imported: registration does not depend on iam.compiler or the dialect's module."""
    code = (
        "import json, sys; from iam.mlir import ir\n"
        "with ir.Context() as context:\n"
        f"    text = str(ir.Module.parse({FUSIBLE!r}))\n"
        "print(json.dumps(['iam.clt.topk' in text, 'torch' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == [True, False]


# Memory of compiled programs that are not straight lines: no buffer is lost or freed twice.

LOOP_AND_CONDITION = """
func.func @f(%x: tensor<?x16xf32>, %n: tensor<?x1xf32>) -> (tensor<?x16xf32>, tensor<?x16xf32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %half = arith.constant dense<[0.5]> : tensor<1xf32>
  %count = tensor.dim %n, %c0 : tensor<?x1xf32>
  %many = arith.cmpi sgt, %count, %c1 : index
  %f = iam.clt.relu %x : tensor<?x16xf32> -> !iam.features<?x16xf32>
  %r = scf.for %i = %c0 to %count step %c1 iter_args(%h = %f) -> !iam.features<?x16xf32> {
    %e = iam.clt.edit scale %h features [0] by %half : (!iam.features<?x16xf32>, tensor<1xf32>) -> !iam.features<?x16xf32>
    scf.yield %e : !iam.features<?x16xf32>
  }
  %s = scf.if %many -> !iam.features<?x16xf32> {
    %e = iam.clt.edit ablate %r features [1] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
    scf.yield %e : !iam.features<?x16xf32>
  } else {
    scf.yield %r : !iam.features<?x16xf32>
  }
  %a = iam.clt.densify %s : !iam.features<?x16xf32> -> tensor<?x16xf32>
  %b = iam.clt.densify %r : !iam.features<?x16xf32> -> tensor<?x16xf32>
  return %a, %b : tensor<?x16xf32>, tensor<?x16xf32>
}
"""

CHOICE = """
func.func @f(%x: tensor<?x16xf32>, %n: tensor<?x1xf32>) -> (tensor<?x16xf32>, tensor<?x16xf32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %count = tensor.dim %n, %c0 : tensor<?x1xf32>
  %many = arith.cmpi sgt, %count, %c1 : index
  %y = arith.addf %x, %x : tensor<?x16xf32>
  %r = arith.select %many, %x, %y : tensor<?x16xf32>
  return %r, %y : tensor<?x16xf32>, tensor<?x16xf32>
}
"""


@pytest.mark.parametrize("count", [0, 1, 3])
def test_loops_and_conditions_free_everything(count, rng):
    from iam import _runtime
    from iam.compiler import compile_module

    x = rng.uniform(1, 2, size=(5, 16)).astype(np.float32)
    n = np.zeros((count, 1), np.float32)
    program = compile_module(LOOP_AND_CONDITION)
    before = _runtime.pool_stats()["blocks_in_use"]
    for _ in range(3):
        edited, scaled = program(x, n)
    expected = x.copy()
    expected[:, 0] *= 0.5**count
    np.testing.assert_array_equal(scaled, expected)
    if count > 1:
        expected[:, 1] = 0
    np.testing.assert_array_equal(edited, expected)
    del edited, scaled
    assert _runtime.pool_stats()["blocks_in_use"] == before


@pytest.mark.parametrize("count", [0, 3])
def test_results_of_a_choice_have_their_own_memory(count, rng):
    from iam import _runtime
    from iam.compiler import compile_module

    x = rng.normal(size=(5, 16)).astype(np.float32)
    program = compile_module(CHOICE)
    before = _runtime.pool_stats()["blocks_in_use"]
    chosen, doubled = program(x, np.zeros((count, 1), np.float32))
    assert not np.shares_memory(chosen, doubled)
    assert not np.shares_memory(chosen, x)
    np.testing.assert_array_equal(chosen, x if count > 1 else 2 * x)
    np.testing.assert_array_equal(doubled, 2 * x)
    del chosen, doubled
    assert _runtime.pool_stats()["blocks_in_use"] == before
