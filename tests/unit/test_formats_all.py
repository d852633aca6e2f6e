"""Every published format: round trips, orientation, detection, and the mistakes of other tools that IAM does not make."""

import json
from dataclasses import replace

import numpy as np
import pytest

import iam
from iam.core.errors import ArgumentError, FormatError
from iam.formats import FORMATS, SafetensorsFile, _detect, detect, write_safetensors
from iam.formats._build import build, raw_of
from iam.formats._lazy import as_float32
from iam.formats._raw import RawCoder, expected_shapes, fold_b_dec, fold_norm_scale, fold_rescaling, unfold_b_dec

SAE_META = {"model_name": "gemma-2-2b", "hook_name": "blocks.3.hook_resid_post"}
TRANSCODER_META = {
    "model_name": "gemma-2-2b",
    "hook_name": "blocks.0.ln2.hook_normalized",
    "hook_name_out": "blocks.0.hook_mlp_out",
}
CLT_META = {
    "model_name": "m",
    "hook_names": [f"blocks.{i}.hook_resid_mid" for i in range(3)],
    "hook_names_out": [f"blocks.{i}.hook_mlp_out" for i in range(3)],
}

CROSS_META = {"model_name": "m", "hook_names": [f"blocks.{i}.hook_resid_post" for i in range(3)]}


def make(kind="sae", architecture="jumprelu", *, skip=False, d_in=4, d_sae=6, d_out=None, n_layers=1, seed=0, **more):
    """A record with random weights; every size differs from every other, so a wrong transpose has a wrong shape."""
    rng = np.random.default_rng(seed)
    d_out = d_in if kind == "sae" or d_out is None else d_out
    metadata = {"sae": SAE_META, "transcoder": TRANSCODER_META, "cross_layer": CLT_META, "crosscoder": CROSS_META}[kind]
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
                 "normalize_activations", "rescale_acts_by_decoder_norm", "dtype", "reshape_activations",
                 "residual_threshold", "max_iterations", "stop_on_duplicate_support"):  # fmt: skip
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
    ("circuit_tracer_clt", make("cross_layer", "standard", n_layers=3)),
    *[("sparsify", make("sae", a, apply_b_dec_to_input=True)) for a in ("topk", "groupmax")],
    *[("sparsify", make("transcoder", a, skip=s, d_out=5)) for a in ("topk", "groupmax") for s in (True, False)],
    *[("dictionary_learning", make("sae", a, apply_b_dec_to_input=True)) for a in ("standard", "gated", "topk")],
    ("dictionary_learning", make("sae", "standard")), ("dictionary_learning", make("sae", "jumprelu")),
    *[("iam", make("sae", a, apply_b_dec_to_input=b)) for a in
      ("standard", "topk", "abstopk", "groupmax", "jumprelu", "gated", "matching_pursuit") for b in (True, False)],
    *[("iam", make("transcoder", a, skip=s, d_out=5)) for a in
      ("standard", "topk", "abstopk", "groupmax", "jumprelu", "gated") for s in (True, False)],
    *[("iam", make("cross_layer", a, skip=s, d_out=5, n_layers=3)) for a in
      ("standard", "topk", "abstopk", "groupmax", "jumprelu", "gated") for s in (True, False)],
    *[("iam", make("crosscoder", a, n_layers=3, apply_b_dec_to_input=b)) for a in
      ("standard", "topk", "abstopk", "groupmax", "jumprelu", "gated") for b in (True, False)],
    ("iam", make("sae", "topk", rescale_acts_by_decoder_norm=True, reshape_activations="hook_z")),
    ("iam", make("transcoder", "abstopk", rescale_acts_by_decoder_norm=True, normalize_activations="layer_norm")),
    ("iam", make("sae", normalize_activations="expected_average_only_in", norm_scale=2.5)),
    ("iam", make("cross_layer", "topk", n_layers=2, normalize_activations="expected_average_only_in", norm_scale=0.1,
                 metadata={})),
    ("iam", make("sae", normalize_activations="covariance_whitening")),
    ("iam", make("transcoder", normalize_activations="covariance_whitening")),
    ("iam", make("crosscoder", normalize_activations="constant_norm_rescale", n_layers=3)),
    ("iam", make("sae", "matching_pursuit", residual_threshold=0.25, max_iterations=3, stop_on_duplicate_support=False)),
]  # fmt: skip


