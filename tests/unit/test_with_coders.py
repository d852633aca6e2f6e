"""Coders inside small random models: what they replace, the error term, edits, SAELens's methods."""

import types

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import iam  # noqa: E402
from iam.core.sites import Site  # noqa: E402
from iam.errors import ArgumentError, SiteError  # noqa: E402

LAYERS, WIDTH, VOCABULARY = 3, 32, 67


def build(name):
    from transformers import GPT2Config, LlamaConfig

    config = {
        "llama": lambda: LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=48,
            max_position_embeddings=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        "gpt2": lambda: GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=WIDTH,
            n_layer=LAYERS,
            n_head=4,
            n_positions=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
    }[name]()
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter)) if parameter.dim() == 1 else parameter.mul_(4.0)
    return iam.LanguageModel(model)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def lm(request):
    return build(request.param)


@pytest.fixture(autouse=True)
def nothing_stays(lm):
    yield
    assert not lm._hooks._points and not lm.acts_to_saes, "a hook or a coder outlived its test"


@pytest.fixture
def ids():
    return torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(1))


def coder(site="resid_post.1", architecture="topk", seed=0, **metadata):
    rng = np.random.default_rng(seed)
    hook = Site.parse(site).hook_name if site else None
    cfg = iam.SAEConfig(
        architecture=architecture,
        d_in=WIDTH,
        d_sae=64,
        k=5 if architecture == "topk" else None,
        metadata={"hook_name": hook, **metadata} if hook else metadata,
    )
    weights = {
        "W_enc": rng.standard_normal((WIDTH, 64)) / 6,
        "b_enc": rng.standard_normal(64) / 10,
        "W_dec": rng.standard_normal((64, WIDTH)) / 8,
        "b_dec": rng.standard_normal(WIDTH) / 10,
    }
    threshold = np.full(64, 0.2) if architecture == "jumprelu" else None
    return iam.SAE(cfg, **weights, threshold=threshold)


class SkipTranscoder:
    """The smallest coder that reads one site, writes another and has a skip: what any coder must look like from outside."""

    def __init__(self, site, site_out, seed=3):
        self.inner = coder(None, "jumprelu", seed)
        self.cfg = types.SimpleNamespace(metadata={})
        self.site, self.site_out = Site.parse(site), Site.parse(site_out)
        self.d_in = self.d_out = WIDTH
        self.W_skip = np.random.default_rng(seed).standard_normal((WIDTH, WIDTH)).astype(np.float32) / 6
        self.encode, self.decode = self.inner.encode, self.inner.decode

    def __call__(self, x):
        return self.decode(self.encode(x)) + x @ torch.from_numpy(self.W_skip).T


def test_a_coder_replaces_the_activation_by_its_reconstruction(lm, ids):
    sae = coder()
    clean = lm.capture(ids, "resid_post.1")[Site(1, "resid_post")]
    with lm.with_coders(sae) as same:
        assert same is lm
        found = lm.capture(ids, "resid_post.1")[Site(1, "resid_post")]
        logits = lm.logits(ids)
    torch.testing.assert_close(found, sae(clean))
    with lm.attach("resid_post.1", sae):
        assert torch.equal(logits, lm.logits(ids))
    assert not torch.allclose(logits, lm.logits(ids))


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard"])
def test_with_the_error_term_the_model_is_itself_to_the_last_bit(lm, ids, architecture):
    clean = lm.logits(ids)
    saes = [
        coder("resid_post.0", architecture),
        coder("mlp_out.1", architecture, 1),
        coder("resid_post.1", architecture, 2),
    ]
    with lm.with_coders(saes, error_term=True):
        assert torch.equal(lm.logits(ids), clean)
    with lm.with_coders(saes, error_term=True, edit=lambda f: f):  # the longer way through encode and decode
        assert torch.equal(lm.logits(ids), clean)
    logits, cache = lm.run_with_cache_with_saes(ids, saes=saes, use_error_term=True)
    assert torch.equal(logits, clean)
    at = "blocks.1.hook_resid_post."
    torch.testing.assert_close(
        cache[at + "hook_sae_recons"] + cache[at + "hook_sae_error"], cache[at + "hook_sae_input"], rtol=1e-6, atol=1e-6
    )
    assert torch.equal(cache[at + "hook_sae_output"], cache[at + "hook_sae_input"])


