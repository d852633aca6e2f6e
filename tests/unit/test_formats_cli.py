"""``iam convert`` and ``iam inspect`` on every format."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from test_formats_all import ROUND_TRIPS, TRANSCODER_META, label, make, same

from iam.cli import _convert, _inspect
from iam.core.errors import FormatError, InternalError
from iam.formats import FORMATS, _detect

ONE_OF_EACH = list({name: (name, raw) for name, raw in reversed(ROUND_TRIPS)}.values())


def run(*arguments):
    return CliRunner().invoke(_convert.convert, [str(each) for each in arguments])


@pytest.mark.parametrize("case", ROUND_TRIPS, ids=label)
def test_inspect(case, tmp_path):
    name, raw = case
    if name == "dictionary_learning":
        pytest.importorskip("torch")
    _detect.save_raw(raw, tmp_path, format=name)
    found = _inspect.inspect_path(tmp_path)
    assert found.kind == "coder" and name in found.format
    assert found.facts["architecture"] == raw.architecture and found.facts["d_in"] == 4 and found.facts["features"] == 6
    assert (found.facts.get("d_out", 4), found.facts.get("layers", found.facts.get("sites", 1))) == (
        raw.d_out,
        raw.n_layers,
    )
    assert found.facts["subtracts b_dec from its input"] is raw.apply_b_dec_to_input
    stored = sum(array.size for array in raw.tensors.values())
    if raw.kind != "cross_layer" and name != "dictionary_learning":
        assert found.parameters == stored
    assert all(row.norm is not None for row in found.tensors if row.dtype == "F32")
    json.dumps(found.to_dict(), allow_nan=False)


def test_inspect_of_a_set(tmp_path):
    from iam.formats import circuit_tracer

    circuit_tracer.write_raw([make("transcoder", seed=i) for i in range(2)], tmp_path)
    found = _inspect.inspect_path(tmp_path)
    assert found.facts["layers"].startswith("0..1") and {row.file for row in found.tensors} == {
        "layer_0.safetensors",
        "layer_1.safetensors",
    }


def test_inspect_of_one_file(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones((2, 3), np.float32))
    found = _inspect.inspect_path(tmp_path / "x.npz")
    assert found.format == "npz" and found.tensors[0].shape == [2, 3]
    (tmp_path / "x.txt").touch()
    with pytest.raises(FormatError, match="not a format"):
        _inspect.inspect_path(tmp_path / "x.txt")


def test_inspect_says_why_a_coder_does_not_load(tmp_path):
    raw = make("sae", normalize_activations="expected_average_only_in")
    _detect.save_raw(raw, tmp_path, format="saelens")
    assert any("does not load" in note for note in _inspect.inspect_path(tmp_path).notes)


HELD_BY = {  # of one SAE or transcoder, the formats that hold it
    "sae": ["saelens", "gemma_scope", "gemma_scope_2", "dictionary_learning", "iam"],
    "transcoder": ["saelens", "gemma_scope", "gemma_scope_2", "circuit_tracer", "iam"],
    "cross_layer": ["circuit_tracer_clt", "gemma_scope_2", "iam"],
}


@pytest.mark.parametrize("kind", HELD_BY)
def test_convert_there_and_back(kind, tmp_path):
    if kind == "sae":
        pytest.importorskip("torch")
    raw = make(kind, "jumprelu", n_layers=3 if kind == "cross_layer" else 1)
    names = HELD_BY[kind]
    _detect.save_raw(raw, tmp_path / "0", format=names[0])
    at = tmp_path / "0"
    for i, name in enumerate([*names[1:], names[0]], start=1):
        result = run(at, tmp_path / str(i), "--to", name)
        assert result.exit_code == 0, result.exception
        assert "every bit the same" in result.output
        at = tmp_path / str(i)
    same(raw, _detect.load_raw(at))


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=label)
@pytest.mark.parametrize("to", sorted(name for name, entry in FORMATS.items() if entry.written))
def test_every_pair_converts_or_says_why_not(case, to, tmp_path):
    name, raw = case
    if "dictionary_learning" in (name, to):
        pytest.importorskip("torch")
    _detect.save_raw(raw, tmp_path / "a", format=name)
    result = run(tmp_path / "a", tmp_path / "b", "--to", to)
    if result.exit_code == 0:
        assert _detect.load_raw(tmp_path / "b", to).d_sae == raw.d_sae
    else:
        assert isinstance(result.exception, FormatError), result.exception
        assert not (tmp_path / "b").exists(), "nothing is written"


def test_convert_reports_what_it_did(tmp_path):
    raw = make("sae", "standard", apply_b_dec_to_input=True)
    _detect.save_raw(raw, tmp_path / "a", format="saelens")
    result = run(tmp_path / "a", tmp_path / "b", "--to", "gemma_scope_2", "--dtype", "bfloat16", "--json")
    done = json.loads(result.output)
    assert done["schema"] == "iam.conversion/1" and done["source_format"] == "saelens" and done["coders"] == 1
    assert 0 < done["rounding"] < 0.05
    for text in ("stored as jumprelu", "folded into the encoder's bias", "stored as bfloat16"):
        assert any(text in change for change in done["changes"]), text
    with pytest.raises(FormatError, match="gemma_scope stores float32"):
        _convert.convert_path(tmp_path / "a", tmp_path / "c", "gemma_scope", dtype="bfloat16")
    with pytest.raises(FormatError, match="new or empty"):
        _convert.convert_path(tmp_path / "a", tmp_path / "b", "saelens")


def test_convert_a_set(tmp_path):
    from iam.formats import circuit_tracer

    raws = [make("transcoder", seed=i, skip=True) for i in range(2)]
    circuit_tracer.write_raw(raws, tmp_path / "a")
    done = _convert.convert_path(tmp_path / "a", tmp_path / "b", "circuit_tracer")
    assert done.coders == 2 and done.rounding == 0
    with pytest.raises(FormatError, match="--layer"):
        _convert.convert_path(tmp_path / "a", tmp_path / "c", "saelens")
    assert _convert.convert_path(tmp_path / "a", tmp_path / "c", "saelens", layer=1).coders == 1
    same(raws[1], _detect.load_raw(tmp_path / "c"))


def test_convert_of_files_that_do_not_say_what_they_are(tmp_path):
    _detect.save_raw(make("transcoder"), tmp_path / "a", format="gemma_scope")
    (tmp_path / "a" / "iam.json").unlink()
    assert isinstance(run(tmp_path / "a", tmp_path / "b", "--to", "saelens").exception, FormatError)
    assert run(tmp_path / "a", tmp_path / "b", "--to", "saelens", "--kind", "transcoder").exit_code == 0
    assert _detect.load_raw(tmp_path / "b").kind == "transcoder"


def test_a_writer_that_writes_something_else_is_noticed(tmp_path, monkeypatch):
    from iam.formats import gemma_scope_2

    _detect.save_raw(make("transcoder", metadata=TRANSCODER_META, skip=True), tmp_path / "a", format="saelens")
    right = gemma_scope_2._stored

    def transposed(raw, layer):
        stored = right(raw, layer)
        return {**stored, "affine_skip_connection": stored["affine_skip_connection"].T}

    monkeypatch.setattr(gemma_scope_2, "_stored", transposed)
    with pytest.raises(InternalError, match='"W_skip" differs'):
        _convert.convert_path(tmp_path / "a", tmp_path / "b", "gemma_scope_2")