def label(case):
    name, raw = case
    skip = "-skip" if any(n.startswith("W_skip") for n in raw.tensors) else ""
    convention = raw.normalize_activations + ("-rescaled" if raw.rescale_acts_by_decoder_norm else "")
    return f"{name}-{raw.kind}-{raw.architecture}{skip}-{raw.d_in}-{raw.d_out}-{raw.apply_b_dec_to_input}-{convention}"


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


@pytest.mark.parametrize("case", ROUND_TRIPS, ids=label)
def test_any_weight_file_stands_for_its_coder(case, tmp_path):
    name, raw = case
    if name == "dictionary_learning":
        pytest.importorskip("torch")
    _detect.save_raw(raw, tmp_path, format=name)
    for file in tmp_path.rglob("*"):
        if file.suffix in (".safetensors", ".npz", ".pt") and not file.name.startswith("W_dec"):
            same(raw, _detect.load_raw(file))


def test_every_format_has_a_round_trip():
    assert {name for name, _ in ROUND_TRIPS} | {"llama_scope"} == {
        name for name, entry in FORMATS.items() if entry.written
    }


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


# Objects.


@pytest.mark.parametrize("case", ROUND_TRIPS, ids=label)
def test_records_and_coders(case, rng):
    """The object has the record's weights and computes its function."""
    raw = case[1]
    if raw.kind == "cross_layer" and raw.n_layers == 3:
        raw = replace(raw, metadata=CLT_META)
    coder = build(raw)
    same(raw, raw_of(coder))
    plain = raw.normalize_activations in ("none", "expected_average_only_in")
    if raw.kind in ("sae", "transcoder") and plain and raw.architecture in ("standard", "jumprelu", "gated", "topk"):
        x = rng.normal(size=(50, raw.d_in))
        assert np.allclose(coder(x), forward(raw, x), atol=1e-4)


def test_load_and_save(tmp_path, rng):
    coder = build(make("sae", "jumprelu"))
    iam.formats.save(coder, tmp_path / "a", format="saelens")
    loaded = iam.formats.load(tmp_path / "a")
    assert isinstance(loaded, iam.SAE) and str(loaded.site) == "resid_post.3"
    x = rng.normal(size=(9, 4))
    assert np.array_equal(loaded(x), coder(x))
    for name in ("gemma_scope", "gemma_scope_2", "dictionary_learning"):
        pytest.importorskip("torch")
        iam.formats.save(loaded, tmp_path / name, format=name)
        assert np.array_equal(iam.formats.load(tmp_path / name)(x), coder(x)), name
    with pytest.raises(FormatError, match="sparsify holds topk"):
        iam.formats.save(loaded, tmp_path / "b", format="sparsify")
    with pytest.raises(ArgumentError, match='did you mean "saelens"'):
        iam.formats.save(loaded, tmp_path / "b", format="saelenz")
    with pytest.raises(ArgumentError, match="no option 'layer'"):
        iam.formats.load(tmp_path / "a", layer=3)


@pytest.mark.parametrize("normalization", ["layer_norm", "constant_norm_rescale"])
def test_normalisation_by_row_travels(normalization, tmp_path, rng):
    coder = build(make("sae", "topk", normalize_activations=normalization))
    iam.formats.save(coder, tmp_path / "a", format="saelens")
    x = rng.normal(size=(9, 4))
    assert np.array_equal(iam.SAE.load_from_disk(tmp_path / "a")(x), coder(x))
    for name in ("sparsify", "dictionary_learning"):
        with pytest.raises(FormatError, match=normalization):
            iam.formats.save(coder, tmp_path / name, format=name)
        assert not (tmp_path / name).exists()


