"""Every published format: round trips, orientation, detection, and the mistakes of other tools that IAM does not make."""

import json
from dataclasses import replace

import numpy as np
import pytest

import iam
from iam.core.errors import ArgumentError, FormatError
from iam.formats import FORMATS, SafetensorsFile, _detect, detect, write_safetensors
from iam.formats._build import build, raw_of
from iam.formats._lazy import LazyTensor, as_float32
from iam.formats._raw import RawCoder, expected_shapes, fold_b_dec, fold_norm_scale, fold_rescaling, unfold_b_dec

SAE_META = {"model_name": "gemma-2-2b", "hook_name": "blocks.3.hook_resid_post"}
TRANSCODER_META = {
    "model_name": "gemma-2-2b",
    "hook_name": "blocks.0.ln2.hook_normalized",
    "hook_name_out": "blocks.0.hook_mlp_out",
}
CLT_META = {"model_name": "m", "feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}


def make(kind="sae", architecture="jumprelu", *, skip=False, d_in=4, d_sae=6, d_out=None, n_layers=1, seed=0, **more):
    """A record with random weights; every size differs from every other, so a wrong transpose has a wrong shape."""
    rng = np.random.default_rng(seed)
    d_out = d_in if kind == "sae" or d_out is None else d_out
    metadata = {"sae": SAE_META, "transcoder": TRANSCODER_META, "cross_layer": CLT_META}[kind]
    values = {
        "source": "a test",
        "kind": kind,
        "architecture": architecture,
        "d_in": d_in,
        "d_out": d_out,
        "d_sae": d_sae,
    }
    values |= {"n_layers": n_layers, "metadata": metadata, **more}
    if architecture in ("topk", "abstopk", "groupmax"):
        values["k"] = 2
    sizes = type("Sizes", (), {"normalize_activations": "none", **values})
    shapes, _ = expected_shapes(sizes)
    tensors = {
        name: (rng.random(shape) if name.startswith("threshold") else rng.normal(size=shape)).astype(np.float32)
        for name, shape in shapes.items()
        if skip or not name.startswith("W_skip")
    }
    return RawCoder(**values, tensors=tensors)


def same(a, b, *, exact=True, apart_from=()):
    """Two records that say the same."""
    for name in ("kind", "architecture", "d_in", "d_out", "d_sae", "n_layers", "k", "apply_b_dec_to_input", "metadata",
                 "normalize_activations", "rescale_acts_by_decoder_norm", "dtype", "reshape_activations"):  # fmt: skip
        if name not in apart_from:
            assert getattr(a, name) == getattr(b, name), name
    if a.norm_scale is not None or b.norm_scale is not None:
        assert a.norm_scale == pytest.approx(b.norm_scale, rel=1e-12)
    assert set(a.tensors) == set(b.tensors)
    for name, tensor in a.tensors.items():
        left, right = as_float32(tensor), as_float32(b.tensors[name])
        assert np.array_equal(left, right) if exact else np.allclose(left, right, rtol=1e-5, atol=1e-5), name


def forward(raw, x):
    """The function of a record in float64, written out; for one-layer records."""
    w = {name: as_float32(tensor).astype(np.float64) for name, tensor in raw.tensors.items()}
    inner = x * (raw.norm_scale if raw.norm_scale is not None else 1.0)
    inner = inner - w["b_dec"] if raw.apply_b_dec_to_input else inner
    h = inner @ w["W_enc"] + w.get("b_enc", 0.0)
    if raw.architecture == "gated":
        f = ((h + w["b_gate"]) > 0) * np.maximum(h * np.exp(w["r_mag"]) + w["b_mag"], 0)
    elif raw.architecture == "jumprelu":
        f = np.maximum(h, 0) * (h > w["threshold"])
    elif raw.architecture == "topk":
        norms = np.linalg.norm(w["W_dec"], axis=1) if raw.rescale_acts_by_decoder_norm else np.ones(raw.d_sae)
        order = np.argsort(-(h * norms), axis=-1, kind="stable")[:, : raw.k]
        f = np.zeros_like(h)
        np.put_along_axis(f, order, np.maximum(np.take_along_axis(h, order, -1), 0), -1)
    else:
        f = np.maximum(h, 0)
    y = f @ w["W_dec"] + w["b_dec"]
    if raw.norm_scale is not None:
        y = y / raw.norm_scale
    return y + (x @ w["W_skip"].T if "W_skip" in w else 0.0)


# What each format holds as it is.
ROUND_TRIPS = [
    *[("saelens", make("sae", a, apply_b_dec_to_input=b)) for a in
      ("standard", "topk", "abstopk", "jumprelu", "gated", "matching_pursuit") for b in (True, False)],
    ("saelens", make("sae", "topk", rescale_acts_by_decoder_norm=True)),
    *[("saelens", make("transcoder", a, skip=s, d_out=5)) for a in ("standard", "jumprelu") for s in (True, False)],
    ("gemma_scope", make("sae")), ("gemma_scope", make("transcoder", d_out=5)), ("gemma_scope", make("transcoder")),
    ("gemma_scope_2", make("sae")), ("gemma_scope_2", make("transcoder", d_out=5, skip=True)),
    ("gemma_scope_2", make("transcoder", skip=True)), ("gemma_scope_2", make("transcoder")),
    ("gemma_scope_2", make("cross_layer", n_layers=3)), ("gemma_scope_2", make("cross_layer", n_layers=3, skip=True)),
    *[("circuit_tracer", make("transcoder", a, skip=s, d_out=5)) for a in ("standard", "jumprelu", "topk")
      for s in (True, False)],
    ("circuit_tracer_clt", make("cross_layer", n_layers=3)),
    ("circuit_tracer_clt", make("cross_layer", "standard", n_layers=1)),
    *[("sparsify", make("sae", a, apply_b_dec_to_input=True)) for a in ("topk", "groupmax", "abstopk")],
    *[("sparsify", make("transcoder", a, skip=s, d_out=5)) for a in ("topk", "groupmax") for s in (True, False)],
    *[("dictionary_learning", make("sae", a, apply_b_dec_to_input=True)) for a in ("standard", "gated", "topk")],
    ("dictionary_learning", make("sae", "standard")), ("dictionary_learning", make("sae", "jumprelu")),
]  # fmt: skip


def label(case):
    name, raw = case
    skip = "-skip" if any(n.startswith("W_skip") for n in raw.tensors) else ""
    return f"{name}-{raw.kind}-{raw.architecture}{skip}-{raw.d_in}-{raw.d_out}-{raw.apply_b_dec_to_input}"


@pytest.mark.parametrize("case", ROUND_TRIPS, ids=label)
def test_round_trip(case, tmp_path):
    name, raw = case
    if name == "dictionary_learning":
        pytest.importorskip("torch")
    _detect.save_raw(raw, tmp_path / "new" / "x", format=name)
    found = detect(tmp_path / "new" / "x")
    assert found.format == name, found
    again = _detect.load_raw(tmp_path / "new" / "x")
    same(raw, again)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["saelens", "gemma_scope_2", "circuit_tracer", "sparsify", "circuit_tracer_clt"])
