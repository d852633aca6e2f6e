"""Weight files between SAELens 6 and IAM: each loads what the other writes, and SAELens's loaders of other formats agree.

Codes and reconstructions are equal within 1e-5. Where SAELens's loader makes a mistake (sparsify), the test shows it.
"""

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sae_lens = pytest.importorskip("sae_lens")

from sae_lens.loading import pretrained_sae_loaders as loaders  # noqa: E402
from test_parity_coders import CLOSE, SAES, TRANSCODERS, D, F, inputs, pair, pair_of_transcoders, randomise  # noqa: E402

import iam  # noqa: E402
from iam.formats import _detect, write_safetensors  # noqa: E402
from iam.formats._lazy import as_float32  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
HOOKS = {"model_name": "m", "hook_name": "blocks.3.hook_resid_post", "prepend_bos": False}
NAMES = [*SAES, *TRANSCODERS]


def both(name):
    return pair(name) if name in SAES else pair_of_transcoders(name)


def same_results(theirs, ours, x=None):
    x = inputs(40) if x is None else x
    with torch.no_grad():
        codes, out = theirs.encode(torch.from_numpy(x)).numpy(), theirs(torch.from_numpy(x)).numpy()
    assert codes.any()
    assert np.allclose(ours.encode(x).to_dense(), codes, **CLOSE)
    assert np.allclose(ours(x), out, **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_iam_loads_what_saelens_writes(name, tmp_path):
    theirs, _ = both(name)
    theirs.cfg.metadata = type(theirs.cfg.metadata)(**HOOKS)
    theirs.save_model(tmp_path)
    assert iam.formats.detect(tmp_path).format == "saelens"
    ours = iam.formats.load(tmp_path)
    assert {key: ours.cfg.metadata[key] for key in HOOKS} == HOOKS and str(ours.site) == "resid_post.3"
    same_results(theirs, ours)


@pytest.mark.parametrize("name", NAMES)
def test_saelens_loads_what_iam_writes(name, tmp_path):
    _, ours = both(name)
    iam.formats.save(ours, tmp_path / "a", format="saelens")
    cfg = json.loads((tmp_path / "a" / "cfg.json").read_text())
    (tmp_path / "a" / "cfg.json").write_text(json.dumps({**cfg, "metadata": HOOKS}))
    iam.formats.save(iam.formats.load(tmp_path / "a"), tmp_path / "b", format="saelens")
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path / "b"))
    for key, value in HOOKS.items():
        assert getattr(theirs.cfg.metadata, key) == value, key
    same_results(theirs, ours)
    assert _detect.load_raw(tmp_path / "b").architecture == ours.cfg.architecture


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_small_types_both_ways(dtype, tmp_path):
    _, ours = pair("jumprelu")
    ours.save_model(tmp_path / "a", dtype=dtype)
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path / "a"))
    assert theirs.W_enc.dtype == getattr(torch, dtype)
    theirs.save_model(tmp_path / "b")
    back = iam.formats.load(tmp_path / "b")
    assert np.array_equal(back.W_enc, iam.formats.load(tmp_path / "a").W_enc)


def test_training_coders_saved_for_inference(tmp_path):
    """BatchTopK and Matryoshka are saved by SAELens as jumprelu."""
    cls, cfg = sae_lens.BatchTopKTrainingSAE, sae_lens.BatchTopKTrainingSAEConfig
    training = cls(cfg(d_in=D, d_sae=F, k=7))
    weights = randomise(sae_lens.StandardSAE(sae_lens.StandardSAEConfig(d_in=D, d_sae=F)))
    state = {name: torch.from_numpy(array) for name, array in weights.items()}
    training.load_state_dict({**state, "topk_threshold": torch.tensor(0.4, dtype=torch.float64)})
    training.save_inference_model(tmp_path)
    ours = iam.formats.load(tmp_path)
    assert ours.cfg.architecture == "jumprelu"
    same_results(sae_lens.SAE.load_from_disk(str(tmp_path)), ours)


def test_a_config_from_before_6_0(tmp_path):
    theirs, _ = pair("standard")
    theirs.save_model(tmp_path)
    old = {"architecture": "standard", "d_in": D, "d_sae": F, "dtype": "torch.float32", "device": "cpu", "model_name": "m",
           "hook_point": "blocks.3.hook_resid_post", "hook_point_layer": 3, "activation_fn_str": "topk",
           "activation_fn_kwargs": {"k": 5}, "normalize_activations": False, "apply_b_dec_to_input": True}  # fmt: skip
    old["dtype"] = "float32"
    (tmp_path / "cfg.json").write_text(json.dumps(old))
    migrated = loaders.handle_config_defaulting(dict(old))
    assert migrated["architecture"] == "topk" and migrated["k"] == 5
    ours = iam.formats.load(tmp_path)
    assert (ours.cfg.architecture, ours.cfg.k) == ("topk", 5)
    same_results(sae_lens.SAE.load_from_disk(str(tmp_path)), ours)


