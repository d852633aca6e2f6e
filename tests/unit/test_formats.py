"""SAELens directories and safetensors files: round trips, old forms, and every way in which a file can be wrong."""

import json
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import iam
from iam.core.errors import ArgumentError, FormatError
from iam.formats import SafetensorsFile, _atomic, saelens, write_safetensors
from iam.formats._safetensors import to_bfloat16_bits

CFG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"


def make_sae(architecture="topk", d_in=4, d_sae=8, k=3, **cfg):
    rng = np.random.default_rng(0)
    config = iam.SAEConfig(
        architecture=architecture, d_in=d_in, d_sae=d_sae, k=k if architecture == "topk" else None, **cfg
    )
    return iam.SAE(
        config,
        W_enc=rng.normal(size=(d_in, d_sae)).astype(np.float32),
        b_enc=rng.normal(size=d_sae).astype(np.float32),
        W_dec=rng.normal(size=(d_sae, d_in)).astype(np.float32),
        b_dec=rng.normal(size=d_in).astype(np.float32),
        threshold=rng.random(d_sae).astype(np.float32) if architecture == "jumprelu" else None,
    )


def weights_of(sae):
    names = ["W_enc", "b_enc", "W_dec", "b_dec"] + (["threshold"] if sae.threshold is not None else [])
    return {name: getattr(sae, name) for name in names}


@pytest.fixture
def saved(tmp_path):
    """A saved SAE; ``edit_cfg`` and ``edit_weights`` break it."""
    make_sae().save_model(tmp_path)
    return tmp_path


def edit_cfg(path, **change):
    raw = json.loads((path / CFG).read_text())
    for key, value in change.items():
        raw.pop(key, None)
        if value is not ...:
            raw[key] = value
    (path / CFG).write_text(json.dumps(raw))


def refused(path, code):
    with pytest.raises(FormatError) as caught:
        iam.SAE.load_from_disk(path)
    assert caught.value.code == code, str(caught.value)
    assert str(path) in str(caught.value), "the message says which file"
    return str(caught.value)


# Round trips.


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_round_trip(architecture, dtype, tmp_path):
    torch = pytest.importorskip("torch")
    sae = make_sae(architecture, dtype=dtype, metadata={"hook_name": "blocks.1.hook_resid_post", "l0": 3.5})
    paths = sae.save_model(tmp_path / "new" / "folder")
    assert [p.name for p in paths] == [WEIGHTS, CFG]
    loaded = iam.SAE.load_from_disk(str(tmp_path / "new" / "folder"))
    assert loaded.cfg == sae.cfg and str(loaded.site) == "resid_post.1"
    for name, array in weights_of(sae).items():
        stored = torch.from_numpy(array).to(getattr(torch, dtype)).float().numpy()
        assert np.array_equal(getattr(loaded, name), stored), name
    assert saelens.read_config(tmp_path / "new" / "folder") == sae.cfg


@settings(max_examples=15)
@given(
    d_in=st.integers(1, 5),
    d_sae=st.integers(1, 9),
    subtract=st.booleans(),
    metadata=st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text(max_size=5)),
    data=st.data(),
)
def test_round_trip_of_any_config(d_in, d_sae, subtract, metadata, data, tmp_path_factory):
    path = tmp_path_factory.mktemp("sae")
    k = data.draw(st.integers(1, d_sae))
    sae = make_sae("topk", d_in, d_sae, k, apply_b_dec_to_input=subtract, metadata=metadata)
    sae.save_model(path)
    loaded = iam.SAE.load_from_disk(path)
    assert loaded.cfg == sae.cfg
    assert all(np.array_equal(getattr(loaded, n), a) for n, a in weights_of(sae).items())


def test_the_reference_implementation_reads_what_we_write(tmp_path):
    library = pytest.importorskip("safetensors.torch")
    sae = make_sae()
    for dtype in ("float32", "float16", "bfloat16"):
        sae.save_model(tmp_path, dtype=dtype)
        read = library.load_file(tmp_path / WEIGHTS)
        assert set(read) == set(weights_of(sae))
        for name, tensor in read.items():
            assert str(tensor.dtype) == f"torch.{dtype}"
            assert np.array_equal(tensor.float().numpy(), getattr(iam.SAE.load_from_disk(tmp_path), name))


def test_we_read_what_the_reference_implementation_writes(tmp_path):
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        tensors = {"a": torch.randn(3, 5).to(dtype), "b": torch.randn(0, 2).to(dtype), "c": torch.randn(()).to(dtype)}
        library.save_file(tensors, tmp_path / "x.safetensors", metadata={"made by": "a test"})
        file = SafetensorsFile(tmp_path / "x.safetensors")
        assert file.metadata == {"made by": "a test"}
        for name, tensor in tensors.items():
            assert np.array_equal(file.read(name), tensor.float().numpy())
            assert file.tensors[name].shape == tuple(tensor.shape)


