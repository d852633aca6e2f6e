"""``iam run``: signatures, arguments from files, results, and what is said about files that do not fit."""

import numpy as np
import pytest

import iam
from iam.cli import main
from iam.cli._run import _argument_names
from iam.compiler import compile_module
from iam.core.errors import ShapeError
from iam.formats._safetensors import write_safetensors

STEER = """
// Adds a direction (by hand): func.func @not(%this: one)
module {
  func.func private @helper(%a: tensor<2xf32>) -> tensor<2xf32> { return %a : tensor<2xf32> }
  func.func @steer(%h: tensor<?x6xf32>, %v: tensor<6xf32>, %s: f32) -> tensor<?x6xf32> {
    %y = iam.policy.steer add %h, %v, %s : tensor<?x6xf32>, tensor<6xf32>, f32
    return %y : tensor<?x6xf32>
  }
}
"""
CODES = """
func.func @codes(%x: tensor<?x6xf32>, %W_enc: tensor<6x21xf32>, %b_enc: tensor<21xf32>)
    -> (!iam.features<?x21xf32, k = 3>, !iam.features<?x21xf32>, tensor<?x21xf32>) {
  %pre = iam.clt.encode %x, %W_enc, %b_enc : (tensor<?x6xf32>, tensor<6x21xf32>, tensor<21xf32>) -> tensor<?x21xf32>
  %f = iam.clt.topk %pre, k = 3 : tensor<?x21xf32> -> !iam.features<?x21xf32, k = 3>
  %g = iam.clt.relu %pre : tensor<?x21xf32> -> !iam.features<?x21xf32>
  return %f, %g, %pre : !iam.features<?x21xf32, k = 3>, !iam.features<?x21xf32>, tensor<?x21xf32>
}
"""
DENSIFY = """
func.func @densify(%f: !iam.features<?x21xf32, k = 3>, %g: !iam.features<?x21xf32>)
    -> (tensor<?x21xf32>, tensor<?x21xf32>) {
  %a = iam.clt.densify %f : !iam.features<?x21xf32, k = 3> -> tensor<?x21xf32>
  %b = iam.clt.densify %g : !iam.features<?x21xf32> -> tensor<?x21xf32>
  return %a, %b : tensor<?x21xf32>, tensor<?x21xf32>
}
"""


@pytest.fixture
def files(tmp_path, rng):
    arrays = {
        "h": rng.normal(size=(5, 6)).astype(np.float32),
        "v": rng.normal(size=6),  # float64
        "W_enc": rng.normal(size=(6, 21)).astype(np.float32),
        "b_enc": rng.normal(size=21).astype(np.float32),
    }
    for name in ("h", "v"):
        np.save(tmp_path / f"{name}.npy", arrays[name])
    write_safetensors(tmp_path / "w.safetensors", {k: arrays[k] for k in ("W_enc", "b_enc")})
    for name, text in (("steer", STEER), ("codes", CODES), ("densify", DENSIFY)):
        (tmp_path / f"{name}.mlir").write_text(text)
    return tmp_path, arrays


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_signature(capsys, files):
    folder, _ = files
    code, out, _ = run(capsys, "run", folder / "codes.mlir")
    assert code == 0
    assert out.splitlines() == [
        "@codes",
        "  argument  x      tensor<?x6xf32>",
        "  argument  W_enc  tensor<6x21xf32>",
        "  argument  b_enc  tensor<21xf32>",
        "  result 0         features<?x21xf32, k = 3>",
        "  result 1         features<?x21xf32>",
        "  result 2         tensor<?x21xf32>",
    ]