# SAELens's loaders of other formats, on files that IAM wrote. They fetch from the hub; here the hub is a folder.


@pytest.fixture
def hub(tmp_path, monkeypatch):
    def fetch(repo_id, filename=None, subfolder=None, **_):
        path = tmp_path / repo_id / (subfolder or "") / filename
        if not path.exists():
            raise (
                loaders.EntryNotFoundError(f"{path}", response=None)
                if hasattr(loaders, "EntryNotFoundError")
                else KeyError
            )
        return str(path)

    def shapes(repo_id, filename):
        from iam.formats import SafetensorsFile

        return {name: list(info.shape) for name, info in SafetensorsFile(tmp_path / repo_id / filename).tensors.items()}

    monkeypatch.setattr(loaders, "hf_hub_download", fetch)
    monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes", shapes)
    return tmp_path


def theirs_from(cfg, state):
    """The SAELens coder that one of its loaders describes."""
    cfg = loaders.handle_config_defaulting(dict(cfg))
    coder = sae_lens.SAE.from_dict(cfg)
    coder.load_state_dict({name: tensor.to(torch.float32).clone() for name, tensor in state.items()})
    return coder


def test_gemma_scope(hub):
    _, ours = pair("jumprelu", apply_b_dec_to_input=False)
    folder = "layer_3/width_16k/average_l0_54"
    iam.formats.save(ours, hub / "google/gemma-scope-2b-pt-res" / folder, format="gemma_scope")
    cfg, state, _ = loaders.gemma_2_sae_huggingface_loader(
        "google/gemma-scope-2b-pt-res", folder, cfg_overrides={"d_in": D, "d_sae": F}
    )
    assert cfg["apply_b_dec_to_input"] is False
    same_results(theirs_from(cfg, state), ours)
    (hub / "google/gemma-scope-2b-pt-res" / folder / "iam.json").unlink()
    loaded = iam.formats.load(hub / "google/gemma-scope-2b-pt-res" / folder)
    assert (
        loaded.cfg.metadata["hook_name"] == cfg["hook_name"] and loaded.cfg.metadata["model_name"] == cfg["model_name"]
    )
    same_results(theirs_from(cfg, state), loaded)


@pytest.mark.parametrize("skip", [True, False])
def test_gemma_scope_2_transcoders(hub, skip):
    name = "jumprelu_skip_transcoder" if skip else "jumprelu_transcoder"
    _, ours = pair_of_transcoders(name, d_out=D)
    folder = "transcoder_all/layer_3_width_16k_l0_small" + ("_affine" if skip else "")
    at = hub / "google/gemma-scope-2-1b-pt" / folder
    iam.formats.save(ours, at, format="gemma_scope_2")
    cfg, state, _ = loaders.gemma_3_sae_huggingface_loader("google/gemma-scope-2-1b-pt", folder)
    assert cfg["architecture"] == name
    same_results(theirs_from(cfg, state), ours)
    same_results(theirs_from(cfg, state), iam.formats.load(at))


def test_llama_scope(hub):
    rng = np.random.default_rng(0)
    folder = "Llama3_1-8B-Base-L3R-8x"
    at = hub / "fnlp/Llama3_1-8B-Base-LXR-8x" / folder
    (at / "checkpoints").mkdir(parents=True)
    w = {"encoder.weight": rng.normal(size=(F, D)) * D**-0.5, "encoder.bias": rng.normal(size=F) * 0.2,
         "decoder.weight": rng.normal(size=(D, F)) * 0.3, "decoder.bias": rng.normal(size=D) * 0.2}  # fmt: skip
    write_safetensors(at / "checkpoints/final.safetensors", {n: a.astype(np.float32) for n, a in w.items()})
    hyper = {"d_model": D, "d_sae": F, "jump_relu_threshold": 0.7, "hook_point_in": "blocks.3.hook_resid_post",
             "hook_point_out": "blocks.3.hook_resid_post", "dataset_average_activation_norm": {"in": 9.0, "out": 9.0}}  # fmt: skip
    (at / "hyperparams.json").write_text(json.dumps(hyper))
    cfg, state, _ = loaders.llama_scope_sae_huggingface_loader(
        "fnlp/Llama3_1-8B-Base-LXR-8x", folder, cfg_overrides={"dtype": "float32"}
    )
    theirs = theirs_from(cfg, state)
    theirs.fold_activation_norm_scaling_factor(D**0.5 / 9.0)  # as from_pretrained does with the registry's factor
    same_results(theirs, iam.formats.load(at), inputs(40, scale=3.0))


DICTIONARIES = {
    "AutoEncoder": ("standard", {"apply_b_dec_to_input": True}),
    "GatedAutoEncoder": ("gated", {"apply_b_dec_to_input": True}),
    "AutoEncoderTopK": ("topk", {"apply_b_dec_to_input": True}),
    "JumpReluAutoEncoder": ("jumprelu", {"apply_b_dec_to_input": False}),
}