@given(st.lists(st.floats(width=32), min_size=1, max_size=50))
def test_bfloat16_rounds_as_torch_does(values):
    torch = pytest.importorskip("torch")
    array = np.array(values, np.float32)
    ours = torch.from_numpy(to_bfloat16_bits(array).view(np.int16)).view(torch.bfloat16)
    theirs = torch.from_numpy(array).to(torch.bfloat16)
    assert torch.equal(ours[~ours.isnan()], theirs[~theirs.isnan()])
    assert torch.equal(ours.isnan(), theirs.isnan())


def test_float16_refuses_what_it_cannot_hold(tmp_path):
    with pytest.raises(FormatError, match="float16"):
        write_safetensors(tmp_path / "x.safetensors", {"a": np.array([7e4], np.float32)}, dtype="float16")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ArgumentError, match='did you mean "float16"'):
        make_sae().save_model(tmp_path, dtype="flaot16")
    with pytest.raises(FormatError, match="JSON"):
        make_sae(metadata={"when": object()}).save_model(tmp_path)


def test_writes_are_atomic(saved, monkeypatch):
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    assert set(before) == {CFG, WEIGHTS}, "no temporary file is left"

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(_atomic.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        make_sae(d_sae=9).save_model(saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before
    monkeypatch.undo()
    mask = os.umask(0o022)
    try:
        make_sae().save_model(saved)
    finally:
        os.umask(mask)
    assert (saved / CFG).stat().st_mode & 0o777 == 0o644


# Conventions of other versions.


def test_config_before_6_0(saved):
    old = {
        "architecture": "standard",
        "d_in": 4,
        "d_sae": 8,
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 3},
        "apply_b_dec_to_input": False,
        "dtype": "torch.float32",
        "device": "cuda",
        "hook_point": "blocks.2.hook_resid_pre",
        "hook_layer": 2,
        "model_name": "gpt2-small",
        "normalize_activations": False,
        "finetuning_scaling_factor": False,
        "context_size": 128,
    }
    (saved / CFG).write_text(json.dumps(old))
    cfg = iam.SAE.load_from_disk(saved).cfg
    assert (cfg.architecture, cfg.k, cfg.apply_b_dec_to_input, cfg.dtype) == ("topk", 3, False, "float32")
    assert cfg.normalize_activations == "none"
    assert cfg.metadata["hook_name"] == "blocks.2.hook_resid_pre" and cfg.metadata["context_size"] == 128
    assert cfg.metadata["prepend_bos"] is True
    relu = {**old, "activation_fn_str": "relu", "activation_fn_kwargs": {}}
    (saved / CFG).write_text(json.dumps(relu))
    assert iam.SAE.load_from_disk(saved).cfg.architecture == "standard"
    (saved / CFG).write_text(json.dumps({**relu, "normalize_activations": True}))
    assert "expected_average_only_in" in refused(saved, "normalization")
    (saved / CFG).write_text(json.dumps({**relu, "activation_fn_str": "gelu"}))
    assert "Known: relu, topk" in refused(saved, "architecture")
    (saved / CFG).write_text(json.dumps({**relu, "finetuning_scaling_factor": True}))
    refused(saved, "config-value")
    (saved / CFG).write_text(json.dumps({**old, "architecture": "jumprelu"}))
    assert "does not go with" in refused(saved, "architecture")
    (saved / CFG).write_text(json.dumps({**old, "activation_fn_kwargs": {}}))
    refused(saved, "config-key")


def test_values_that_other_versions_write(saved):
    edit_cfg(saved, k=3.0, normalize_activations=None, reshape_activations=None, dtype="float64", metadata=None)
    cfg = iam.SAE.load_from_disk(saved).cfg
    assert cfg.k == 3 and cfg.normalize_activations == cfg.reshape_activations == "none" and cfg.dtype == "float32"
    edit_cfg(saved, apply_b_dec_to_input=..., device=..., architecture="standard", k=...)
    edit_cfg(saved, rescale_acts_by_decoder_norm=...)
    assert iam.SAE.load_from_disk(saved).cfg.apply_b_dec_to_input is True


def test_log_threshold(tmp_path):
    sae = make_sae("jumprelu")
    sae.save_model(tmp_path)
    tensors = weights_of(sae)
    tensors["log_threshold"] = np.log(tensors.pop("threshold"))
    write_safetensors(tmp_path / WEIGHTS, tensors)
    assert np.allclose(iam.SAE.load_from_disk(tmp_path).threshold, sae.threshold, rtol=1e-6)


def test_rescaled_activations_are_folded(saved, rng):
    from iam.reference import clt

    sae = make_sae()
    edit_cfg(saved, rescale_acts_by_decoder_norm=True)
    loaded = iam.SAE.load_from_disk(saved)
    x = rng.normal(size=(7, 4)).astype(np.float32)
    norms = np.linalg.norm(sae.W_dec, axis=1)
    f = clt.topk(clt.encode(x, sae.W_enc, sae.b_enc, sae.b_dec) * norms, k=3)
    assert np.allclose(loaded.encode(x).to_dense(), f, atol=1e-5)
    assert np.allclose(loaded(x), clt.decode(f / norms, sae.W_dec, sae.b_dec), atol=1e-5)


def test_scaling_factor_of_ones_is_ignored(saved):
    write_safetensors(saved / WEIGHTS, {**weights_of(make_sae()), "scaling_factor": np.ones(8, np.float32)})
    iam.SAE.load_from_disk(saved)
    write_safetensors(saved / WEIGHTS, {**weights_of(make_sae()), "scaling_factor": np.full(8, 2.0, np.float32)})
    assert "scaling_factor" in refused(saved, "format")


# What is wrong with it?


def test_missing(tmp_path, saved):
    assert "there is none" in refused(tmp_path / "nowhere", "file-missing")
    assert "this is a file" in refused(saved / CFG, "file-missing")
    (tmp_path / "empty").mkdir()
    assert "found nothing" in refused(tmp_path / "empty", "file-missing")
    (saved / WEIGHTS).unlink()
    refused(saved, "file-missing")


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"architecture": "jumpreul"}, "architecture", 'did you mean "jumprelu"? Known: abstopk, gated'),
        ({"architecture": "temporal"}, "architecture", "not run by this version"),
        ({"architecture": "transcoder", "k": ...}, "config-key", '"d_out"'),
        ({"architecture": "batchtopk"}, "architecture", "save_inference_model"),
        ({"architecture": None}, "architecture", "null"),
        ({"architecture": ["topk"]}, "architecture", "topk"),
        ({"k": 9}, "k-range", "1..8"),
        ({"k": 2.5}, "k-range", "2.5"),
        ({"k": "3"}, "k-range", "'3'"),
        ({"k": ...}, "config-key", '"k"'),
        ({"d_in": ...}, "config-key", '"d_in"'),
        ({"d_sae": -8}, "config-value", "-8"),
        ({"d_in": "four"}, "config-value", "four"),
        ({"d_in": 10**30}, "config-value", "d_in"),
        ({"d_in": 5}, "tensor-shape", "expected shape (5, 8)"),
        ({"d_sae": 7}, "tensor-shape", "(4, 8)"),
        ({"apply_b_dec_to_inptu": False}, "config-key", 'did you mean "apply_b_dec_to_input"'),
        ({"apply_b_dec_to_input": "yes"}, "config-value", "yes"),
        ({"normalize_activations": "layer_nrom"}, "normalization", 'did you mean "layer_norm"'),
        ({"normalize_activations": "expected_average_only_in"}, "normalization", "fold"),
        ({"reshape_activations": "hook_q"}, "config-value", "hook_q"),
        ({"rescale_acts_by_decoder_norm": 1}, "config-value", "true or false"),
        ({"dtype": "int8"}, "config-value", "int8"),
        ({"dtype": 7}, "config-value", "dtype"),
        ({"metadata": [1]}, "config-value", "metadata"),
    ],
)
def test_bad_config(saved, change, code, says):
    edit_cfg(saved, **change)
    assert says in refused(saved, code)


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"\xff\xfe", b"null", b'{"d_in": }', b"[" * 100_000])
def test_config_that_is_no_json_object(saved, text):
    (saved / CFG).write_bytes(text)
    refused(saved, "format")