def test_the_coder_is_encoded_once(lm, ids, monkeypatch):
    sae, calls = coder(), []
    encode = iam.SAE.encode
    monkeypatch.setattr(iam.SAE, "encode", lambda self, x: (calls.append(1), encode(self, x))[1])
    lm.run_with_cache_with_saes(ids, saes=[sae], use_error_term=True)
    assert len(calls) == 1


def test_an_edit_reaches_the_model_as_its_difference(lm, ids):
    sae = coder(architecture="jumprelu")
    x = lm.capture(ids, "resid_post.1")[Site(1, "resid_post")]
    feature = int(sae.encode(x).indices[0])
    with lm.with_coders(sae, error_term=True, edit=lambda f: f.ablate(feature)):
        found = lm.capture(ids, "resid_post.1")[Site(1, "resid_post")]
    value = sae.encode(x).to_dense()[..., feature, None]
    assert value.any()
    torch.testing.assert_close(found, x - value * torch.from_numpy(sae.W_dec[feature]), rtol=1e-5, atol=1e-5)
    with lm.with_coders(sae, edit={"resid_post.1": lambda f: f.ablate(feature)}):
        found = lm.capture(ids, "resid_post.1")[Site(1, "resid_post")]
    torch.testing.assert_close(found, sae.decode(sae.encode(x).ablate(feature)))
    with (
        pytest.raises(ArgumentError, match=r"return SparseFeatures of shape \(18, 64\), got Tensor|got shape"),
        lm.with_coders(sae, edit=lambda f: f.to_dense()),
    ):
        lm.logits(ids)


def test_a_transcoder_reads_one_site_and_replaces_another_with_its_skip(lm, ids):
    transcoder = SkipTranscoder("mlp_in.1", "mlp_out.1")
    seen = lm.capture(ids, ["mlp_in.1", "mlp_out.1"])
    x = seen[Site(1, "mlp_in")]
    clean = lm.logits(ids)
    with lm.with_coders(transcoder):
        torch.testing.assert_close(lm.capture(ids, "mlp_out.1")[Site(1, "mlp_out")], transcoder(x))
        replaced = lm.logits(ids)
    _, cache = lm.run_with_cache_with_saes(ids, saes=[transcoder])
    at = "blocks.1.hook_mlp_out."  # where the output goes, as in SAELens
    assert torch.equal(cache[at + "hook_sae_input"], x)
    without_skip = transcoder.decode(transcoder.encode(x))
    torch.testing.assert_close(cache[at + "hook_sae_recons"], without_skip)
    torch.testing.assert_close(cache[at + "hook_sae_output"], transcoder(x))
    assert not torch.allclose(without_skip, transcoder(x))
    with lm.with_coders(transcoder, error_term=True):
        assert torch.equal(lm.logits(ids), clean)
    assert not torch.allclose(replaced, clean)


@pytest.mark.parametrize("architecture", ["topk", "jumprelu"])
def test_padding_never_reaches_a_coder_and_is_empty_in_the_cache(lm, architecture):
    sae = coder(architecture=architecture)
    long, short = list(range(5, 14)), [20, 21, 22, 23]
    for side in ("left", "right"):
        gap = [0] * 5
        where = slice(5, None) if side == "left" else slice(0, 4)
        padded = torch.tensor([long, gap + short if side == "left" else short + gap])
        mask = torch.ones_like(padded)
        mask[1] = 0
        mask[1, where] = 1
        _, together = lm.run_with_cache_with_saes(padded, saes=[sae], attention_mask=mask)
        _, alone = lm.run_with_cache_with_saes([short], saes=[sae])
        for tail in ("input", "acts_post", "recons", "output", "acts_pre"):
            name = f"blocks.1.hook_resid_post.hook_sae_{tail}"
            torch.testing.assert_close(together.dense(name)[1, where], alone.dense(name)[0], rtol=1e-4, atol=1e-4)
            assert not together.dense(name)[1][mask[1] == 0].any()
        assert not together["blocks.0.hook_resid_post"][1][mask[1] == 0].any()


