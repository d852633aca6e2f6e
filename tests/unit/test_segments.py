"""Segments of small random models of every family, against the model as a whole."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import iam  # noqa: E402
from iam.core.sites import Site  # noqa: E402
from iam.errors import ArgumentError, ShapeError, SiteError  # noqa: E402

LAYERS, WIDTH, VOCABULARY = 3, 32, 67
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GQA = COMMON | {"num_key_value_heads": 2, "head_dim": 8}
FAMILIES = ["llama", "qwen3", "gpt2", "neox-parallel", "neox-sequential", "gemma2", "gemma3"]


def config_of(family):
    from transformers import Gemma2Config, Gemma3TextConfig, GPT2Config, GPTNeoXConfig, LlamaConfig, Qwen3Config

    gemma = GQA | {"query_pre_attn_scalar": 8, "sliding_window": 4}
    made = {
        "llama": lambda: LlamaConfig(**GQA),
        "qwen3": lambda: Qwen3Config(**GQA | {"head_dim": 16}),
        "gpt2": lambda: GPT2Config(
            vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=LAYERS, n_head=4, n_positions=64, pad_token_id=0
        ),
        "neox-parallel": lambda: GPTNeoXConfig(**COMMON, use_parallel_residual=True),
        "neox-sequential": lambda: GPTNeoXConfig(**COMMON, use_parallel_residual=False),
        "gemma2": lambda: Gemma2Config(**gemma, final_logit_softcapping=5.0),
        "gemma3": lambda: Gemma3TextConfig(**gemma),
    }
    return made[family]()


@pytest.fixture(scope="module")
def models(one_thread):
    made = {}

    def model(family):
        if family not in made:
            torch.manual_seed(0)
            model = transformers.AutoModelForCausalLM.from_config(config_of(family)).eval()
            with torch.no_grad():  # norms start at their identity; away from it, a missed gain shows
                for parameter in model.parameters():
                    if parameter.dim() == 1:
                        parameter.add_(0.3 * torch.randn_like(parameter))
            made[family] = iam.LanguageModel(model)
        return made[family]

    return model


IDS = torch.tensor([[5, 9, 3, 60, 2, 8], [7, 1, 33, 4, 21, 6]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])

each_family = pytest.mark.parametrize("family", FAMILIES)


@each_family
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])
def test_from_the_tokens_it_is_what_capture_reads(models, family, mask):
    model = models(family)
    prompt = model.on(IDS, attention_mask=mask)
    captured = model.capture(IDS, model.sites(), attention_mask=mask)
    for site in model.sites():
        torch.testing.assert_close(prompt.run(to=site), captured[site], rtol=0, atol=1e-6, msg=str(site))


@each_family
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])
def test_every_segment_leads_to_what_the_model_computes(models, family, mask):
    model = models(family)
    prompt = model.on(IDS, attention_mask=mask)
    captured = model.capture(IDS, model.sites(), attention_mask=mask)
    for start in model.sites():
        for end in model.sites():
            if start < end:
                y = prompt.run(captured[start], from_=start, to=end)
                torch.testing.assert_close(y, captured[end], rtol=0, atol=2e-6, msg=f"{start} to {end}")


@each_family
def test_logits(models, family):
    model = models(family)
    prompt = model.on(IDS)
    whole = model.logits(IDS)
    for start in [None, *model.sites()]:
        h = None if start is None else prompt.run(to=start)
        logits = prompt.run(h, from_=start, to="logits")
        torch.testing.assert_close(logits, whole, rtol=0, atol=2e-6, msg=str(start))
        some = prompt.run(h, from_=start, to="logits", tokens=[3, 66], positions=[-1, 0])
        torch.testing.assert_close(some, whole[:, [-1, 0]][..., [3, 66]], rtol=0, atol=2e-6, msg=str(start))


@each_family
def test_variants_of_a_prompt_go_together(models, family):
    model = models(family)
    prompt = model.on(IDS, attention_mask=MASK)
    start, end = Site(1, "resid_pre"), Site(2, "mlp_out")
    h = prompt.run(to=start)
    variants = torch.cat([h, 2 * h, h - 1])
    together = prompt.run(variants, from_=start, to=end)
    for i, one in enumerate([h, 2 * h, h - 1]):
        torch.testing.assert_close(together[2 * i : 2 * i + 2], prompt.run(one, from_=start, to=end), rtol=0, atol=2e-6)


@each_family
@pytest.mark.parametrize("kind", ["resid_pre", "mlp_out", "resid_post", "hook_z"])
def test_gradient_is_that_of_the_whole_model(models, family, kind):
    """A leaf is put in at the site while the whole model runs."""
    model = models(family)
    start = Site(1, kind)
    prompt = model.on(IDS)
    h = prompt.run(to=start)
    ours = h.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(prompt.run(ours, from_=start, to="logits").pow(2).sum(), ours)
    leaf = h.clone().requires_grad_()
    with model.attach(start, lambda rows: leaf.reshape(rows.shape)):
        logits = model.model(input_ids=IDS, attention_mask=torch.ones_like(IDS), use_cache=False).logits
    (expected,) = torch.autograd.grad(logits.float().pow(2).sum(), leaf)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_blocks_below_the_start_do_not_run(models):
    model = models("llama")
    prompt = model.on(IDS)
    h = prompt.run(to="resid_post.1")
    called = []
    handles = [
        block.register_forward_hook(lambda *_, layer=layer: called.append(layer))
        for layer, block in enumerate(model._blocks)
    ]
    try:
        prompt.run(h, from_="resid_post.1", to="logits")
        assert called == [2]
        called.clear()
        prompt.run(to="resid_pre.1")
        assert called == [0]
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("side", ["right", "left"])
def test_positions_do_not_count_padding(models, side):
    model = models("llama")
    mask = MASK if side == "right" else MASK.flip(1)
    prompt = model.on(IDS, attention_mask=mask)
    whole = prompt.run(to="resid_post.1")
    last = prompt.run(to="resid_post.1", positions=[-1, 0])
    short = (3, 0) if side == "right" else (5, 2)
    torch.testing.assert_close(last[0], whole[0, [5, 0]])
    torch.testing.assert_close(last[1], whole[1, list(short)])


def test_a_training_model_is_left_training(models):
    model = models("llama")
    model.model.train()
    try:
        model.on(IDS).run(to="resid_post.0")
        assert model.model.training
    finally:
        model.model.eval()


def test_half_precision_models_give_float32(one_thread):
    torch.manual_seed(0)
    model = iam.LanguageModel(transformers.AutoModelForCausalLM.from_config(config_of("llama")).bfloat16().eval())
    prompt = model.on(IDS)
    h = prompt.run(to="resid_post.0")
    assert h.dtype == torch.float32
    assert prompt.run(h, from_="resid_post.0", to="logits").dtype == torch.float32


class TestErrors:
    @pytest.fixture
    def prompt(self, models):
        return models("llama").on(IDS)

    def test_direction(self, prompt):
        h = prompt.run(to="resid_post.1")
        with pytest.raises(SiteError, match=r"expected to=resid_post\.0 to come after from_=resid_post\.1"):
            prompt.run(h, from_="resid_post.1", to="resid_post.0")

    def test_site(self, prompt):
        with pytest.raises(SiteError, match=r"layer 9 is too large"):
            prompt.run(to="resid_post.9")

    def test_input_without_its_site(self, prompt):
        with pytest.raises(ArgumentError, match="h without from_"):
            prompt.run(torch.zeros(2, 6, WIDTH), to="resid_post.2")
        with pytest.raises(ArgumentError, match=r"from_=resid_pre\.1 without h"):
            prompt.run(from_="resid_pre.1", to="resid_post.2")

    def test_shape(self, prompt):
        with pytest.raises(ShapeError, match=r"expected h of shape \[n·2, 6, 32\] at resid_pre\.1, got \(2, 5, 32\)"):
            prompt.run(torch.zeros(2, 5, WIDTH), from_="resid_pre.1", to="resid_post.2")
        with pytest.raises(ShapeError, match=r"got \(3, 6, 32\)"):
            prompt.run(torch.zeros(3, 6, WIDTH), from_="resid_pre.1", to="resid_post.2")

    def test_tokens_and_positions(self, prompt):
        with pytest.raises(ArgumentError, match=r"expected tokens in 0\.\.66, got \[67\]"):
            prompt.run(to="logits", tokens=[3, 67])
        with pytest.raises(ArgumentError, match=r'expected to="logits", got resid_post\.0'):
            prompt.run(to="resid_post.0", tokens=[3])
        with pytest.raises(
            ArgumentError, match=r"expected positions in -6\.\.5 \(tokens of the shortest text\), got \[6\]"
        ):
            prompt.run(to="logits", positions=[6])

    def test_attached_programs(self, models, prompt):
        with models("llama").attach("resid_post.1", lambda x: x), pytest.raises(ArgumentError, match="attached"):
            prompt.run(to="resid_post.2")
