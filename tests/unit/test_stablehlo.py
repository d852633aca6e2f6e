"""Programs as StableHLO without JAX: text, artefacts, messages, the command line. What they compute: integration tests."""

import json
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import iam
from iam import ops
from iam.cli._app import cli
from iam.compiler import compile_module, pipelines
from iam.compiler._stablehlo import StablehloProgram, from_text, hash_weights
from iam.core.errors import ArgumentError, CompileError, FormatError, MissingDependencyError

RELU = """func.func @relu(%pre: tensor<?x8xf32>) -> !iam.features<?x8xf32> {
  %f = iam.clt.relu %pre : tensor<?x8xf32> -> !iam.features<?x8xf32>
  return %f : !iam.features<?x8xf32>
}"""


@pytest.fixture
def sae(rng):
    cfg = iam.SAEConfig(
        architecture="topk",
        d_in=4,
        d_sae=8,
        k=2,
        apply_b_dec_to_input=True,
        metadata={"hook_name": "blocks.3.hook_resid_post"},
    )
    names = {"W_enc": (4, 8), "b_enc": (8,), "W_dec": (8, 4), "b_dec": (4,)}
    return iam.SAE(cfg, **{n: rng.normal(size=s).astype(np.float32) for n, s in names.items()})


@pytest.fixture
def program(sae):
    return iam.jit(lambda x, s: ops.steer(sae.decode(sae.encode(x)), sae.W_dec[3], s)).stablehlo(np.zeros((2, 4)), 1.0)


@pytest.fixture
def no_jax(monkeypatch):
    from iam.compiler import _jax

    monkeypatch.setitem(sys.modules, "jax", None)
    _jax._jax.cache_clear()
    yield
    _jax._jax.cache_clear()


# The program.


def test_weights_are_arguments_in_their_order(program, sae):
    assert [(a.name, a.is_weight) for a in program.arguments][:2] == [("x", False), ("s", False)]
    weights = [a.name for a in program.arguments if a.is_weight]
    assert set(weights) == set(program.weights)
    assert sum(np.array_equal(w, sae.W_enc) for w in program.weights.values()) == 1
    text = str(program)
    signature = text[text.index("func.func @main(") : text.index("->")]
    assert "tensor<?x4xf32>" in signature and "tensor<f32>" in signature and "tensor<4x8xf32>" in signature
    assert text.count("dense<") < 20  # numbers of shapes, no weights
    assert "iam." not in text


def test_recording_makes_no_machine_code(sae):
    function = iam.jit(lambda x: sae.encode(x))
    function.stablehlo(np.zeros((2, 4)))
    assert function.stats()["compilations"] == 0
    function(np.zeros((2, 4), np.float32))
    assert function.stats()["recordings"] == 1


def test_sites_of_coders(program):
    assert list(program.sites.values()) == ["resid_post.3"]


def test_the_three_ways_to_a_program(sae):
    x = np.zeros((2, 4))
    function = iam.jit(lambda x: sae.encode(x), name="encode")
    assert str(function.stablehlo(x)) == str(function.lower(x).stablehlo())
    assert str(compile_module(RELU).stablehlo()) == str(from_text(RELU))


def test_rows(program):
    assert "tensor<?x4xf32>" in program.text()
    assert "?" not in program.text(rows=7)
    assert program.text(rows=7) == program.text(rows=[7])
    assert "tensor<7x4xf32>" in program.text(rows=7)
    with pytest.raises(ArgumentError, match=r"expected rows in 0\.\.2147483647, got \[-1\]"):
        program.text(rows=-1)
    with pytest.raises(ArgumentError, match=r"one number or 1, one for each open size, got \[1, 2\]"):
        program.text(rows=[1, 2])


def test_each_open_size_can_be_given():
    text = """func.func @f(%a: tensor<?xf32>, %W: tensor<?x4xf32>, %E: tensor<4x?xf32>) -> tensor<?x?xf32> {
      %0 = iam.attr.circuit %a, %W, %E : (tensor<?xf32>, tensor<?x4xf32>, tensor<4x?xf32>) -> tensor<?x?xf32>
      return %0 : tensor<?x?xf32>
    }"""
    assert "-> tensor<5x3xf32>" in from_text(text).text(rows=[5, 5, 3])