def test_generation_with_a_cache_equals_full_passes(lm, ids):
    transcoder, sae = SkipTranscoder("mlp_in.1", "mlp_out.1"), coder("resid_post.0")
    with lm.with_coders([transcoder, sae]):
        full = lm.logits(ids)
        first = lm.model(ids[:, :6], use_cache=True)
        step = lm.model(ids[:, 6:], past_key_values=first.past_key_values, use_cache=True)
    torch.testing.assert_close(torch.cat([first.logits, step.logits], 1), full, rtol=1e-3, atol=1e-3)


def test_cache_holds_what_saelens_names(lm, ids):
    sae = coder("resid_post.1", "topk")
    logits, cache = lm.run_with_cache_with_saes(ids, saes=[sae])
    at = "blocks.1.hook_resid_post"
    own = {name for name in cache if name.startswith(at)}
    tails = ("input", "acts_pre", "acts_post", "recons", "output")
    assert own == {f"{at}.hook_sae_{tail}" for tail in tails}
    assert {site.hook_name for site in lm.sites()} - set(cache) == {at}
    x = cache[at + ".hook_sae_input"]
    features = cache[at + ".hook_sae_acts_post"]
    assert isinstance(features, iam.SparseFeatures) and features.shape == (2, 9, 64) and features.k == 5
    assert torch.equal(cache.dense(at + ".hook_sae_acts_post"), sae.encode(x).to_dense())
    pre = (x - torch.from_numpy(sae.b_dec)) @ torch.from_numpy(sae.W_enc) + torch.from_numpy(sae.b_enc)
    torch.testing.assert_close(cache[at + ".hook_sae_acts_pre"], pre, rtol=1e-5, atol=1e-5)
    with lm.with_coders(sae):
        assert torch.equal(logits, lm.logits(ids))
        assert torch.equal(cache["blocks.2.hook_resid_post"], lm.capture(ids, "resid_post.2")[Site(2, "resid_post")])
    _, few = lm.run_with_cache_with_saes(ids, saes=[sae], names_filter=lambda name: name.endswith("acts_post"))
    assert set(few) == {at + ".hook_sae_acts_post"}
    _, one = lm.run_with_cache_with_saes(ids[:1], saes=[sae], names_filter=list(own), remove_batch_dim=True)
    assert all(one[name].shape[0] == 9 for name in one)
    with pytest.raises(KeyError, match="hook_sae_acts_post"):
        cache[at + ".hook_sae_acts_pots"]
    with pytest.raises(ArgumentError, match="batch of one, got 2"):
        lm.run_with_cache_with_saes(ids, saes=[sae], remove_batch_dim=True)


def test_add_and_reset(lm, ids):
    clean, sae, other = lm.logits(ids), coder("resid_post.0"), coder("resid_post.0", seed=9)
    lm.add_sae(sae)
    assert lm.acts_to_saes == {"blocks.0.hook_resid_post": sae}
    with_sae = lm.logits(ids)
    assert not torch.equal(with_sae, clean)
    with_other = lm.run_with_saes(ids, saes=[other])  # takes its place, then gives it back
    assert torch.equal(lm.logits(ids), with_sae) and not torch.equal(with_other, with_sae)
    lm.add_sae(other)
    assert torch.equal(lm.logits(ids), with_other)
    lm.reset_saes("resid_post.0")
    assert torch.equal(lm.logits(ids), clean)
    assert torch.equal(lm.run_with_saes(ids, saes=other, reset_saes_end=False), with_other)
    with lm.saes([coder("resid_post.1")]):
        assert len(lm.acts_to_saes) == 2
    assert list(lm.acts_to_saes.values()) == [other]
    with pytest.raises(
        ArgumentError, match=r"no coder reads 'resid_post\.2'; attached are: blocks\.0\.hook_resid_post"
    ):
        lm.reset_saes("resid_post.2")
    lm.reset_saes()
    assert torch.equal(lm.logits(ids), clean)