@pytest.mark.parametrize("name", DICTIONARIES)
def test_dictionary_learning(hub, name):
    architecture, conventions = DICTIONARIES[name]
    _, ours = pair(architecture, **conventions)
    at = hub / "a/b" / "trainer_0"
    iam.formats.save(ours, at, format="dictionary_learning")
    config = json.loads((at / "config.json").read_text())
    assert config["trainer"]["dict_class"] == name
    config["trainer"] |= {"layer": 3, "lm_name": "EleutherAI/pythia-70m"}
    (at / "config.json").write_text(json.dumps(config))
    cfg, state, _ = loaders.dictionary_learning_sae_huggingface_loader_1("a/b", "trainer_0")
    same_results(theirs_from(cfg, state), ours)
    same_results(theirs_from(cfg, state), iam.formats.load(at))


@pytest.mark.parametrize("name", ["BatchTopKSAE", "MatryoshkaBatchTopKSAE"])
def test_batch_topk_of_dictionary_learning(hub, name):
    rng = np.random.default_rng(0)
    at = hub / "a/b" / "trainer_0"
    at.mkdir(parents=True)
    w = {"W_enc": rng.normal(size=(D, F)) * D**-0.5, "W_dec": rng.normal(size=(F, D)), "b_enc": rng.normal(size=F) * 0.1,
         "b_dec": rng.normal(size=D)}  # fmt: skip
    t = {key: torch.from_numpy(a.astype(np.float32)) for key, a in w.items()}
    state = {"k": torch.tensor(7), "threshold": torch.tensor(0.4)}
    if name == "BatchTopKSAE":
        state |= {"encoder.weight": t["W_enc"].T.contiguous(), "encoder.bias": t["b_enc"],
                  "decoder.weight": t["W_dec"].T.contiguous(), "b_dec": t["b_dec"]}  # fmt: skip
    else:
        state |= {**t, "group_sizes": torch.tensor([50, 150])}
    torch.save(state, at / "ae.pt")
    trainer = {"dict_class": name, "activation_dim": D, "dict_size": F, "k": 7, "layer": 3, "lm_name": "x/y"}
    (at / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
    cfg, loaded, _ = loaders.dictionary_learning_sae_huggingface_loader_1("a/b", "trainer_0")
    ours = iam.formats.load(at)
    assert ours.cfg.architecture == "jumprelu" and str(ours.site) == "resid_post.3"
    same_results(theirs_from(cfg, loaded), ours)
    torch.save({**state, "threshold": torch.tensor(-1.0)}, at / "ae.pt")
    with pytest.raises(iam.errors.FormatError, match="never learned"):
        iam.formats.load(at)


def test_circuit_tracer_transcoders(hub):
    """The same orientation as SAELens's loader of mwhanna's transcoders gives."""
    _, ours = pair_of_transcoders("transcoder", d_out=D)
    at = hub / "mwhanna/qwen3-4b-transcoders"
    iam.formats.save(ours, at, format="circuit_tracer")
    text = f"d_model:\n  value: {D}\nd_feature:\n  value: {F}\nbatch_size:\n  value: 1\n"
    (at / "wandb-config.yaml").write_text(text)
    config = (at / "config.yaml").read_text()
    (at / "config.yaml").write_text(config + "model_name: Qwen/Qwen3-4B\n")
    cfg, state, _ = loaders.mwhanna_transcoder_huggingface_loader("mwhanna/qwen3-4b-transcoders", "layer_0.safetensors")
    same_results(theirs_from(cfg, state), ours)
    same_results(theirs_from(cfg, state), iam.formats.load(at))


def test_sparsify_where_saelens_is_wrong(tmp_path):
    """SAELens's loader transposes W_dec, which the file has in its own orientation, and loses the subtraction of b_dec."""
    theirs, ours = pair("topk")
    at = tmp_path / "layers.3"
    iam.formats.save(ours, at, format="sparsify")
    cfg, state = loaders.sparsify_disk_loader(at)
    assert state["W_dec"].shape == (D, F), "their mistake; [d_sae, d_in] is what SAELens itself needs"
    assert cfg["apply_b_dec_to_input"] is False, "their mistake: sparsify always subtracts it from the input of an SAE"
    loaded = iam.formats.load(at)
    assert np.array_equal(as_float32(loaded.W_dec), theirs.W_dec.detach().numpy())
    same_results(theirs, loaded)


def test_paths_are_paths_or_text(tmp_path):
    _, ours = pair("topk")
    iam.formats.save(ours, str(tmp_path / "a"), format="saelens")
    assert np.array_equal(iam.formats.load(str(tmp_path / "a")).W_enc, iam.formats.load(Path(tmp_path / "a")).W_enc)