def test_transcoder_sets(tmp_path, rng):
    from iam.formats import circuit_tracer

    raws = [make("transcoder", "jumprelu", seed=i, skip=True) for i in range(3)]
    raws = [replace(raw, metadata={"model_name": "m", "hook_name": f"blocks.{i}.mlp.hook_in",
                                   "hook_name_out": f"blocks.{i}.hook_mlp_out"}) for i, raw in enumerate(raws)]  # fmt: skip
    circuit_tracer.write_raw(raws, tmp_path)
    assert circuit_tracer.layers(tmp_path) == [0, 1, 2]
    with pytest.raises(FormatError, match=r"3 layers, 0\.\.2; say which"):
        iam.formats.load(tmp_path)
    for i, coder in enumerate(circuit_tracer.read_all(tmp_path)):
        same(raws[i], raw_of(coder))
        same(raws[i], _detect.load_raw(tmp_path, layer=i))
        same(raws[i], _detect.load_raw(tmp_path / f"layer_{i}.safetensors"))
    (tmp_path / "iam.json").unlink()  # as other tools leave it: the hooks come from config.yaml
    assert _detect.load_raw(tmp_path, layer=2).metadata == raws[2].metadata
    (tmp_path / "layer_1.safetensors").unlink()
    with pytest.raises(FormatError, match="layer 1 is missing"):
        circuit_tracer.read_all(tmp_path)
    with pytest.raises(FormatError, match="one width"):
        circuit_tracer.write_raw([raws[0], make("transcoder", d_sae=7)], tmp_path)


# Mistakes of other tools (read in their sources) that touch formats.


def test_sparsify_decoder_is_not_transposed_and_b_dec_always_subtracted(tmp_path, rng):
    """SAELens 6.54.12 reads W_dec transposed, subtracts b_dec only if normalize_decoder is off, and ignores the skip."""
    d, f, k = 4, 6, 2
    w = {"encoder.weight": rng.normal(size=(f, d)), "encoder.bias": rng.normal(size=f), "W_dec": rng.normal(size=(f, d)),
         "b_dec": rng.normal(size=d)}  # fmt: skip
    cfg = {"activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": f, "k": k,
           "multi_topk": False, "skip_connection": False, "transcode": False, "d_in": d}  # fmt: skip
    x = rng.normal(size=(20, d))

    def sparsify(inputs, skip):
        pre = np.maximum((x - w["b_dec"] if inputs else x) @ w["encoder.weight"].T + w["encoder.bias"], 0)
        f_ = np.where(pre >= np.sort(pre)[:, [-k]], pre, 0)
        return f_ @ w["W_dec"] + w["b_dec"] + (x @ skip.T if skip is not None else 0)

    for folder, change, skip, subtracts in (
        ("layers.5.mlp", {}, None, True),
        ("layers.5", {"normalize_decoder": False}, None, True),
        ("layers.6.mlp", {"transcode": True}, None, False),
        ("layers.7.mlp", {"transcode": True, "skip_connection": True}, rng.normal(size=(d, d)), False),
        ("layers.8.mlp", {"skip_connection": True}, rng.normal(size=(d, d)), True),
    ):
        at = tmp_path / folder
        at.mkdir()
        tensors = {**w, **({} if skip is None else {"W_skip": skip})}
        write_safetensors(at / "sae.safetensors", {name: a.astype(np.float32) for name, a in tensors.items()})
        (at / "cfg.json").write_text(json.dumps({**cfg, **change}))
        loaded = _detect.load_raw(at)
        assert loaded.metadata["hook_name"] == f"blocks.{folder[7]}." + (
            "hook_mlp_out" if "mlp" in folder else "hook_resid_post"
        )
        assert np.allclose(forward(loaded, x), sparsify(subtracts, skip), atol=1e-5), folder
        assert np.allclose(build(loaded)(x), sparsify(subtracts, skip), atol=1e-5), folder
    (tmp_path / "layers.7.mlp" / "cfg.json").write_text(json.dumps(cfg))
    with pytest.raises(FormatError, match=r"skip_connection=False, but sae\.safetensors has a W_skip"):
        _detect.load_raw(tmp_path / "layers.7.mlp")