def test_tensors_that_do_not_belong(saved):
    good = weights_of(make_sae())
    write_safetensors(saved / WEIGHTS, {n: a for n, a in good.items() if n != "b_enc"})
    assert '"b_enc", the file has: W_dec, W_enc, b_dec' in refused(saved, "tensor-missing")
    write_safetensors(saved / WEIGHTS, {**good, "W_skip": np.ones((4, 4), np.float32)})
    assert "W_skip" in refused(saved, "tensor-missing")
    write_safetensors(saved / WEIGHTS, {**good, "W_enc": good["W_enc"].T})
    assert "expected shape (4, 8)" in refused(saved, "tensor-shape")
    bad = good["W_enc"].copy()
    bad[1, 2] = np.nan
    write_safetensors(saved / WEIGHTS, {**good, "W_enc": bad})
    assert "got nan at (1, 2)" in refused(saved, "non-finite")
    edit_cfg(saved, architecture="jumprelu", k=...)
    write_safetensors(saved / WEIGHTS, good)
    assert '"threshold"' in refused(saved, "tensor-missing")
    write_safetensors(saved / WEIGHTS, {**good, "threshold": np.full(8, -1.0, np.float32)})
    assert ">= 0" in refused(saved, "format")


def test_every_truncation_is_noticed(saved):
    whole = (saved / WEIGHTS).read_bytes()
    for length in range(len(whole)):
        (saved / WEIGHTS).write_bytes(whole[:length])
        refused(saved, "file-truncated")
    (saved / WEIGHTS).write_bytes(whole + b"\0")
    refused(saved, "file-header")


