"""Coders by release and sae_id: what the index says, and what comes out of a hub cache, without a network."""

import pytest
from test_formats_all import make, same

import iam
from iam.core.errors import ArgumentError, FormatError
from iam.formats import FORMATS, SafetensorsFile, _detect, releases, resolve
from iam.formats._build import raw_of


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache; ``put`` makes a repository in it, as a download leaves it."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert constants.HF_HUB_OFFLINE, "no test reaches the hub"

    def put(repo, path, raw, format):
        root = tmp_path / ("models--" + repo.replace("/", "--"))
        (root / "refs").mkdir(parents=True, exist_ok=True)
        (root / "refs" / "main").write_text("0" * 40)
        folder = root / "snapshots" / ("0" * 40) / path
        _detect.save_raw(raw, folder, format=format)
        (folder / "iam.json").unlink(missing_ok=True)  # as others publish
        return folder

    return put


@pytest.mark.parametrize(
    ("release", "sae_id", "expected"),
    [
        ("gpt2-small-res-jb", "blocks.8.hook_resid_pre",
         ("jbloom/GPT2-Small-SAEs-Reformatted", "blocks.8.hook_resid_pre", "saelens", "blocks.8.hook_resid_pre")),
        ("gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71",
         ("google/gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71", "gemma_scope", "blocks.20.hook_resid_post")),
        ("gemma-scope-2b-pt-transcoders", "layer_0/width_16k/average_l0_76",
         ("google/gemma-scope-2b-pt-transcoders", "layer_0/width_16k/average_l0_76", "gemma_scope", "blocks.0.ln2.hook_normalized")),
        ("gemma-scope-2-4b-pt-transcoders-all", "layer_10_width_16k_l0_big_affine",
         ("google/gemma-scope-2-4b-pt", "transcoder_all/layer_10_width_16k_l0_big_affine", "gemma_scope_2", "blocks.10.mlp.hook_in")),
        ("llama_scope_lxr_8x", "l5r_8x",
         ("fnlp/Llama3_1-8B-Base-LXR-8x", "Llama3_1-8B-Base-L5R-8x", "llama_scope", "blocks.5.hook_resid_post")),
        ("mwhanna-qwen3-4b-transcoders", "layer_3",
         ("mwhanna/qwen3-4b-transcoders", "layer_3.safetensors", "circuit_tracer", "blocks.3.mlp.hook_in")),
    ],
)  # fmt: skip
def test_names_that_users_know(release, sae_id, expected):
    found = resolve(release, sae_id)
    assert (found.repo, found.path, found.format, found.hook_name) == expected


def test_the_index_is_whole():
    every = releases()
    assert len(every) >= 170 and sum(map(len, every.values())) >= 13_857
    formats = set()
    unread = 0
    for release, ids in every.items():
        try:
            found = resolve(release, ids[0])
        except FormatError:
            unread += 1
            continue
        assert found.format in FORMATS and ("/" in found.repo or release == "iam") and not found.path.startswith("/")
        formats.add(found.format)
    assert unread == 2
    assert formats >= {
        "saelens",
        "gemma_scope",
        "gemma_scope_2",
        "llama_scope",
        "dictionary_learning",
        "circuit_tracer",
    }


def test_a_format_that_is_not_read():
    with pytest.raises(FormatError, match="attention over the positions before it"):
        resolve("temporal-sae-gemma-2-2b", "blocks.12.hook_resid_post")


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(ArgumentError, match='did you mean "gpt2-small-res-jb"'):
        resolve("gpt2-small-res-jbb", "x")
    with pytest.raises(ArgumentError, match=r'did you mean "blocks\.8\.hook_resid_pre"'):
        resolve("gpt2-small-res-jb", "blocks.8.hook_resid_per")
    with pytest.raises(ArgumentError, match="no sae_id None"):
        resolve("gpt2-small-res-jb")
    assert resolve("someone/something", "a/b/").path == "a/b"


def test_without_a_network_the_message_says_so(cache):
    with pytest.raises(FormatError, match=r"could not get blocks\.8\.hook_resid_pre/cfg\.json") as caught:
        iam.formats.from_pretrained("gpt2-small-res-jb", "blocks.8.hook_resid_pre")
    assert caught.value.code == "file-missing" and "Without a network only what is in the cache loads" in str(
        caught.value
    )


