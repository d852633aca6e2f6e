"""Formats that are read and not written: single .pt files, Llama Scope R1, lists of transcoders; and every release of SAELens."""

import json

import numpy as np
import pytest
from test_formats_all import make, same
from test_formats_pretrained import cache  # noqa: F401 - a fixture

import iam
from iam.core.errors import FormatError
from iam.formats import FORMATS, _detect, detect, releases, resolve, write_safetensors
from iam.formats._pretrained import _UNREAD

D, F, K = 4, 6, 2


@pytest.fixture
def w(rng):
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in
            (("W_enc", (D, F)), ("b_enc", (F,)), ("W_dec", (F, D)), ("b_dec", (D,)))}  # fmt: skip


def put(path, state):
    torch = pytest.importorskip("torch")
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: torch.from_numpy(np.ascontiguousarray(v)) if isinstance(v, np.ndarray) else v for name, v in state.items()}, path)  # fmt: skip
    return path


def topk(h, k):
    order = np.argsort(-h, axis=-1, kind="stable")[:, :k]
    f = np.zeros_like(h)
    np.put_along_axis(f, order, np.maximum(np.take_along_axis(h, order, -1), 0), -1)
    return f


def close(coder, x, expected):
    assert np.allclose(coder(x), expected, atol=1e-5)