def test_round_trip_of_small_types(name, dtype, tmp_path):
    torch = pytest.importorskip("torch")
    kind = {"saelens": "sae", "circuit_tracer_clt": "cross_layer"}.get(name, "transcoder")
    architecture = "topk" if name == "sparsify" else "jumprelu"
    raw = make(kind, architecture, n_layers=2 if kind == "cross_layer" else 1, dtype=dtype)
    _detect.save_raw(raw, tmp_path, format=name)
    again = _detect.load_raw(tmp_path)
    assert again.dtype == dtype
    for tensor, array in raw.tensors.items():
        stored = torch.from_numpy(array).to(getattr(torch, dtype)).float().numpy()
        assert np.array_equal(as_float32(again.tensors[tensor]), stored), tensor


def test_every_format_has_a_round_trip():
    assert {name for name, _ in ROUND_TRIPS} | {"llama_scope"} == set(FORMATS)


# The same function in a format that has another convention.

CONVERSIONS = [
    ("gemma_scope", make("sae", "standard", apply_b_dec_to_input=True)),
    ("gemma_scope", make("sae", "jumprelu", normalize_activations="expected_average_only_in", norm_scale=2.5)),
    ("gemma_scope_2", make("transcoder", "standard", skip=True)),
    ("sparsify", make("sae", "topk")),
    ("sparsify", make("sae", "topk", rescale_acts_by_decoder_norm=True)),
    ("dictionary_learning", make("sae", "gated")),
    ("dictionary_learning", make("sae", "topk")),
    ("dictionary_learning", make("sae", "jumprelu", apply_b_dec_to_input=True)),
    ("llama_scope", make("sae", "standard", apply_b_dec_to_input=True)),
    (
        "saelens",
        make(
            "sae",
            "jumprelu",
            apply_b_dec_to_input=True,
            normalize_activations="expected_average_only_in",
            norm_scale=0.3,
        ),
    ),
]