@pytest.mark.parametrize(
    "inputs",
    [
        ("h={h}", "v={v}", "s=2.5"),
        ("{h}", "{v}", "2.5"),
        ("s=2.5", "{h}", "{v}"),
        ("%v={v}", "{h}", "2.5"),
    ],
)
def test_arrays_and_numbers(capsys, files, inputs):
    folder, arrays = files
    given = [text.format(h=folder / "h.npy", v=folder / "v.npy") for text in inputs]
    options = [part for text in given for part in ("--inputs", text)]
    code, out, err = run(capsys, "run", folder / "steer.mlir", *options, "--out", folder / "new" / "results")
    assert code == 0, err
    result = np.load(folder / "new" / "results" / "result0.npy")
    expected = iam.steer(arrays["h"], arrays["v"].astype(np.float32), 2.5)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    assert "argument  h  tensor<?x6xf32>" in out
    assert "result0.npy: float32 (5, 6)" in out


def test_weights_and_features_there_and_back(capsys, files):
    folder, arrays = files
    command = (
        "run",
        folder / "codes.mlir",
        "-i",
        folder / "h.npy",
        "-w",
        folder / "w.safetensors",
        "--out",
        folder / "r",
    )
    code, out, err = run(capsys, *command)
    assert code == 0, err
    assert f"W_enc = {folder / 'w.safetensors'}: W_enc" in out
    pre = iam.ops.encode(arrays["h"], arrays["W_enc"], arrays["b_enc"])
    np.testing.assert_allclose(np.load(folder / "r" / "result2.npy"), pre, rtol=1e-5)
    with np.load(folder / "r" / "result0.npz") as f, np.load(folder / "r" / "result1.npz") as g:
        assert set(f.files) == {"values", "indices", "n_features"}
        assert set(g.files) == {"values", "indices", "offsets", "n_features"}
        assert f["values"].shape == (5, 3)
        assert f["indices"].dtype == np.int32
        assert g["offsets"].dtype == np.int64
    command = (
        "-i",
        f"f={folder / 'r' / 'result0.npz'}",
        "-i",
        f"g={folder / 'r' / 'result1.npz'}",
        "--out",
        folder / "d",
    )
    code, _, err = run(capsys, "run", folder / "densify.mlir", *command)
    assert code == 0, err
    np.testing.assert_allclose(np.load(folder / "d" / "result0.npy"), iam.ops.topk(pre, 3).to_dense(), rtol=1e-5)
    np.testing.assert_allclose(np.load(folder / "d" / "result1.npy"), iam.ops.relu(pre).to_dense(), rtol=1e-5)