def test_loss_is_the_models_own(lm, ids):
    with torch.no_grad():
        expected = lm.model(ids, labels=ids).loss
    loss = lm.run_with_saes(ids, return_type="loss")
    torch.testing.assert_close(loss, expected)
    logits, each = lm.run_with_saes(ids, return_type="both", loss_per_token=True)
    assert each.shape == (2, 8) and logits.shape == (2, 9, VOCABULARY)
    torch.testing.assert_close(each.mean(), expected)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    padded = lm.run_with_saes(ids, attention_mask=mask, return_type="loss", loss_per_token=True)
    torch.testing.assert_close(padded[1, :4], each[1, :4], rtol=1e-4, atol=1e-4)
    assert not padded[1, 4:].any()


def test_special_tokens_keep_their_activation(lm, ids):
    sae = coder()
    ids = ids.clone()
    ids[0, 3] = 1
    kept = int(ids[1, 2])
    clean = lm.capture(ids, "resid_post.1")[Site(1, "resid_post")]
    with lm.with_coders(sae, exclude_special_tokens=[1, kept]):
        found = lm.capture(ids, "resid_post.1")[Site(1, "resid_post")]
    bypassed = (ids == 1) | (ids == kept)
    assert torch.equal(found[bypassed], clean[bypassed])
    torch.testing.assert_close(found[~bypassed], sae(clean)[~bypassed])
    _, cache = lm.run_with_cache_with_saes(ids, saes=sae, use_error_term=True, exclude_special_tokens=[1])
    assert not cache["blocks.1.hook_resid_post.hook_sae_error"][ids == 1].any()
    with pytest.raises(ArgumentError, match="needs a tokenizer"):
        lm.with_coders(sae, exclude_special_tokens=True)


def test_from_position_spares_the_first(lm, ids):
    sae = coder()
    clean = lm.capture(ids, "resid_post.1")[Site(1, "resid_post")]
    with lm.with_coders(sae, from_position=1):
        found = lm.capture(ids, "resid_post.1")[Site(1, "resid_post")]
    assert torch.equal(found[:, 0], clean[:, 0])
    torch.testing.assert_close(found[:, 1:], sae(clean[:, 1:].contiguous()))


def test_gradients_flow_through_the_coder_alone(lm, ids):
    """With the error term the value is x, the gradient that of SAE(x): SAELens's detached error."""
    sae = coder(architecture="standard")

    def gradient(**how):
        embedded = lm.model.get_input_embeddings()(ids).detach().requires_grad_()
        with lm.with_coders(sae, **how):
            (lm.model(inputs_embeds=embedded).logits.float() ** 2).mean().backward()
        return embedded.grad

    plain, corrected = gradient(), gradient(error_term=True)
    assert plain.any() and corrected.any() and not torch.allclose(plain, corrected)
    x = lm.capture(ids, "resid_post.1")[Site(1, "resid_post")].requires_grad_()
    seen = []
    with lm.attach("resid_post.1", lambda rows: (seen.append(rows), rows)[1]), torch.enable_grad():
        lm.model(ids)
    inserted = lm.with_coders(sae, error_term=True)._inserted[0]
    rows = x.reshape(-1, WIDTH)
    out = inserted.replace(rows)
    assert torch.equal(out, rows)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
    (got,) = torch.autograd.grad((out * weight).sum(), x, retain_graph=True)
    (expected,) = torch.autograd.grad((sae(rows) * weight).sum(), x)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: coder("resid_post.7"), SiteError, "layer 7 is too large"),
        (lambda: {"resid_post.0": coder()}, SiteError, r"trained at resid_post\.1, not at resid_post\.0"),
        (
            lambda: coder(None),
            SiteError,
            r"says where it was trained, got hook_name None; name the site: with_coders\(\{",
        ),
        (list, ArgumentError, "at least one coder"),
        (lambda: [coder(), coder(seed=2)], ArgumentError, "two that write to resid_post.1"),
        (
            lambda: SkipTranscoder("mlp_out.1", "mlp_in.1"),
            SiteError,
            "writes after it reads, got mlp_in.1 after mlp_out.1",
        ),
        (lambda: [lambda x: x], ArgumentError, "expected coders"),
        (lambda: coder(hook_name_out="blocks.1.hook_nothing"), SiteError, "unknown hook"),
    ],
)
def test_what_does_not_fit_is_an_error(lm, make, error, message):
    with pytest.raises(error, match=message):
        lm.with_coders(make())