def test_other_functions_of_a_module_are_left_out():
    text = RELU + RELU.replace("@relu", "@main")
    found = from_text(text, entry="relu").text()
    assert found.count("func.func") == 1
    assert "@main(" in found


def test_an_op_without_a_form_names_its_line(sae):
    pre = np.zeros((2, 8), np.float32)

    def program(pre):
        return ops.batch_topk(pre, 2)  # this line

    with pytest.raises(CompileError, match="set the option `rows`") as caught:
        str(iam.jit(program).stablehlo(pre))
    assert "# this line" in str(caught.value)
    assert "?" not in iam.jit(program).stablehlo(pre).text(rows=2)


def test_names_of_text():
    assert [a.name for a in from_text(RELU).arguments] == ["arg0"]
    with pytest.raises(CompileError, match="has 1 arguments, 2 names were given"):
        from_text(RELU, names=["a", "b"])
    with pytest.raises(CompileError, match="there is no function @other"):
        from_text(RELU, entry="other")


def test_the_pipeline_is_in_the_table():
    (found,) = [p for p in pipelines() if p.name == "iam-export-stablehlo"]
    assert found.passes == "iam-fuse,iam-to-stablehlo,cse"


def test_every_op_says_what_it_becomes(repo_root):
    _, *sections = (repo_root / "docs" / "spec.md").read_text(encoding="utf-8").split("\n## iam.")
    assert len(sections) > 20
    assert [text.splitlines()[0] for text in sections if "**StableHLO.**" not in text] == []


# Artefacts.


def test_manifest(program):
    found = program.manifest()
    assert found["schema"] == "iam.stablehlo/1"
    assert found["entry"] == "main"
    first = found["arguments"][0]
    assert first == {
        "name": "x", "form": "tensor", "tensors": [{"dtype": "f32", "shape": [None, 4]}], "weight": False,
    }  # fmt: skip
    assert found["arguments"][1]["form"] == "number"
    assert found["weights"]["sha256"] == hash_weights(program.weights)
    assert found["versions"]["iam"] == iam.__version__
    json.dumps(found)


def test_forms_of_features():
    (f,) = from_text(RELU).results
    assert f.form == "dense"
    assert f.tensors == [("f32", (None, 8))]
    (f,) = iam.jit(lambda x: ops.topk(x, 2)).stablehlo(np.zeros((1, 8))).results
    assert f.form == "slots"
    assert f.tensors == [("f32", (None, 2)), ("i32", (None, 2))]
    assert f.to_json()["n_features"] == 8


def test_hash_of_weights_sees_names_shapes_and_numbers():
    a = np.arange(4, dtype=np.float32)
    hashes = {hash_weights(w) for w in ({"a": a}, {"b": a}, {"a": a.reshape(2, 2)}, {"a": a + 1}, {})}
    assert len(hashes) == 5
    assert hash_weights({"a": a, "b": a}) == hash_weights({"b": a, "a": a})


def test_without_jax_the_artefact_is_text(program, no_jax, tmp_path):
    with pytest.raises(MissingDependencyError, match=r"install iam\[jax\]"):
        program.bytecode()
    with pytest.raises(MissingDependencyError, match=r"install iam\[jax\]"):
        program.to_jax()
    folder = program.save(tmp_path / "new" / "out")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == "text"
    assert (folder / "program.stablehlo.mlir").read_text() == program.text()
    loaded = StablehloProgram.load(folder)
    assert loaded.text() == program.text()
    assert loaded.arguments == program.arguments
    assert loaded.results == program.results
    assert loaded.sites == program.sites
    assert hash_weights(loaded.weights) == hash_weights(program.weights)


@pytest.fixture
def saved(program, no_jax, tmp_path):
    return program.save(tmp_path / "out", rows=3)