def test_from_the_cache(cache):
    sae = make("sae", "standard", apply_b_dec_to_input=True, metadata={"hook_name": "blocks.8.hook_resid_pre"})
    cache("jbloom/GPT2-Small-SAEs-Reformatted", "blocks.8.hook_resid_pre", sae, "saelens")
    loaded = iam.formats.from_pretrained("gpt2-small-res-jb", "blocks.8.hook_resid_pre")
    assert isinstance(loaded, iam.SAE) and str(loaded.site) == "resid_pre.8"
    assert loaded.cfg.metadata["release"] == "gpt2-small-res-jb" and loaded.cfg.metadata["model_name"] == "gpt2-small"
    same(sae, raw_of(loaded), apart_from={"metadata"})

    for repo, kind, hook in (
        ("google/gemma-scope-2b-pt-res", "sae", "blocks.20.hook_resid_post"),
        ("google/gemma-scope-2b-pt-transcoders", "transcoder", "blocks.20.ln2.hook_normalized"),
    ):
        raw = make(kind, "jumprelu")
        sae_id = next(each for each in releases()[repo.split("/")[1]] if each.startswith("layer_20/"))
        cache(repo, sae_id, raw, "gemma_scope")
        loaded = iam.formats.from_pretrained(repo.split("/")[1], sae_id)
        same(raw, raw_of(loaded), apart_from={"metadata"})
        assert loaded.cfg.metadata["hook_name"] == hook

    affine = make("transcoder", "jumprelu", skip=True)
    path = "transcoder_all/layer_10_width_16k_l0_big_affine"
    folder = cache("google/gemma-scope-2-4b-pt", path, affine, "gemma_scope_2")
    for _ in range(2):
        loaded = iam.formats.from_pretrained("gemma-scope-2-4b-pt-transcoders-all", path.split("/")[1])
        same(affine, raw_of(loaded), apart_from={"metadata"})
        assert str(loaded.site) == "mlp_in.10"
        (folder / "config.json").unlink(missing_ok=True)  # some repositories have none

    pytest.importorskip("yaml")
    layers = make("transcoder", "jumprelu", metadata={"hook_name": "blocks.0.mlp.hook_in"})
    cache("mwhanna/qwen3-4b-transcoders", "", layers, "circuit_tracer")
    same(
        layers, raw_of(iam.formats.from_pretrained("mwhanna-qwen3-4b-transcoders", "layer_0")), apart_from={"metadata"}
    )


def test_any_repository(cache):
    raw = make("sae", "topk", apply_b_dec_to_input=True)
    cache("someone/something", "layers.3", raw, "sparsify")
    same(raw, raw_of(iam.formats.from_pretrained("someone/something", "layers.3")), apart_from={"metadata"})
    cache("someone/else", "", make("sae", "topk"), "saelens")
    assert iam.formats.from_pretrained("someone/else", format="saelens").cfg.k == 2


def test_the_scale_that_only_the_release_knows(cache):
    release = "gpt2-small-mlp-tm"
    sae_id = releases()[release][0]
    found = resolve(release, sae_id)
    assert found.scale is not None
    raw = make("sae", "standard", apply_b_dec_to_input=True, normalize_activations="expected_average_only_in")
    folder = cache(found.repo, found.path, raw, "saelens")
    loaded = iam.formats.from_pretrained(release, sae_id)
    assert loaded.cfg.norm_scale == found.scale
    with pytest.raises(FormatError, match="fold"):
        iam.formats.load(folder)
    assert SafetensorsFile(folder / "sae_weights.safetensors").tensors


def test_what_is_in_the_package_needs_no_hub(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "smollm2-135m-resid_post-15" in releases()["iam"]
    sae = iam.SAE.from_pretrained("iam", "smollm2-135m-resid_post-15")
    assert (sae.d_in, sae.d_sae, sae.cfg.k) == (576, 4608, 32)
    with pytest.raises(ArgumentError, match='did you mean "smollm2-135m-resid_post-15"'):
        iam.SAE.from_pretrained("iam", "smollm2-135m-resid_post-14")