def test_width_and_other_site(lm, ids):
    narrow = coder()
    narrow = iam.SAE(
        iam.SAEConfig(architecture="standard", d_in=8, d_sae=4),
        W_enc=np.ones((8, 4)),
        b_enc=np.ones(4),
        W_dec=np.ones((4, 8)),
        b_dec=np.ones(8),
    )
    with pytest.raises(SiteError, match=r"reads activations of width 8, but resid_post\.0 of .* has width 32") as info:
        lm.with_coders({"resid_post.0": narrow})
    assert info.value.code == "width"
    sae = coder()
    with lm.with_coders({"resid_post.0": sae}, allow_other_site=True):
        moved = lm.logits(ids)
    with lm.attach("resid_post.0", sae, allow_other_site=True):
        assert torch.equal(moved, lm.logits(ids))
    with pytest.raises(ArgumentError, match="expected edits at the sites"):
        lm.with_coders(sae, edit={"resid_post.0": lambda f: f})
    block = lm.with_coders(sae)
    with block, pytest.raises(ArgumentError, match="in use"), block:
        pass
    with pytest.raises(RuntimeError, match="inside"), lm.with_coders([sae, coder("resid_post.0")]):
        raise RuntimeError("inside")


def cross_layer(skip=True, seed=4):
    """Reads and writes the MLPs of the last two blocks; features of the first write to both."""
    rng = np.random.default_rng(seed)
    cfg = iam.CoderConfig(
        architecture="jumprelu",
        d_in=WIDTH,
        d_sae=48,
        metadata={
            "hook_names": ["blocks.1.mlp.hook_in", "blocks.2.mlp.hook_in"],
            "hook_names_out": ["blocks.1.hook_mlp_out", "blocks.2.hook_mlp_out"],
        },
    )
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32) / 6  # noqa: E731
    return iam.CrossLayerTranscoder(
        cfg,
        W_enc=[draw(WIDTH, 48), draw(WIDTH, 48)],
        b_enc=[draw(48), draw(48)],
        threshold=[np.full(48, 0.1)] * 2,
        W_dec=[draw(48, 2, WIDTH), draw(48, 1, WIDTH)],
        b_dec=[draw(WIDTH), draw(WIDTH)],
        W_skip=[draw(WIDTH, WIDTH), draw(WIDTH, WIDTH)] if skip else None,
    )