def test_fixed_rows_are_in_the_manifest(saved):
    assert json.loads((saved / "manifest.json").read_text())["rows"] == [3]
    assert "?" not in (saved / "program.stablehlo.mlir").read_text()


def test_a_folder_is_not_overwritten(program, saved):
    with pytest.raises(FormatError, match="expected a new or empty folder"):
        program.save(saved)
    assert sorted(p.name for p in saved.parent.iterdir()) == ["out"]


def test_weights_may_stay_outside(program, no_jax, tmp_path):
    folder = program.save(tmp_path / "out", with_weights=False)
    assert not (folder / "weights.safetensors").exists()
    with pytest.raises(FormatError, match="were not saved with the program"):
        StablehloProgram.load(folder)
    assert hash_weights(StablehloProgram.load(folder, weights=program.weights).weights) == hash_weights(program.weights)
    with pytest.raises(FormatError, match="not the weights that the program was saved with"):
        StablehloProgram.load(folder, weights={n: w + 1 for n, w in program.weights.items()})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("program.mlir", lambda data: data.replace(b"iam.clt", b"iam.cld", 1), "it was changed"),
        ("weights.safetensors", lambda data: data[:-4], "expected .* bytes, got"),
        ("weights.safetensors", lambda data: None, "weights.safetensors of the manifest is not there"),
        ("manifest.json", lambda data: None, "there is no manifest.json"),
        ("manifest.json", lambda data: b"{", "not readable as JSON"),
        ("manifest.json", lambda data: b"[]", "expected schema"),
        ("manifest.json", lambda data: data.replace(b"stablehlo/1", b"stablehlo/9"), "expected schema"),
        ("manifest.json", lambda data: data.replace(b'"files"', b'"filed"'), "malformed: KeyError 'files'"),
        ("manifest.json", lambda data: data.replace(b"program.mlir", b"../program.m"), "is not there"),
        ("manifest.json", lambda data: data.replace(b'"weight": false', b'"weight": 3'), "malformed: TypeError"),
    ],
)
def test_a_damaged_folder_is_an_error_that_says_where(saved, name, change, message):
    path = saved / name
    data = change(path.read_bytes())
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    with pytest.raises(FormatError, match=message):
        StablehloProgram.load(saved)


def test_nothing_is_left_of_a_save_that_fails(program, no_jax, tmp_path, monkeypatch):
    from pathlib import Path

    def fail(self, data):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        program.save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# The command line.


def run(*args):
    return CliRunner().invoke(cli, ["export", "--to", "stablehlo", *map(str, args)], catch_exceptions=False)


@pytest.mark.parametrize("what", ["encode", "decode", "reconstruct"])
def test_export_of_a_coder(sae, no_jax, tmp_path, what):
    sae.save_model(tmp_path / "sae")
    done = run(tmp_path / "sae", "--what", what, "--rows", 5, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "argument" in done.output and "(weight)" in done.output
    found = StablehloProgram.load(tmp_path / "out")
    assert found.name == what
    assert found.results[0].form == ("slots" if what == "encode" else "tensor")
    assert list(found.sites.values()) == ["resid_post.3"]


def test_export_of_a_program_as_json(no_jax, tmp_path):
    (tmp_path / "relu.mlir").write_text(RELU)
    done = run(tmp_path / "relu.mlir", "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["name"] == "relu"
    assert json.loads(done.output)["weights"]["arrays"] == {}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["relu.mlir", "--what", "encode"], "--what is for coders"),
        (["sae", "--entry", "f"], "--entry is for programs"),
        (["none.mlir"], "No such file"),
    ],
)
def test_export_refuses(args, message, no_jax, tmp_path, sae):
    (tmp_path / "relu.mlir").write_text(RELU)
    sae.save_model(tmp_path / "sae")
    from iam.core.errors import IamError

    with pytest.raises(IamError, match=message):
        run(tmp_path / args[0], *args[1:], "--out", tmp_path / "out")