def test_what_mlir_prints_runs(capsys, files):
    """Programs of ``iam.jit``, with weights called as the coder is."""
    folder, arrays = files
    x = arrays["h"]
    cfg = iam.SAEConfig(architecture="topk", d_in=6, d_sae=21, k=4, apply_b_dec_to_input=False)
    W_dec = np.ascontiguousarray(arrays["W_enc"].T)
    sae = iam.SAE(cfg, W_enc=arrays["W_enc"], b_enc=arrays["b_enc"], W_dec=W_dec, b_dec=np.zeros(6))

    @iam.jit
    def program(x, s):
        return x + sae.decode(sae.encode(x).set([7], s))

    expected = program(x, 3.0)
    (folder / "program.mlir").write_text(program.mlir())
    weights = {name: getattr(sae, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    write_safetensors(folder / "sae.safetensors", weights)
    for stage in ("iam", "fused"):
        (folder / "program.mlir").write_text(program.mlir(stage))
        code, _, err = run(
            capsys, "run", folder / "program.mlir", "-i", f"x={folder / 'h.npy'}", "-i", "s=3", "-w",
            folder / "sae.safetensors", "--out", folder / stage,
        )  # fmt: skip
        assert code == 0, err
        np.testing.assert_allclose(np.load(folder / stage / "result0.npy"), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-i", "{h}"], "nothing is given for v, s. Give --inputs NAME=FILE.npy"),
        (["-i", "{h}", "-i", "{v}", "-i", "2", "-i", "3"], "nothing is left for 3"),
        (["-i", "h={h}", "-i", "h={h}"], '"h" is given twice'),
        (["-i", "vv={v}"], '@steer has no argument "vv"; did you mean "v"'),
        (["-i", "h={v}", "-i", "v={v}", "-i", "s=1"], "argument 0: expected shape ?x6, got 6"),
        (["-i", "h={h}", "-i", "v={h}", "-i", "s=1"], "argument 1: expected shape 6, got 5x6"),
        (["-i", "h={h}", "-i", "v={v}", "-i", "s=strong"], "argument \"s\" is a number (f32), got 'strong'"),
        (["-i", "h={h}", "-i", "v={v}", "-i", "s={v}"], 'argument "s" is a number'),
        (["-i", "h=none.npy", "-i", "v={v}", "-i", "s=1"], "there is no none.npy"),
        (["-i", "h={ints}", "-i", "v={v}", "-i", "s=1"], "argument 0"),
        (["-i", "h={objects}", "-i", "v={v}", "-i", "s=1"], "Python objects"),
        (["-i", "h={short}", "-i", "v={v}", "-i", "s=1"], 'argument "h": expected a .npy file for tensor<?x6xf32>'),
        (["-i", "h={text}", "-i", "v={v}", "-i", "s=1"], 'argument "h": expected a .npy file'),
        (["-i", "h={archive}", "-i", "v={v}", "-i", "s=1"], "got the archive"),
        (["-i", "h={h}", "-i", "v={v}", "-i", "s=1", "-w", "{w}"], "has the name of an argument; it has W_enc, b_enc"),
        (["-i", "h={h}", "-i", "v={v}", "-i", "s=1", "-w", "{h}"], "safetensors"),
        (["-i", "h={h}", "-i", "v={v}", "-i", "s=1", "--entry", "other"], "no function @other with a body"),
    ],
)
def test_what_does_not_fit(capsys, files, arguments, says):
    folder, arrays = files
    np.save(folder / "ints.npy", np.ones((5, 6), np.int64))
    np.save(folder / "objects.npy", np.array([{}], dtype=object))
    data = (folder / "h.npy").read_bytes()
    (folder / "short.npy").write_bytes(data[:-9])
    (folder / "text.npy").write_text("not an array")
    np.savez(folder / "archive.npz", values=arrays["h"])
    places = {name: folder / f"{name}.npy" for name in ("h", "v", "ints", "objects", "short", "text")}
    places |= {"archive": folder / "archive.npz", "w": folder / "w.safetensors"}
    given = [argument.format(**places) for argument in arguments]
    code, _, err = run(capsys, "run", folder / "steer.mlir", *given, "--out", folder / "out")
    assert code == 2, err
    assert says in err
    assert not list(folder.glob("out/*"))


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"values": np.ones((2, 3), np.float32)}, "has no indices; it has values"),
        ({"values": np.ones((2, 3), np.float32), "indices": np.ones((2, 3), np.int64) * 99}, "99"),
        ({"values": np.ones((2, 3), np.float32), "indices": np.ones((2, 3))}, "Cannot cast"),
        ({"values": np.ones((2, 2), np.float32), "indices": np.array([[0, 1]] * 2)}, "with k = 3, got shape (2, 21)"),
        (
            {"values": np.ones((1, 1), np.float32), "indices": np.zeros((1, 1), int), "n_features": 7},
            "got shape (1, 7)",
        ),
    ],
)
def test_features_that_do_not_fit(capsys, files, arrays, says):
    folder, _ = files
    np.savez(folder / "f.npz", **arrays)
    codes = iam.ops.relu(np.ones((2, 21), np.float32))
    np.savez(folder / "g.npz", **dict(zip(("values", "indices", "offsets"), codes.components, strict=True)))
    options = ("-i", f"f={folder / 'f.npz'}", "-i", f"g={folder / 'g.npz'}", "--out", folder / "out")
    code, _, err = run(capsys, "run", folder / "densify.mlir", *options)
    assert code == 2, err
    assert says in err


def test_errors_of_kernels(capsys, files):
    folder, arrays = files
    bad = arrays["h"].copy()
    bad[2, 3] = np.nan
    np.save(folder / "bad.npy", bad)
    options = ("-i", folder / "bad.npy", "-w", folder / "w.safetensors", "--out", folder / "out")
    code, _, err = run(capsys, "run", folder / "codes.mlir", *options)
    assert code == 2
    assert "row 2" in err
    assert not (folder / "out").exists()