def test_qwen_scope(tmp_path, w, rng):
    state = {"W_enc": w["W_enc"].T, "W_dec": w["W_dec"].T, "b_enc": w["b_enc"], "b_dec": w["b_dec"]}
    path = put(tmp_path / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_2" / "layer7.sae.pt", state)
    assert detect(path).format == "state_dict" and detect(path).path == path
    sae = iam.formats.load(path)
    assert (sae.cfg.architecture, sae.cfg.k, str(sae.site)) == ("topk", 2, "resid_post.7")
    x = rng.normal(size=(20, D))
    close(sae, x, topk(x @ w["W_enc"] + w["b_enc"], 2) @ w["W_dec"] + w["b_dec"])
    with pytest.raises(FormatError, match="does not say how many features are active"):
        iam.formats.load(put(tmp_path / "layer7.sae.pt", state))


@pytest.mark.parametrize(("encoder", "decoder", "name", "site"), [
    ("encoder_linear", "decoder_linear", "Llama-3.1-8B-Instruct-SAE-l19.pth", "resid_post.19"),
    ("encoder", "decoder", "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt", "resid_post.19"),
])  # fmt: skip
def test_goodfire_and_plain(encoder, decoder, name, site, tmp_path, w, rng):
    state = {f"{encoder}.weight": w["W_enc"].T, f"{encoder}.bias": w["b_enc"], f"{decoder}.weight": w["W_dec"].T,
             f"{decoder}.bias": w["b_dec"]}  # fmt: skip
    sae = iam.formats.load(put(tmp_path / name, state))
    assert sae.cfg.architecture == "standard" and not sae.cfg.apply_b_dec_to_input and str(sae.site) == site
    x = rng.normal(size=(20, D))
    close(sae, x, np.maximum(x @ w["W_enc"] + w["b_enc"], 0) @ w["W_dec"] + w["b_dec"])


def test_hook_z(tmp_path, w, rng):
    path = put(tmp_path / "gpt2-small_L0_Hcat_z_v9.pt", w)
    with pytest.raises(FormatError, match=r"gpt2-small_L0_Hcat_z_v9_cfg\.json"):
        iam.formats.load(path)
    cfg = path.with_name("gpt2-small_L0_Hcat_z_v9_cfg.json")
    cfg.write_text(json.dumps({"act_size": D, "dict_size": F, "act_name": "blocks.0.attn.hook_z"}))
    sae = iam.formats.load(path)
    assert sae.cfg.apply_b_dec_to_input and sae.cfg.reshape_activations == "hook_z" and str(sae.site) == "hook_z.0"
    x = rng.normal(size=(20, D))
    close(sae, x, np.maximum((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 0) @ w["W_dec"] + w["b_dec"])
    cfg.write_text(json.dumps({"act_size": F, "dict_size": D}))
    with pytest.raises(FormatError, match="act_size and dict_size"):
        iam.formats.load(path)


def openai(w, **more):
    return {"pre_bias": w["b_dec"], "encoder.weight": w["W_enc"].T, "latent_bias": w["b_enc"], "decoder.weight": w["W_dec"].T,
            "stats_last_nonzero": np.zeros(F, np.int64), "latents_mean_square": np.zeros(F, np.float32), **more}  # fmt: skip


def test_openai(tmp_path, w, rng):
    """ReLU coders take activations as they are, TopK coders normalise them, as ``from_state_dict`` there decides."""
    x = rng.normal(size=(20, D)) * 3 + 1
    plain = iam.formats.load(put(tmp_path / "a.pt", openai(w, activation="ReLU", activation_state_dict={})))
    close(plain, x, np.maximum((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 0) @ w["W_dec"] + w["b_dec"])
    state = openai(w, activation="TopK", activation_state_dict={"k": K, "postact_fn": "ReLU"})
    sae = iam.formats.load(put(tmp_path / "b.pt", state))
    assert (sae.cfg.architecture, sae.cfg.k, sae.cfg.normalize_activations) == ("topk", K, "layer_norm")
    mu, std = x.mean(-1, keepdims=True), x.std(-1, ddof=1, keepdims=True)
    f = topk(((x - mu) / (std + 1e-5) - w["b_dec"]) @ w["W_enc"] + w["b_enc"], K)
    close(sae, x, (f @ w["W_dec"] + w["b_dec"]) * std + mu)
    state["activation_state_dict"]["postact_fn"] = "Identity"
    with pytest.raises(FormatError, match="TopK with postact_fn ReLU"):
        iam.formats.load(put(tmp_path / "c.pt", state))


def test_checkpoints_that_are_something_else(tmp_path, w):
    with pytest.raises(FormatError, match="expected the tensors of one of"):
        iam.formats.load(put(tmp_path / "a.pt", {"x": w["W_enc"]}))
    with pytest.raises(FormatError, match="do not belong to a plain file"):
        iam.formats.load(put(tmp_path / "b.pt", {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "x": w["b_enc"],
                                                "decoder.weight": w["W_dec"].T, "decoder.bias": w["b_dec"]}))  # fmt: skip
    square = {"W_enc": np.ones((D, D), np.float32), "W_dec": np.ones((D, D), np.float32), "b_enc": w["b_dec"], "b_dec": w["b_dec"]}  # fmt: skip
    with pytest.raises(FormatError, match="cannot be told"):
        iam.formats.load(put(tmp_path / "L0_2.pt", square))
    with pytest.raises(FormatError, match="name the file itself"):
        iam.formats.load(tmp_path)


def test_formats_that_are_only_read_say_so(tmp_path):
    for name in ("state_dict", "llama_scope_r1"):
        with pytest.raises(FormatError, match="read and not written"):
            _detect.save_raw(make("sae"), tmp_path / "x", format=name)


# Llama Scope R1.


def r1(folder, w, rng, *, norm=8.0, **change):
    folder.mkdir(parents=True, exist_ok=True)
    hook = "blocks.3.hook_resid_post"
    logs = rng.normal(size=F).astype(np.float32)
    stored = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "decoder.weight": w["W_dec"].T, "decoder.bias": w["b_dec"],
              "log_jumprelu_threshold": logs}  # fmt: skip
    if norm is not None:
        stored[f"dataset_average_activation_norm.{hook}"] = np.float32(norm).reshape(())
    write_safetensors(folder / "sae_weights.safetensors", stored)
    config = {"d_model": D, "expansion_factor": 1.5, "hook_point_in": hook, "hook_point_out": hook, "norm_activation": "dataset-wise",
              "sparsity_include_decoder_norm": False, "act_fn": "jumprelu"} | change  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return np.exp(logs)


@pytest.mark.parametrize("by_norm", [False, True])
def test_llama_scope_r1(by_norm, tmp_path, w, rng):
    """The scale of the input comes from the file, where SAELens leaves it out; thresholds are in units of the decoder norm."""
    threshold = r1(tmp_path, w, rng, sparsity_include_decoder_norm=by_norm)
    assert detect(tmp_path).format == "llama_scope_r1"
    sae = iam.formats.load(tmp_path)
    assert sae.cfg.norm_scale == 0.25 and str(sae.site) == "resid_post.3"
    x = rng.normal(size=(50, D)) * 8
    h = (x * 0.25) @ w["W_enc"] + w["b_enc"]
    score = h * np.linalg.norm(w["W_dec"], axis=1) if by_norm else h
    close(sae, x, ((np.maximum(h, 0) * (score > threshold)) @ w["W_dec"] + w["b_dec"]) / 0.25)


def test_llama_scope_r1_that_is_incomplete(tmp_path, w, rng):
    r1(tmp_path / "a", w, rng, norm=None)
    with pytest.raises(FormatError, match="by which the input is scaled"):
        iam.formats.load(tmp_path / "a")
    r1(tmp_path / "b", w, rng, norm=None, norm_activation="inference")
    assert iam.formats.load(tmp_path / "b").cfg.normalize_activations == "none"
    r1(tmp_path / "c", w, rng, norm_activation="token-wise")
    with pytest.raises(FormatError, match="token-wise"):
        iam.formats.load(tmp_path / "c")
    r1(tmp_path / "d", w, rng, hook_point_out="blocks.3.hook_mlp_out")
    with pytest.raises(FormatError, match="hook_point_out"):
        iam.formats.load(tmp_path / "d")


# Releases.


def test_every_coder_of_every_release_has_a_reader_or_a_reason():
    read, refused = 0, {}
    for release, ids in releases().items():
        for sae_id in ids:
            try:
                found = resolve(release, sae_id)
            except FormatError as error:
                refused[release] = str(error)
                continue
            read += 1
            assert (
                found.format in FORMATS and ("/" in found.repo or release == "iam") and not found.path.startswith("/")
            ), (release, sae_id)
    assert read == sum(map(len, releases().values())) - 3
    assert set(refused) == {"temporal-sae-gemma-2-2b", "temporal-sae-llama-3.1-8b"}
    assert all(_UNREAD["temporal"] in message for message in refused.values())


def test_state_dicts_from_the_hub(cache, w, rng):  # noqa: F811
    release = "qwen-scope-3-1.7b-base-w32k-l50"
    found = resolve(release, "layer0")
    assert (found.format, found.path, found.hook_name) == ("state_dict", "layer0.sae.pt", "blocks.0.hook_resid_post")
    folder = cache(found.repo, "", make("sae", "topk"), "saelens")
    wide = {"W_enc": rng.normal(size=(64, D)), "W_dec": rng.normal(size=(D, 64)), "b_enc": rng.normal(size=64), "b_dec": w["b_dec"]}  # fmt: skip
    put(folder / "layer0.sae.pt", {name: array.astype(np.float32) for name, array in wide.items()})
    sae = iam.formats.from_pretrained(release, "layer0")
    assert (sae.cfg.k, sae.cfg.d_sae, str(sae.site)) == (50, 64, "resid_post.0")


def test_transcoders_that_circuit_tracer_lists_by_address(cache, tmp_path):  # noqa: F811
    yaml = pytest.importorskip("yaml")
    raws = [make("transcoder", "jumprelu", seed=i) for i in range(2)]
    addresses = []
    for i, raw in enumerate(raws):
        path = f"layer_{i}/width_16k/average_l0_7{i}"
        cache("google/gemma-scope-2b-pt-transcoders", path, raw, "gemma_scope")
        addresses.append(f"hf://google/gemma-scope-2b-pt-transcoders/{path}/params.npz")
    folder = cache("someone/gemma-scope-transcoders", "", make("sae", "topk"), "saelens")
    for file in folder.iterdir():
        file.unlink()
    config = {"model_name": "google/gemma-2-2b", "model_kind": "transcoder_set", "feature_input_hook": "ln2.hook_normalized",
              "feature_output_hook": "hook_mlp_out", "transcoders": addresses}  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for i, raw in enumerate(raws):
        found = iam.formats.from_pretrained("someone/gemma-scope-transcoders", layer=i)
        assert (
            isinstance(found, iam.Transcoder) and found.cfg.metadata["hook_name"] == f"blocks.{i}.ln2.hook_normalized"
        )
        assert np.array_equal(found.W_enc, raw.tensors["W_enc"])
    with pytest.raises(FormatError, match=r"of 2 layers; say which with layer=0\.\.1, got None"):
        iam.formats.from_pretrained("someone/gemma-scope-transcoders")
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "transcoders": ["https://x/y"]}))
    with pytest.raises(FormatError, match="expected hf://owner/repository/path"):
        iam.formats.from_pretrained("someone/gemma-scope-transcoders", layer=0)
    with pytest.raises(FormatError, match=r"config\.yaml lists transcoders"):
        iam.formats.load(folder)