def gemma_scope_2_clt(path, rng, n=3, d=4, f=6):
    """A cross-layer transcoder as the release stores it; returns its tensors."""
    layers = []
    for i in range(n):
        w_dec = rng.normal(size=(f, n, d))
        w_dec[:, :i] = 0
        layers.append({"w_enc": rng.normal(size=(d, f)), "w_dec": w_dec, "b_enc": rng.normal(size=f), "b_dec": rng.normal(size=d),
                       "threshold": rng.random(f), "affine_skip_connection": rng.normal(size=(d, d))})  # fmt: skip
        write_safetensors(
            path / f"params_layer_{i}.safetensors", {k: v.astype(np.float32) for k, v in layers[-1].items()}
        )
    return layers


def test_gemma_scope_2_clt_keeps_its_last_layer(tmp_path, rng):
    """circuit-tracer's loader iterates range(max(layers)) and drops the last; and its skip is x @ A, not x @ A.T."""
    layers = gemma_scope_2_clt(tmp_path, rng)
    assert detect(tmp_path).format == "gemma_scope_2"
    raw = _detect.load_raw(tmp_path)
    assert (raw.kind, raw.n_layers) == ("cross_layer", 3)
    assert [raw.tensors[f"W_dec.{i}"].shape for i in range(3)] == [(6, 3, 4), (6, 2, 4), (6, 1, 4)]
    x = [rng.normal(size=(9, 4)) for _ in layers]
    fs = []
    for xi, w in zip(x, layers, strict=True):
        h = xi @ w["w_enc"] + w["b_enc"]
        fs.append(h * (h > w["threshold"]))
    expected = [
        sum(fs[i] @ layers[i]["w_dec"][:, t] for i in range(t + 1))
        + layers[t]["b_dec"] + x[t] @ layers[t]["affine_skip_connection"]
        for t in range(3)
    ]  # fmt: skip
    for y, want in zip(build(raw)(x), expected, strict=True):
        assert np.allclose(y, want, atol=1e-5)
    (tmp_path / "params_layer_1.safetensors").unlink()
    with pytest.raises(FormatError, match="layer 1 is missing"):
        _detect.load_raw(tmp_path)


def test_gemma_scope_2_clt_does_not_write_backwards(tmp_path, rng):
    layers = gemma_scope_2_clt(tmp_path, rng)
    layers[2]["w_dec"][3, 0, 1] = 1.0
    write_safetensors(tmp_path / "params_layer_2.safetensors", {k: v.astype(np.float32) for k, v in layers[2].items()})
    with pytest.raises(FormatError, match="writes to layers before it"):
        _detect.load_raw(tmp_path)


def test_skip_is_transposed_where_the_format_says_so(tmp_path, rng):
    """A square skip fits either way, so only the function can tell: Gemma Scope 2 has x @ A, the others x @ W.T."""
    d, f = 4, 6
    affine = rng.normal(size=(d, d)).astype(np.float32)
    w = {"w_enc": rng.normal(size=(d, f)), "w_dec": rng.normal(size=(f, d)), "b_enc": rng.normal(size=f), "b_dec": rng.normal(size=d),
         "threshold": rng.random(f), "affine_skip_connection": affine}  # fmt: skip
    write_safetensors(tmp_path / "params.safetensors", {k: v.astype(np.float32) for k, v in w.items()})
    config = {"architecture": "jump_relu", "model_name": "gemma-3-1b-pt", "affine_connection": True,
              "hf_hook_point_in": "model.layers.5.pre_feedforward_layernorm.output",
              "hf_hook_point_out": "model.layers.5.post_feedforward_layernorm.output"}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    raw = _detect.load_raw(tmp_path)
    x = rng.normal(size=(9, d))
    h = x @ w["w_enc"] + w["b_enc"]
    expected = (h * (h > w["threshold"])) @ w["w_dec"] + w["b_dec"] + x @ affine
    assert np.allclose(build(raw)(x), expected, atol=1e-5)
    assert raw.metadata["hook_name"] == "blocks.5.mlp.hook_in", "after the norm; hook_mlp_in is before it"
    for name in ("circuit_tracer", "saelens"):
        source = replace(raw, metadata=TRANSCODER_META)
        _detect.save_raw(source, tmp_path / name, format=name)
        file = SafetensorsFile(next((tmp_path / name).glob("*.safetensors")))
        assert np.array_equal(file.read("W_skip"), affine.T), "applied as x @ W_skip.T there"
    (tmp_path / "config.json").write_text(json.dumps({**config, "affine_connection": False}))
    with pytest.raises(FormatError, match="affine_connection=False"):
        _detect.load_raw(tmp_path)