def test_programs_that_are_wrong(capsys, files):
    folder, _ = files
    (folder / "wrong.mlir").write_text(STEER.replace("iam.policy.steer add", "iam.policy.stear"))
    code, _, err = run(capsys, "run", folder / "wrong.mlir")
    assert code == 2
    assert f"{folder / 'wrong.mlir'}:6:" in err
    (folder / "binary.mlir").write_bytes(b"\xff\xfe\x00")
    assert "neither MLIR text in UTF-8 nor bytecode" in run(capsys, "run", folder / "binary.mlir")[2]
    assert run(capsys, "run", folder / "none.mlir")[0] == 2
    code, _, err = run(capsys, "run", folder / "steer.mlir", "-i", "s=1")
    assert code == 2
    assert "--inputs without --out" in err


def test_bytecode_runs(capsys, files):
    import io

    from iam.compiler import _engine

    folder, arrays = files
    buffer = io.BytesIO()
    with _engine.LOCK, _engine.context():
        _engine.parse(STEER).operation.write_bytecode(buffer)
    (folder / "steer.mlirbc").write_bytes(buffer.getvalue())
    options = ("-i", folder / "h.npy", "-i", folder / "v.npy", "-i", "arg2=1.5", "--out", folder / "b")
    code, out, err = run(capsys, "run", folder / "steer.mlirbc", *options)
    assert code == 0, err
    assert "argument  arg0  tensor<?x6xf32>" in out
    expected = iam.steer(arrays["h"], arrays["v"].astype(np.float32), 1.5)
    np.testing.assert_allclose(np.load(folder / "b" / "result0.npy"), expected, rtol=1e-5, atol=1e-6)


def test_names_of_arguments():
    assert _argument_names(STEER.encode(), "steer", 3) == ["h", "v", "s"]
    assert _argument_names(CODES.encode(), "codes", 3) == ["x", "W_enc", "b_enc"]
    text = b'func.func @f(%a: tensor<2xf32> {x.y = "a, b"}, %b_1: memref<?xf32, strided<[?], offset: ?>>) -> f32 {'
    assert _argument_names(text, "f", 2) == ["a", "b_1"]
    assert _argument_names(b'"func.func"() ({ ^bb0(%arg0: f32): }) {sym_name = "f"}', "f", 1) == ["arg0"]
    assert _argument_names(b"func.func @f(f32", "f", 1) == ["arg0"]


def test_sizes_that_elementwise_ops_combine_must_agree(rng):
    """MLIR takes them to be equal: the loop would read past the end of the shorter one."""
    add = compile_module("""
    func.func @add(%x: tensor<?x6xf32>, %y: tensor<?x6xf32>, %f: !iam.features<?x6xf32, k = 2>, %W: tensor<6x6xf32>)
        -> tensor<?x6xf32> {
      %d = iam.clt.decode %f, %W : (!iam.features<?x6xf32, k = 2>, tensor<6x6xf32>) -> tensor<?x6xf32>
      %s = arith.addf %x, %y : tensor<?x6xf32>
      %z = arith.mulf %s, %d : tensor<?x6xf32>
      return %z : tensor<?x6xf32>
    }""")
    x, W = rng.normal(size=(4, 6)).astype(np.float32), np.eye(6, dtype=np.float32)
    f = iam.ops.topk(x, 2)
    np.testing.assert_allclose(add(x, x, f, W), 2 * x * f.to_dense(), rtol=1e-5)
    with pytest.raises(ShapeError, match="dimension 0 of argument 1 to be that of dimension 0 of argument 0, 4; got 2"):
        add(x, x[:2], f, W)
    with pytest.raises(ShapeError, match="dimension 0 of argument 2 to be that of dimension 0 of argument 0, 4; got 3"):
        add(x, x, iam.ops.topk(x[:3], 2), W)


def test_help(capsys):
    code, out, _ = run(capsys, "run", "--help")
    assert code == 0
    assert "Examples:" in out
    assert "iam run program.mlir --inputs x.npy --out results" in out
