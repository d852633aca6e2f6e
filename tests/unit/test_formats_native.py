"""IAM's own format: every coder, every convention, every storage type; int8 within its bound; folders never torn."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import iam
from iam.core.errors import FormatError
from iam.formats import detect, native
from iam.formats._build import build, raw_of
from iam.formats._lazy import LazyTensor

RNG = np.random.default_rng(0)
LAYERS = 3


def weights(architecture, d_in, d_sae, sites=()):
    names = {"gated": ("b_gate", "b_mag", "r_mag"), "matching_pursuit": ()}.get(architecture, ("b_enc",))
    found = {name: RNG.normal(size=d_sae) for name in names}
    if architecture != "matching_pursuit":
        found["W_enc"] = RNG.normal(size=(*sites, d_in, d_sae))
    if architecture == "jumprelu":
        found["threshold"] = RNG.random(d_sae)
    return found


def coder_of(kind, architecture, **more):
    """A coder; every size differs from every other."""
    d_in, d_sae, d_out = 4, 6, 5 if kind in ("Transcoder", "CrossLayerTranscoder") else 4
    if architecture in ("topk", "abstopk", "groupmax"):
        more["k"] = 2
    cfg = iam.CoderConfig(architecture=architecture, d_in=d_in, d_sae=d_sae, d_out=d_out, **more)
    if kind == "CrossLayerTranscoder":
        each = [weights(architecture, d_in, d_sae) for _ in range(LAYERS)]
        lists = {name: [w[name] for w in each] for name in each[0]}
        return iam.CrossLayerTranscoder(
            cfg, **lists, W_dec=[RNG.normal(size=(d_sae, LAYERS - i, d_out)) for i in range(LAYERS)],
            b_dec=list(RNG.normal(size=(LAYERS, d_out))), W_skip=list(RNG.normal(size=(LAYERS, d_out, d_in))),
        )  # fmt: skip
    if kind == "Crosscoder":
        w = weights(architecture, d_in, d_sae, (LAYERS,))
        return iam.Crosscoder(
            cfg, **w, W_dec=RNG.normal(size=(d_sae, LAYERS, d_in)), b_dec=RNG.normal(size=(LAYERS, d_in))
        )
    w = weights(architecture, d_in, d_sae)
    if kind == "Transcoder":
        w["W_skip"] = RNG.normal(size=(d_out, d_in))
    if cfg.normalize_activations == "covariance_whitening":
        w |= {"whitening_mean": RNG.normal(size=d_in), "whitening_matrix": RNG.normal(size=(d_in, d_in)),
              "whitening_inverse": RNG.normal(size=(d_in, d_in))}  # fmt: skip
    return getattr(iam, kind)(cfg, **w, W_dec=RNG.normal(size=(d_sae, d_out)), b_dec=RNG.normal(size=d_out))


def run(coder):
    rng = np.random.default_rng(1)
    count = {"CrossLayerTranscoder": LAYERS, "Crosscoder": LAYERS}.get(type(coder).__name__)
    if count is None:
        return [coder(rng.normal(size=(7, 4)))]
    return coder([rng.normal(size=(7, 4)) for _ in range(count)])


SHARED = ("standard", "jumprelu", "topk", "abstopk", "groupmax", "gated")
CASES = [
    *[("SAE", a, {"apply_b_dec_to_input": True}) for a in (*SHARED, "matching_pursuit")],
    *[("Transcoder", a, {}) for a in SHARED],
    *[("CrossLayerTranscoder", a, {}) for a in SHARED],
    *[("Crosscoder", a, {"apply_b_dec_to_input": True}) for a in SHARED],
    ("SAE", "matching_pursuit", {"residual_threshold": 0.125, "max_iterations": 2, "stop_on_duplicate_support": False}),
    ("SAE", "topk", {"rescale_acts_by_decoder_norm": True, "reshape_activations": "hook_z"}),
    ("SAE", "standard", {"normalize_activations": "expected_average_only_in", "norm_scale": 0.1}),
    ("SAE", "jumprelu", {"normalize_activations": "layer_norm"}),
    ("SAE", "jumprelu", {"normalize_activations": "covariance_whitening"}),
    ("Transcoder", "gated", {"normalize_activations": "covariance_whitening"}),
    ("CrossLayerTranscoder", "gated", {"normalize_activations": "expected_average_only_in", "norm_scale": 3.7}),
    ("Crosscoder", "topk", {"normalize_activations": "constant_norm_rescale"}),
]


@pytest.mark.parametrize(("kind", "architecture", "more"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_everything_comes_back_bit_for_bit(kind, architecture, more, tmp_path):
    meta = {"model_name": "m", "nested": {"a": [1, 2.5, None, "é"]}, "prepend_bos": True}
    coder = coder_of(kind, architecture, metadata=meta, **more)
    assert iam.formats.save(coder, tmp_path / "new" / "x", format="iam") == tmp_path / "new" / "x"
    assert detect(tmp_path / "new" / "x").format == "iam"
    for again in (iam.formats.load(tmp_path / "new" / "x"), getattr(iam, kind).load_from_disk(tmp_path / "new" / "x")):
        assert type(again) is type(coder)
        assert raw_of(again).metadata == meta
        # what an SAE without normalisation is described by is the narrower class, with the same fields
        assert {f: getattr(again.cfg, f) for f in native._CONFIG_KEYS} == {
            f: getattr(coder.cfg, f) for f in native._CONFIG_KEYS
        }
        mine, theirs = coder.parameters(), again.parameters()
        assert set(mine) == set(theirs)
        for name, array in mine.items():
            assert np.array_equal(np.asarray(array), np.asarray(theirs[name])), name
        for left, right in zip(run(coder), run(again), strict=True):
            assert np.array_equal(left, right)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
@pytest.mark.parametrize(("kind", "architecture"), [(k, a) for k, a, more in CASES if len(more) < 2])
def test_smaller_types(kind, architecture, dtype, tmp_path):
    """Encoder and decoder are rounded, and nothing else: not thresholds, whose rounding would move what is active."""
    if kind == "SAE" and architecture == "matching_pursuit" and dtype == "int8":
        architecture = "topk"
    coder = coder_of(kind, architecture)
    native.write(coder, tmp_path, dtype)
    again = native.read(tmp_path)
    assert again.cfg.dtype == dtype and detect(tmp_path).format == "iam"
    rounded = 0
    for name, array in coder.parameters().items():
        left, right = np.asarray(array), np.asarray(again.parameters()[name])
        if name.split(".")[0] not in ("W_enc", "W_dec"):
            assert np.array_equal(left, right), name
            continue
        rounded += int((left != right).sum())
        left, right = (np.moveaxis(a, -1, 0) if name.startswith("W_enc") else a for a in (left, right))
        off = np.abs(left.astype(np.float64) - right)
        allowed = {"float16": 2.0**-11, "bfloat16": 2.0**-8}.get(dtype, 0) * np.abs(left)
        assert (off <= (native.error_bound(left) if dtype == "int8" else allowed)).all(), name
    assert rounded > 20


# int8.


@settings(max_examples=200, deadline=None)
@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 9)),
        elements=st.floats(-(2.0**120), 2.0**120, width=32),
    )
)
def test_int8_rounds_to_half_a_step_and_storing_again_changes_no_bit(rows):
    scales = native._scales(rows, Path("x"), "W")
    steps = np.frombuffer(b"".join(native._quantised(rows, scales).pieces()), np.int8).reshape(rows.shape)
    assert steps.min() >= -127
    lazy = LazyTensor(steps, "I8", "a test", scales[:, None])
    read = lazy.read()
    assert (np.abs(rows.astype(np.float64) - read) <= native.error_bound(rows)).all()
    exact = steps.astype(np.float64) * scales[:, None]
    assert np.array_equal(read, exact), "q · scale is exact in float32"
    again = native._scales(read, Path("x"), "W")
    assert np.array_equal(again, scales)
    assert np.array_equal(np.frombuffer(b"".join(native._quantised(read, again).pieces()), np.int8), steps.ravel())


def test_int8_bound_is_reached():
    """The bound is not slack: a value halfway between two steps is off by half a step."""
    row = np.array([[127.0, 0.5, -126.5]], np.float32)
    scales = native._scales(row, Path("x"), "W")
    steps = np.frombuffer(b"".join(native._quantised(row, scales).pieces()), np.int8)
    assert scales.tolist() == [1.0] and np.abs(row - steps).max() == 0.5
    assert native.error_bound(row) == pytest.approx(0.5, rel=2e-5)


def test_int8_of_lazy_rows(tmp_path):
    """Rows that are asked for are multiplied out, and no others; views keep their scales."""
    coder = coder_of("CrossLayerTranscoder", "topk")
    native.write(coder, tmp_path, "int8")
    raw = native.read_raw(tmp_path)
    for i in range(LAYERS):
        decoder, encoder = raw.tensors[f"W_dec.{i}"], raw.tensors[f"W_enc.{i}"]
        assert isinstance(decoder, LazyTensor) and isinstance(encoder, LazyTensor)
        whole = decoder.read()
        assert np.array_equal(decoder.rows([5, 0]), whole[[5, 0]])
        assert np.array_equal(decoder.rows(slice(2, 4)), whole[2:4])
        assert np.array_equal(decoder.rows(np.arange(6) % 2 == 0), whole[::2])
        assert np.array_equal(encoder.T.rows([1]), encoder.read()[:, [1]].T)
        assert np.array_equal(encoder.rows([1, 3]), encoder.read()[[1, 3]])
        assert np.array_equal(decoder.from_layer(1).read(), whole[:, 1:])


def test_int8_makes_a_quarter_of_the_file(tmp_path):
    cfg = iam.SAEConfig(architecture="topk", d_in=256, d_sae=1024, k=8)
    w = {"W_enc": RNG.normal(size=(256, 1024)), "W_dec": RNG.normal(size=(1024, 256))}
    sae = iam.SAE(cfg, **w, b_enc=np.zeros(1024), b_dec=np.zeros(256))
    size = {}
    for dtype in ("float32", "bfloat16", "int8"):
        native.write(sae, tmp_path / dtype, dtype)
        size[dtype] = sum(file.stat().st_size for file in native.files(tmp_path / dtype))
    assert size["bfloat16"] < 0.51 * size["float32"] and size["int8"] < 0.26 * size["float32"]


def test_int8_is_refused_by_other_formats_before_anything_is_written(tmp_path):
    coder = coder_of("SAE", "topk", apply_b_dec_to_input=True, dtype="int8")
    transcoder = coder_of("Transcoder", "jumprelu", dtype="int8")
    for which, name in ((coder, "saelens"), (coder, "sparsify"), (transcoder, "gemma_scope_2"), (transcoder, "circuit_tracer")):  # fmt: skip
        with pytest.raises(FormatError, match=r'cannot store as "int8".*held by format "iam"'):
            iam.formats.save(which, tmp_path / name, format=name)
        assert not (tmp_path / name).exists()
    with pytest.raises(FormatError, match='held by format "iam"'):
        coder.save_model(tmp_path / "x")
    coder.save_model(tmp_path / "y", dtype="float32")


def test_values_that_int8_cannot_hold(tmp_path):
    coder = coder_of("SAE", "standard")
    coder.W_dec[0, 0] = np.finfo(np.float32).max
    with pytest.raises(FormatError, match=r'"W_dec" holds 3\.4'):
        native.write(coder, tmp_path, "int8")
    native.write(coder, tmp_path, "float32")


# Folders.


def test_a_failed_write_leaves_the_old_coder(tmp_path, monkeypatch):
    old, new = coder_of("CrossLayerTranscoder", "topk"), coder_of("CrossLayerTranscoder", "topk")
    native.write(old, tmp_path)
    before = native.read(tmp_path)

    def fails(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(native, "write_json", fails)
        with pytest.raises(OSError, match="disk full"):
            native.write(new, tmp_path)
    for left, right in zip(run(native.read(tmp_path)), run(before), strict=True):
        assert np.array_equal(left, right)
    assert detect(tmp_path).format == "iam"
    native.write(new, tmp_path)
    for left, right in zip(run(native.read(tmp_path)), run(new), strict=True):
        assert np.array_equal(left, right)
    assert {file.name for file in native.files(tmp_path)} | {"coder.json"} == {f.name for f in tmp_path.iterdir()}


def test_a_coder_is_written_over_the_files_that_it_reads(tmp_path):
    coder = coder_of("CrossLayerTranscoder", "jumprelu")
    native.write(coder, tmp_path)
    lazy = native.read(tmp_path)
    native.write(lazy, tmp_path, "int8")
    native.write(native.read(tmp_path), tmp_path, "float32")
    again = native.read(tmp_path)
    for left, right in zip(coder.W_dec, again.W_dec, strict=True):
        assert 0 < np.abs(left - right.read()).max() <= native.error_bound(left).max()
    assert len(list(tmp_path.iterdir())) == LAYERS + 1


def test_writing_twice_gives_the_same_files(tmp_path):
    coder = coder_of("Transcoder", "gated")
    for name in ("a", "b"):
        native.write(coder, tmp_path / name, "int8")
    assert {f.name: f.read_bytes() for f in (tmp_path / "a").iterdir()} == {
        f.name: f.read_bytes() for f in (tmp_path / "b").iterdir()
    }


def test_verify_notices_a_changed_byte(tmp_path):
    native.write(coder_of("SAE", "topk"), tmp_path)
    native.verify(tmp_path)
    file = native.files(tmp_path)[0]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(FormatError, match="the file was changed"):
        native.verify(tmp_path)
    file.unlink()
    with pytest.raises(FormatError, match="there is none"):
        native.verify(tmp_path)


CHANGES = [
    ({"schema": "iam.weights/2"}, "format", "version 2 .* reads version 1"),
    ({"schema": "other/1"}, "format", 'expected schema "iam.weights/1"'),
    ({"kind": "saes"}, "config-value", 'did you mean "sae"'),
    ({"layers": 2}, "config-value", "expected 1 for kind sae"),
    ({"layers": 0}, "config-value", "layers"),
    ({"files": []}, "format", "one entry for each weight file"),
    ({"files": [{"name": "../x.safetensors", "bytes": 1, "sha256": ""}]}, "format", "name, bytes and sha256"),
    ({"file": []}, "config-key", 'did you mean "files"'),
    ({"config": {"k": 0}}, "config-value", "config.k"),
    ({"config": {"k": 7}}, "k-range", "k"),
    ({"config": {"kk": 2}}, "config-key", 'unknown key "kk"'),
    ({"config": {"architecture": "topkk"}}, "architecture", 'did you mean "topk"'),
    ({"config": {"normalize_activations": "l2"}}, "normalization", "unknown value"),
    ({"config": {"dtype": "float8"}}, "config-value", "float8"),
    ({"config": {"dtype": "bfloat16"}}, "tensor-dtype", "expected BF16, got F32"),
    ({"config": {"d_sae": 7}}, "tensor-shape", "expected shape"),
    ({"config": {"d_in": 5}}, "tensor-shape", "expected shape"),
    ({"config": {"norm_scale": "1"}}, "config-value", "expected a number"),
    ({"config": {"apply_b_dec_to_input": 1}}, "config-value", "true or false"),
    ({"config": {"metadata": []}}, "config-value", "metadata"),
    ({"config": 3}, "format", "expected an object"),
]


@pytest.mark.parametrize(("change", "code", "message"), CHANGES)
def test_what_coder_json_may_not_say(change, code, message, tmp_path):
    native.write(coder_of("SAE", "topk"), tmp_path)
    file = tmp_path / "coder.json"
    record = json.loads(file.read_text())
    for key, value in change.items():
        record[key] = record[key] | value if isinstance(value, dict) else value
    file.write_text(json.dumps(record))
    with pytest.raises(FormatError, match=message) as caught:
        native.read(tmp_path)
    assert caught.value.code == code


def test_a_key_of_the_config_may_not_be_missing(tmp_path):
    """No convention is guessed: a config that does not say whether b_dec is subtracted is refused."""
    native.write(coder_of("SAE", "topk"), tmp_path)
    file = tmp_path / "coder.json"
    record = json.loads(file.read_text())
    del record["config"]["apply_b_dec_to_input"]
    file.write_text(json.dumps(record))
    with pytest.raises(FormatError, match='expected a key "apply_b_dec_to_input"'):
        iam.formats.load(tmp_path)


def test_files_that_are_not_what_coder_json_names(tmp_path):
    native.write(coder_of("SAE", "topk"), tmp_path)
    file = native.files(tmp_path)[0]
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    with pytest.raises(FormatError) as caught:
        native.read(tmp_path)
    assert caught.value.code == "file-truncated"
    file.unlink()
    with pytest.raises(FormatError) as caught:
        native.read(tmp_path)
    assert caught.value.code == "file-missing"
    with pytest.raises(FormatError, match=r"expected a folder with coder\.json"):
        native.read(tmp_path / "nothing")


def test_metadata_must_be_json(tmp_path):
    with pytest.raises(FormatError, match="metadata is not JSON"):
        native.write(coder_of("SAE", "topk", metadata={"x": object()}), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_kind_is_checked(tmp_path):
    native.write(coder_of("Crosscoder", "topk"), tmp_path)
    assert iam.formats.load(tmp_path, kind="crosscoder").n_sites == LAYERS
    with pytest.raises(FormatError, match="expected kind sae, the files hold a crosscoder"):
        iam.formats.load(tmp_path, kind="sae")
    with pytest.raises(FormatError, match="got a Crosscoder"):
        iam.SAE.load_from_disk(tmp_path)


def test_save_model_of_coders_that_saelens_has_not(tmp_path):
    for kind in ("CrossLayerTranscoder", "Crosscoder"):
        coder = coder_of(kind, "gated")
        assert coder.save_model(tmp_path / kind, dtype="int8") == tmp_path / kind
        assert type(coder).load_from_disk(tmp_path / kind).cfg.dtype == "int8"


@pytest.mark.parametrize("kind", ["SAE", "Transcoder", "CrossLayerTranscoder", "Crosscoder"])
def test_convert_and_inspect(kind, tmp_path):
    from iam.cli._convert import convert_path
    from iam.cli._inspect import inspect_path

    native.write(coder_of(kind, "jumprelu"), tmp_path / "a")
    done = convert_path(tmp_path / "a", tmp_path / "b", "iam", dtype="int8")
    assert done.coders == 1 and 0 < done.rounding < 0.05 and "float32 is stored as int8" in done.changes
    back = convert_path(tmp_path / "b", tmp_path / "c", "iam", dtype="float32")
    assert back.rounding == 0
    seen = inspect_path(tmp_path / "b")
    assert seen.format == "IAM (iam)" and seen.facts["dtype"] == "int8"
    assert any("SHA-256" in note for note in seen.notes)
    rows = {(row.name, row.dtype) for row in seen.tensors}
    assert {("W_dec", "I8"), ("W_dec.scale", "F32"), ("threshold", "F32")} <= rows
    file = native.files(tmp_path / "b")[0]
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(FormatError, match="was changed"):
        inspect_path(tmp_path / "b")


def test_conversion_between_formats(tmp_path):
    from iam.cli._convert import convert_path

    sae = coder_of("SAE", "topk", apply_b_dec_to_input=True)
    sae.save_model(tmp_path / "a")
    convert_path(tmp_path / "a", tmp_path / "b", "iam")
    convert_path(tmp_path / "b", tmp_path / "c", "sparsify")
    assert np.array_equal(iam.formats.load(tmp_path / "c").W_enc, sae.W_enc)
    clt = coder_of("CrossLayerTranscoder", "jumprelu")
    raw = replace(raw_of(clt), tensors={n: t for n, t in raw_of(clt).tensors.items() if not n.startswith("W_skip")})
    pytest.importorskip("yaml")
    iam.formats.save(build(raw), tmp_path / "d", format="circuit_tracer_clt")
    convert_path(tmp_path / "d", tmp_path / "e", "iam")
    assert np.array_equal(np.asarray(native.read_raw(tmp_path / "e").tensors["W_dec.0"]), raw.tensors["W_dec.0"])


@pytest.mark.slow
def test_int8_of_the_sae_in_the_package(smollm2, tmp_path):
    """A quarter of the size, and the same explained variance to 0.001, on text that it was not trained on."""
    root = Path(__file__).resolve().parents[2]
    sae = iam.SAE.load_from_disk(Path(iam.__file__).parent / "data" / "smollm2-135m-resid_post-15")
    text = (root / "tests" / "fixtures" / "persuasion.txt").read_text(encoding="utf-8")[:20_000]
    ids = smollm2.tokenizer(text)["input_ids"][:4096]
    tokens = np.array(ids[: len(ids) // 128 * 128]).reshape(-1, 128)
    size, variance = {}, {}
    for dtype in ("float32", "int8"):
        native.write(sae, tmp_path / dtype, dtype)
        size[dtype] = native.files(tmp_path / dtype)[0].stat().st_size
        coder = native.read(tmp_path / dtype)
        found = iam.evaluate(coder, model=smollm2, tokens=tokens, losses=False, from_position=1)
        variance[dtype] = found.metrics["reconstruction_quality"]["explained_variance"]
    print(f"int8 of the shipped SAE: {size}, explained variance {variance}")
    assert size["int8"] < 0.26 * size["float32"]
    assert variance["float32"] > 0.5 and abs(variance["int8"] - variance["float32"]) < 1e-3