@pytest.mark.parametrize("case", CONVERSIONS, ids=label)
def test_conversion_keeps_the_function(case, tmp_path, rng):
    name, raw = case
    if name == "dictionary_learning":
        pytest.importorskip("torch")
    _detect.save_raw(raw, tmp_path, format=name)
    x = rng.normal(size=(50, raw.d_in))
    # float32 rounding of folded weights: a few ulps of sums of at most 6 products of numbers below 10
    assert np.allclose(forward(raw, x), forward(_detect.load_raw(tmp_path), x), atol=1e-4)


@pytest.mark.parametrize("architecture", ["standard", "topk", "gated", "jumprelu"])
def test_folds_are_the_same_function(architecture, rng):
    x = rng.normal(size=(50, 4))
    raw = make("sae", architecture, apply_b_dec_to_input=True)
    assert np.allclose(forward(raw, x), forward(fold_b_dec(raw), x), atol=1e-5)
    assert not fold_b_dec(raw).apply_b_dec_to_input
    plain = replace(raw, apply_b_dec_to_input=False)
    assert np.allclose(forward(plain, x), forward(unfold_b_dec(plain), x), atol=1e-5)
    scaled = replace(raw, normalize_activations="expected_average_only_in", norm_scale=3.0)
    assert np.allclose(forward(scaled, x), forward(fold_norm_scale(scaled), x), atol=1e-5)
    assert not np.allclose(forward(scaled, x), forward(raw, x), atol=1e-2), "the scale matters"
    if architecture == "topk":
        by_norm = replace(raw, rescale_acts_by_decoder_norm=True)
        assert np.allclose(forward(by_norm, x), forward(fold_rescaling(by_norm), x), atol=1e-5)


def test_llama_scope(tmp_path, rng):
    """The input is scaled by √d / norm, and so is the threshold, which is in unscaled units."""
    raw = make("sae", "jumprelu", d_in=4, d_sae=6)
    folder = tmp_path / "Llama3_1-8B-Base-L3R-8x"
    (folder / "checkpoints").mkdir(parents=True)
    w = {name: as_float32(tensor) for name, tensor in raw.tensors.items()}
    stored = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "decoder.weight": w["W_dec"].T, "decoder.bias": w["b_dec"]}  # fmt: skip
    write_safetensors(folder / "checkpoints" / "final.safetensors", stored)
    hyper = {
        "d_model": 4, "d_sae": 6, "jump_relu_threshold": 0.5, "dataset_average_activation_norm": {"in": 8.0, "out": 8.0},
        "hook_point_in": "blocks.3.hook_resid_post", "hook_point_out": "blocks.3.hook_resid_post", "expansion_factor": 8,
    }  # fmt: skip
    (folder / "hyperparams.json").write_text(json.dumps(hyper))
    assert detect(folder).format == "llama_scope"
    assert detect(folder / "checkpoints" / "final.safetensors").path == folder
    loaded = _detect.load_raw(folder)
    assert loaded.normalize_activations == "expected_average_only_in" and loaded.norm_scale == 0.25
    assert loaded.metadata["hook_name"] == "blocks.3.hook_resid_post" and not loaded.apply_b_dec_to_input
    x = rng.normal(size=(50, 4)) * 8
    h = (x * 0.25) @ w["W_enc"] + w["b_enc"]
    expected = ((h * (h > 0.125)).clip(0) @ w["W_dec"] + w["b_dec"]) / 0.25
    assert np.allclose(forward(loaded, x), expected, atol=1e-4)
    _detect.save_raw(loaded, tmp_path / "again", format="llama_scope")
    same(loaded, _detect.load_raw(tmp_path / "again"))
    # a transcoder: two scales, folded
    hyper |= {"hook_point_out": "blocks.3.hook_mlp_out", "dataset_average_activation_norm": {"in": 8.0, "out": 2.0}}
    (folder / "hyperparams.json").write_text(json.dumps(hyper))
    both = _detect.load_raw(folder)
    assert both.kind == "transcoder" and both.norm_scale is None
    expected = ((h * (h > 0.125)).clip(0) @ w["W_dec"] + w["b_dec"]) / 1.0
    assert np.allclose(forward(both, x), expected, atol=1e-4)
    with pytest.raises(FormatError, match="one threshold for all features"):
        _detect.save_raw(raw, tmp_path / "no", format="llama_scope")