def test_own_format_from_the_hub(cache, tmp_path):  # noqa: F811
    raw = make("crosscoder", "gated", n_layers=3)
    cache("someone/coders", "a", raw, "iam")
    from iam.formats._build import raw_of

    same(raw, raw_of(iam.formats.from_pretrained("someone/coders", "a")), apart_from={"metadata"})


# Mistakes of other tools; the table of docs/formats.md names these.


def test_a_layer_of_a_cross_layer_release_is_the_whole_transcoder(cache):  # noqa: F811
    """SAELens gives one layer with the sum of its decoders, whose reconstruction means nothing."""
    pytest.importorskip("yaml")
    readable = {name: ids for name, ids in releases().items() if not name.startswith("temporal")}
    release = next(name for name, ids in readable.items() if resolve(name, ids[0]).format == "circuit_tracer_clt")
    found = resolve(release, releases()[release][1])
    raw = make("cross_layer", "standard", n_layers=3)
    cache(found.repo, "", raw, "circuit_tracer_clt")
    clt = iam.formats.from_pretrained(release, releases()[release][1])
    assert isinstance(clt, iam.CrossLayerTranscoder) and clt.n_layers == 3
    assert np.array_equal(np.asarray(clt.W_dec[0]), raw.tensors["W_dec.0"])


@pytest.mark.parametrize("name", ["BatchTopKSAE", "MatryoshkaBatchTopKSAE"])
def test_batch_topk_needs_a_threshold(name, tmp_path, w):
    """-1 is what dictionary_learning starts from: with it every positive pre-activation would be a feature."""
    torch = pytest.importorskip("torch")
    plain = name.startswith("Matryoshka")
    state = dict(w) if plain else {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "decoder.weight": w["W_dec"].T, "b_dec": w["b_dec"]}  # fmt: skip
    (tmp_path / "config.json").write_text(
        json.dumps({"trainer": {"dict_class": name, "activation_dim": D, "dict_size": F}})
    )
    put(tmp_path / "ae.pt", {**state, "k": torch.tensor(K), "threshold": torch.tensor(-1.0)})
    with pytest.raises(FormatError, match="never learned"):
        iam.formats.load(tmp_path)
    put(tmp_path / "ae.pt", {**state, "k": torch.tensor(K), "threshold": torch.tensor(0.5)})
    assert (iam.formats.load(tmp_path).threshold == 0.5).all()