@pytest.mark.parametrize("skip", [True, False])
def test_a_cross_layer_transcoder_in_one_forward_pass(lm, ids, skip):
    clt = cross_layer(skip)
    clean = lm.logits(ids)
    reads, writes = [Site(i, "mlp_in") for i in (1, 2)], [Site(i, "mlp_out") for i in (1, 2)]
    with lm.with_coders(clt):
        seen = lm.capture(ids, reads + writes)
        replaced = lm.logits(ids)
    for y, site in zip(
        clt([seen[s] for s in reads]), writes, strict=True
    ):  # what it reads is already changed by itself
        torch.testing.assert_close(seen[site], y, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(replaced, clean)
    _, cache = lm.run_with_cache_with_saes(ids, saes=[clt], use_error_term=True)
    first = "blocks.1.hook_mlp_out.hook_sae_"
    assert torch.equal(cache[first + "acts_post"].to_dense(), clt.layers[0].encode(cache[first + "input"]).to_dense())
    for error_term_only in ({}, {"edit": lambda f: f}):
        with lm.with_coders(clt, error_term=True, **error_term_only):
            assert torch.equal(lm.logits(ids), clean)


def test_an_edit_of_one_layer_reaches_the_later_ones(lm, ids):
    """Scaling features of the first layer moves both outputs by what they write there, and nothing else."""
    clt = cross_layer()
    x = lm.capture(ids, "mlp_in.1")[Site(1, "mlp_in")]
    before = lm.capture(ids, "mlp_out.1")[Site(1, "mlp_out")]
    doubled = clt.layers[0].encode(x).to_dense()
    feature = int((doubled != 0).sum((0, 1)).argmax())
    step = doubled[..., feature, None]
    with lm.with_coders(clt, error_term=True, edit={"mlp_out.1": lambda f: f.scale(feature, 2.0)}):
        seen = lm.capture(
            ids, ["mlp_out.1", "resid_mid.2" if "resid_mid" in lm.family.points else "attn_out.2", "mlp_out.2"]
        )
    decoder = torch.from_numpy(np.asarray(clt.W_dec[0][feature]))
    torch.testing.assert_close(seen[Site(1, "mlp_out")], before + step * decoder[0], rtol=1e-4, atol=1e-5)
    with lm.attach("mlp_out.1", lambda rows: rows + (step * decoder[0]).reshape(rows.shape)):
        alone = lm.capture(ids, "mlp_out.2")[Site(2, "mlp_out")]  # the edit of layer 1 alone, as layer 2 sees it
    torch.testing.assert_close(seen[Site(2, "mlp_out")], alone + step * decoder[1], rtol=1e-3, atol=1e-3)


def test_cross_layer_with_a_cache_padding_and_add_sae(lm, ids):
    clt = cross_layer()
    lm.add_sae(clt)
    assert list(lm.acts_to_saes) == ["blocks.1.mlp.hook_in"]
    full = lm.logits(ids)
    first = lm.model(ids[:, :6], use_cache=True)
    step = lm.model(ids[:, 6:], past_key_values=first.past_key_values, use_cache=True)
    torch.testing.assert_close(torch.cat([first.logits, step.logits], 1), full, rtol=1e-3, atol=1e-3)
    padded = torch.cat([ids, torch.zeros(2, 3, dtype=torch.long)], 1)
    mask = torch.cat([torch.ones_like(ids), torch.zeros(2, 3, dtype=torch.long)], 1)
    torch.testing.assert_close(lm.logits(padded, attention_mask=mask)[:, :9], full, rtol=1e-3, atol=1e-3)
    with pytest.raises(ArgumentError, match=r"writes to mlp_out\.1 already"):
        lm.add_sae(SkipTranscoder("attn_out.1", "mlp_out.1"))
    lm.reset_saes()


def test_coders_of_several_sites_that_do_not_fit(lm):
    clt = cross_layer()
    with pytest.raises(SiteError, match="metadata name its sites"):
        lm.with_coders({"mlp_in.1": clt})
    rng = np.random.default_rng(0)
    crosscoder = iam.Crosscoder(
        iam.CoderConfig(architecture="standard", d_in=WIDTH, d_sae=8),
        W_enc=rng.standard_normal((2, WIDTH, 8)),
        b_enc=np.zeros(8),
        W_dec=rng.standard_normal((8, 2, WIDTH)),
        b_dec=np.zeros((2, WIDTH)),
    )
    with pytest.raises(ArgumentError, match=r"no single forward pass can do both; run_with_crosscoder takes two"):
        lm.with_coders(crosscoder)


def crosscoder(*names):
    rng = np.random.default_rng(4)
    cfg = iam.CoderConfig(architecture="topk", d_in=WIDTH, d_sae=48, k=6, metadata={"hook_names": list(names)})
    return iam.Crosscoder(
        cfg,
        W_enc=rng.standard_normal((2, WIDTH, 48)) / 6,
        b_enc=rng.standard_normal(48) / 10,
        W_dec=rng.standard_normal((48, 2, WIDTH)) / 8,
        b_dec=rng.standard_normal((2, WIDTH)) / 10,
    )


def test_a_crosscoder_in_two_passes(lm, ids):
    names = ["resid_post.0", "mlp_out.2"]
    coder, sites = crosscoder(*names), [Site.parse(name) for name in names]
    clean = lm.capture(ids, sites)
    outs = coder([clean[s] for s in sites])
    seen = {}

    def look(site):
        return lm.attach(site, lambda rows: seen.setdefault(site, rows.clone()))

    untouched = lm._placed

    def watched(*arguments):  # what stands at the sites in the second pass
        stack = untouched(*arguments)
        for site in sites:
            stack.enter_context(look(site))
        return stack

    lm._placed = watched
    try:
        logits, f = lm.run_with_crosscoder(ids, coder)
    finally:
        del lm._placed
    for site, out in zip(sites, outs, strict=True):
        torch.testing.assert_close(seen[site].reshape(out.shape), out)
    assert torch.equal(f.to_dense(), coder.encode([clean[s] for s in sites]).to_dense())
    assert not torch.allclose(logits, lm.logits(ids))
    # without an edit, the error term leaves the model as it is
    assert torch.equal(lm.run_with_crosscoder(ids, coder, error_term=True)[0], lm.logits(ids))
    only, _ = lm.run_with_crosscoder(ids, coder, replace=["mlp_out.2"])
    with lm.attach("mlp_out.2", lambda rows: outs[1].reshape(rows.shape)):
        torch.testing.assert_close(only, lm.logits(ids))
    loss, _ = lm.run_with_crosscoder(ids, coder, return_type="loss")
    torch.testing.assert_close(
        loss, torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    )


def test_an_edited_crosscoder_writes_to_all_its_sites(lm, ids):
    coder, sites = crosscoder("resid_post.0", "resid_post.1"), [Site(0, "resid_post"), Site(1, "resid_post")]
    clean = lm.capture(ids, sites)
    codes = coder.encode([clean[s] for s in sites])
    feature = int(codes.indices.reshape(-1)[0])
    logits, f = lm.run_with_crosscoder(ids, coder, error_term=True, edit=lambda f: f.ablate(feature))
    assert not f.to_dense()[..., feature].any()
    values = codes.to_dense()[..., feature, None]
    changed = clean[sites[1]] - values * torch.from_numpy(coder.W_dec[feature, 1])
    with lm.attach("resid_post.1", lambda rows: changed.reshape(rows.shape)):  # the later site of the stream decides
        torch.testing.assert_close(logits, lm.logits(ids), rtol=1e-4, atol=1e-4)
    with pytest.raises(ArgumentError, match=r"expected the edit to return SparseFeatures of shape \(18, 48\)"):
        lm.run_with_crosscoder(ids, coder, edit=lambda f: f.to_dense())


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_crosscoder_leaves_padding_and_special_tokens_alone(lm, side):
    coder = crosscoder("resid_post.0", "mlp_out.1")
    long, short = list(range(5, 14)), [20, 21, 22, 23]
    gap, where = [0] * 5, slice(5, None) if side == "left" else slice(0, 4)
    padded = torch.tensor([long, gap + short if side == "left" else short + gap])
    mask = torch.ones_like(padded)
    mask[1] = 0
    mask[1, where] = 1
    how = {"exclude_special_tokens": [21], "from_position": 1}
    together, f = lm.run_with_crosscoder(padded, coder, attention_mask=mask, **how)
    alone, own = lm.run_with_crosscoder([short], coder, **how)
    torch.testing.assert_close(together[1, where], alone[0], rtol=1e-3, atol=1e-3)
    assert ((f.to_dense()[1, where] != 0).sum(-1) == torch.tensor([0, 0, 6, 6])).all()
    torch.testing.assert_close(f.to_dense()[1, where], own.to_dense()[0], rtol=1e-3, atol=1e-3)
    assert not f.to_dense()[1][mask[1] == 0].any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"replace": ["mlp_out.0"]},
            ArgumentError,
            "expected replace to name some of resid_post.0, mlp_out.1, got mlp_out.0",
        ),
        ({"replace": []}, ArgumentError, "got none"),
        ({"sites": ["resid_post.0"]}, SiteError, "expected 2 different sites"),
        ({"sites": ["resid_post.0", "resid_post.0"]}, SiteError, "expected 2 different sites"),
        ({"sites": ["resid_post.0", "resid_post.99"]}, SiteError, "99"),
        ({"from_position": 20}, ArgumentError, "at least one position to read"),
    ],
)
def test_a_crosscoder_that_does_not_fit(lm, ids, arguments, error, message):
    with pytest.raises(error, match=message):
        lm.run_with_crosscoder(ids, crosscoder("resid_post.0", "mlp_out.1"), **arguments)
    with pytest.raises(ArgumentError, match=r"expected an iam\.Crosscoder, got SAE"):
        lm.run_with_crosscoder(ids, coder())