@pytest.mark.parametrize("spelling", ["W", "w"])
def test_gemma_scope_does_not_subtract_b_dec(tmp_path, rng, spelling):
    d, f = 4, 6
    at = tmp_path / "gemma-scope-2b-pt-res" / "layer_3" / "width_16k" / "average_l0_54"
    at.mkdir(parents=True)
    w = {"W_enc": rng.normal(size=(d, f)), "W_dec": rng.normal(size=(f, d)), "b_enc": rng.normal(size=f),
         "b_dec": 10 * rng.normal(size=d), "threshold": rng.random(f)}  # fmt: skip
    np.savez(at / "params.npz", **{name.replace("W_", spelling + "_"): a.astype(np.float32) for name, a in w.items()})
    raw = _detect.load_raw(at)
    assert raw.kind == "sae" and raw.metadata["hook_name"] == "blocks.3.hook_resid_post"
    assert raw.metadata["model_name"] == "gemma-2-2b"
    x = rng.normal(size=(9, d))
    h = x @ w["W_enc"] + w["b_enc"]
    assert np.allclose(build(raw)(x), (h * (h > w["threshold"])) @ w["W_dec"] + w["b_dec"], atol=1e-4)


def test_gemma_scope_kind_is_not_guessed(tmp_path):
    raw = make("sae")
    _detect.save_raw(raw, tmp_path, format="gemma_scope")
    (tmp_path / "iam.json").unlink()
    with pytest.raises(FormatError, match=r'look the same.*kind="sae".*W_enc \(4, 6\)'):
        _detect.load_raw(tmp_path)
    assert _detect.load_raw(tmp_path, kind="transcoder").kind == "transcoder"
    assert isinstance(iam.formats.load(tmp_path / "params.npz", kind="sae"), iam.SAE)


def test_embedding_saes_of_gemma_scope_are_scaled(tmp_path, rng):
    at = tmp_path / "gemma-scope-2b-pt-res" / "embedding" / "width_4k" / "average_l0_6"
    raw = make("sae")
    _detect.save_raw(raw, at, format="gemma_scope")
    same(raw, _detect.load_raw(at))  # what IAM wrote is scaled already
    (at / "iam.json").unlink()
    loaded = _detect.load_raw(at)
    assert np.allclose(loaded.tensors["W_enc"], raw.tensors["W_enc"] / 2)
    assert np.allclose(loaded.tensors["W_dec"], raw.tensors["W_dec"] * 2)


def test_an_sae_loads_from_disk_in_any_format(tmp_path):
    from iam.formats import sparsify

    rng = np.random.default_rng(0)
    cfg = iam.SAEConfig(architecture="topk", d_in=6, d_sae=12, k=3)
    weights = {"W_enc": (6, 12), "b_enc": (12,), "W_dec": (12, 6), "b_dec": (6,)}
    sae = iam.SAE(cfg, **{name: rng.standard_normal(shape).astype(np.float32) for name, shape in weights.items()})
    sparsify.write(sae, tmp_path)
    x = rng.standard_normal((4, 6)).astype(np.float32)
    assert np.array_equal(iam.SAE.load_from_disk(tmp_path)(x), sae(x))