def file_with(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (path / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data)


def entry(**change):
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **change}


@pytest.mark.parametrize(
    ("header", "data", "code"),
    [
        (b"not json", b"", "file-header"),
        (b"[]", b"", "file-header"),
        (b"\xff\xff", b"", "file-header"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":1}', b"12345678", "file-header"),
        ({"a": 1}, b"", "file-header"),
        ({"a": {"dtype": "F32"}}, b"", "file-header"),
        ({"a": entry(more=1)}, b"12345678", "file-header"),
        ({"a": entry(dtype="F33")}, b"12345678", "file-header"),
        ({"a": entry(dtype=["F32"])}, b"12345678", "file-header"),
        ({"a": entry(shape=2)}, b"12345678", "file-header"),
        ({"a": entry(shape=[-2])}, b"12345678", "file-header"),
        ({"a": entry(shape=[2.0])}, b"12345678", "file-header"),
        ({"a": entry(shape=[True, 2])}, b"12345678", "file-header"),
        ({"a": entry(shape=[2**62, 2**62])}, b"12345678", "file-header"),
        ({"a": entry(shape=[3])}, b"12345678", "file-header"),
        ({"a": entry(data_offsets=[8, 0])}, b"12345678", "file-header"),
        ({"a": entry(data_offsets=[0])}, b"12345678", "file-header"),
        ({"a": entry(data_offsets=[-8, 0])}, b"12345678", "file-header"),
        ({"a": entry(data_offsets=[0, 2**70])}, b"12345678", "file-header"),
        ({"a": entry(data_offsets=[4, 12])}, b"123456789012", "file-header"),
        ({"a": entry(), "b": entry()}, b"12345678", "file-header"),
        ({"a": entry(), "__metadata__": {"a": 1}}, b"12345678", "file-header"),
        ({"a": entry()}, b"1234567", "file-truncated"),
    ],
)
def test_malformed_header(saved, header, data, code):
    file_with(saved, header, data)
    refused(saved, code)


def test_header_length_is_not_trusted(saved):
    (saved / WEIGHTS).write_bytes(struct.pack("<Q", 2**63) + b"{}")
    assert "no safetensors" in refused(saved, "file-header")


def test_type_that_is_not_read(saved):
    good = weights_of(make_sae())
    write_safetensors(saved / WEIGHTS, good)
    raw = (saved / WEIGHTS).read_bytes()
    assert raw.count(b'"F32"') == 4
    (saved / WEIGHTS).write_bytes(raw.replace(b'"F32"', b'"I32"'))
    assert "got I32" in refused(saved, "tensor-dtype")


def loads_or_is_refused(path):
    """Any other exception fails the test."""
    try:
        iam.SAE.load_from_disk(path)
    except FormatError as error:
        message = str(error)
    else:
        return
    assert str(path) in message


@settings(max_examples=300)
@given(data=st.data())
def test_fuzz_weights(data, tmp_path_factory):
    """Any change of any bytes: the file loads, or the error is a FormatError that names it. Never a crash."""
    path = tmp_path_factory.mktemp("sae")
    make_sae(d_in=2, d_sae=3, k=2).save_model(path)
    raw = bytearray((path / WEIGHTS).read_bytes())
    header = 8 + int.from_bytes(raw[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, header - 1) | st.integers(0, len(raw) - 1))
        kind = data.draw(st.sampled_from(["flip", "set", "insert", "delete"]))
        if kind == "flip":
            raw[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "set":
            raw[at] = data.draw(st.sampled_from(b'\x00\xff09-,:{}[]"e.'))
        elif kind == "insert":
            raw[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        else:
            del raw[at : at + data.draw(st.integers(1, 9))]
        if len(raw) == 0:
            break
        at = min(at, len(raw) - 1)
        header = min(header, len(raw))
    (path / WEIGHTS).write_bytes(raw)
    loads_or_is_refused(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=150)
@given(
    key=st.sampled_from([*saelens._KEYS, "activation_fn_str", "activation_fn_kwargs", "hook_point"]), value=json_values
)
def test_fuzz_config(key, value, tmp_path_factory):
    path = tmp_path_factory.mktemp("sae")
    make_sae(d_in=2, d_sae=3, k=2).save_model(path)
    edit_cfg(path, **{key: value})
    if key in ("activation_fn_str", "activation_fn_kwargs", "hook_point"):
        edit_cfg(path, metadata=...)
    loads_or_is_refused(path)