def test_a_normalised_coder_keeps_its_statistics_in_the_cache(lm):
    sae = coder("resid_post.1", "standard")
    cfg = iam.CoderConfig(
        architecture="standard",
        d_in=WIDTH,
        d_sae=64,
        normalize_activations="layer_norm",
        metadata={"hook_name": "blocks.1.hook_resid_post"},
    )
    normed = iam.SAE(cfg, W_enc=sae.W_enc, b_enc=sae.b_enc, W_dec=sae.W_dec, b_dec=sae.b_dec)
    padded = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    _, cache = lm.run_with_cache_with_saes(padded, saes=[normed], attention_mask=mask)
    at = "blocks.1.hook_resid_post.hook_sae_"
    decoded = normed.decode(cache[at + "acts_post"])
    torch.testing.assert_close(decoded[mask == 1], cache[at + "recons"][mask == 1], rtol=1e-5, atol=1e-5)
    assert at + "acts_pre" not in cache


@pytest.mark.parametrize("skip", [True, False])
def test_a_transcoder_finds_both_sites_in_its_metadata(lm, ids, skip):
    rng = np.random.default_rng(1)
    cfg = iam.CoderConfig(
        architecture="topk",
        d_in=WIDTH,
        d_sae=64,
        k=6,
        metadata={"hook_name": "blocks.1.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out"},
    )
    transcoder = iam.Transcoder(
        cfg,
        W_enc=rng.standard_normal((WIDTH, 64)) / 6,
        b_enc=np.zeros(64),
        W_dec=rng.standard_normal((64, WIDTH)) / 8,
        b_dec=rng.standard_normal(WIDTH),
        W_skip=rng.standard_normal((WIDTH, WIDTH)) / 6 if skip else None,
    )
    x = lm.capture(ids, "mlp_in.1")[Site(1, "mlp_in")]
    clean = lm.logits(ids)
    for how in ({}, {"edit": lambda f: f}):  # called whole, and in parts
        with lm.with_coders(transcoder, **how):
            found = lm.capture(ids, "mlp_out.1")[Site(1, "mlp_out")]
        torch.testing.assert_close(found, transcoder(x), rtol=1e-5, atol=1e-5)
    lm.add_sae(transcoder, use_error_term=True)
    assert torch.equal(lm.logits(ids), clean) and list(lm.acts_to_saes) == ["blocks.1.mlp.hook_in"]
    lm.reset_saes()


def test_heads_come_flattened(lm, ids):
    width = lm.width("hook_z.1")
    rng = np.random.default_rng(1)
    cfg = iam.SAEConfig(
        architecture="standard",
        d_in=width,
        d_sae=24,
        reshape_activations="hook_z",
        metadata={"hook_name": "blocks.1.attn.hook_z"},
    )
    sae = iam.SAE(
        cfg,
        W_enc=rng.standard_normal((width, 24)),
        b_enc=np.zeros(24),
        W_dec=rng.standard_normal((24, width)),
        b_dec=np.zeros(width),
    )
    z = lm.capture(ids, "hook_z.1")[Site(1, "hook_z")]
    with lm.with_coders(sae):
        torch.testing.assert_close(lm.capture(ids, "hook_z.1")[Site(1, "hook_z")], sae(z), rtol=1e-5, atol=1e-5)
