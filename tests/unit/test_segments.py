"""Segments of small random models of every family, against the model as a whole."""

import itertools

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import transformers  # noqa: E402
from tiny_models import FAMILIES, LAYERS, VOCABULARY, WIDTH, build, close, configs  # noqa: E402

import iam  # noqa: E402
from iam.core.sites import Site  # noqa: E402
from iam.errors import ArgumentError, ShapeError, SiteError  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=FAMILIES)
def lm(request):
    return build(request.param)


@pytest.fixture(scope="module")
def llama():
    return build("llama")


@pytest.fixture
def ids():
    return torch.randint(3, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(1))


def linearized(prompt, h, site, to="logits", tokens=None, positions=None):
    """As programs do it: rows in, rows out."""
    rows = h.detach().reshape(-1, h.shape[-1]).numpy()
    return prompt.segment(prompt.seen(rows), str(site), str(to), tokens, positions, tape=True)


def pulled(tape, dy):
    return tape.pullback(dy.reshape(-1, dy.shape[-1]).numpy())


MASKS = {"full": [[1] * 7] * 2, "right": [[1] * 7, [1] * 4 + [0] * 3], "left": [[0] * 2 + [1] * 5, [1] * 7]}


@pytest.mark.parametrize("mask", MASKS)
def test_every_pair_of_sites(lm, ids, mask):
    mask = torch.tensor(MASKS[mask])
    prompt = lm.on(ids, attention_mask=mask)
    whole = lm.capture(ids, lm.sites(), attention_mask=mask)
    with torch.no_grad():
        logits = lm.model(**lm._arguments(ids, mask)).logits.masked_fill((mask == 0)[..., None], 0)
    for a, b in itertools.combinations(lm.sites(), 2):
        close(prompt.run(whole[a], from_=a, to=b), whole[b])
    for a in lm.sites():
        assert torch.equal(prompt.run(to=a), prompt.run(to=a))
        close(prompt.run(to=a), whole[a])
        close(prompt.run(whole[a], from_=a, to="logits"), logits)
    close(prompt.run(to="logits"), logits)


def test_a_replaced_site_is_what_attach_makes_of_it(lm, ids):
    """The blocks' other inputs are those of the prompt: the same as replacing the site in a whole forward pass."""
    prompt = lm.on(ids)
    last = Site(LAYERS - 1, "resid_post")
    for site in lm.sites():
        if site == last:
            continue
        h = torch.randn(2, 7, lm.width(site), generator=torch.Generator().manual_seed(3))
        with lm.attach(site, lambda x, h=h: h.reshape(x.shape)):
            expected = lm.capture(ids, last)[last]
        close(prompt.run(h, from_=site, to=last), expected)


@pytest.mark.parametrize("kind", ["resid_pre", "mlp_out", "resid_post", "hook_z"])
def test_gradient_is_that_of_the_whole_model(lm, ids, kind):
    """A leaf is put in at the site while the whole model runs."""
    start = Site(1, kind)
    prompt = lm.on(ids)
    h = prompt.run(to=start)
    ours = h.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(prompt.run(ours, from_=start, to="logits").pow(2).sum(), ours)
    leaf = h.clone().requires_grad_()
    with lm.attach(start, lambda rows: leaf.reshape(rows.shape)):
        logits = lm.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    (expected,) = torch.autograd.grad(logits.pow(2).sum(), leaf)
    close(gradient, expected, 1e-4)
    y, tape = linearized(prompt, h, start)
    close(pulled(tape, 2 * y), expected.reshape(-1, expected.shape[-1]), 1e-4)


def test_variants_tokens_positions(lm, ids):
    mask = torch.tensor(MASKS["right"])
    prompt = lm.on(ids, attention_mask=mask)
    h = prompt.run(to="resid_post.0")
    several = torch.cat([h, 0.5 * h, 2 * h])
    y = prompt.run(several, from_="resid_post.0", to="logits")
    for i, one in enumerate((h, 0.5 * h, 2 * h)):
        close(y[2 * i : 2 * i + 2], prompt.run(one, from_="resid_post.0", to="logits"))
    few = prompt.run(several, from_="resid_post.0", to="logits", tokens=[5, 3], positions=[-1, 0])
    assert few.shape == (6, 2, 2)
    close(few[0, 0], y[0, 6, [5, 3]])
    close(few[1, 0], y[1, 3, [5, 3]])
    close(few[5, 1], y[5, 0, [5, 3]])


@pytest.mark.parametrize("mask", MASKS)
def test_laws_of_the_attribution_cache(lm, ids, mask):
    """A run that continues from a site between blocks is the run from the tokens, to the bit; more tokens change nothing."""
    mask = torch.tensor(MASKS[mask])
    prompt = lm.on(ids, attention_mask=mask)
    between = [site for site in lm.sites() if site.kind in ("resid_pre", "resid_post")]
    for a in between:
        h = prompt.run(to=a)
        for b in (*(site for site in lm.sites() if a < site), "logits"):
            assert torch.equal(prompt.run(h, from_=a, to=b), prompt.run(to=b)), (a, b)
    h = prompt.run(to="resid_post.0")
    site = Site(0, "resid_post")
    y, tape = linearized(prompt, h, site, tokens=[5, 9, 3], positions=[-1])
    few = prompt.run(h, from_=site, to="logits", tokens=[9, 3], positions=[-1])
    close(y[:, 1:], few.reshape(2, 2))
    dy = torch.randn(2, 2, generator=torch.Generator().manual_seed(2))
    alone = pulled(linearized(prompt, h, site, tokens=[9, 3], positions=[-1])[1], dy)
    close(pulled(tape, torch.cat([torch.zeros(2, 1), dy], -1)), alone)
    inside = "mlp_in.2"
    assert torch.equal(linearized(prompt, h, site, inside)[0].reshape(2, 7, -1), prompt.run(h, from_=site, to=inside))


def test_blocks_outside_of_the_segment_do_not_run(llama, ids):
    prompt = llama.on(ids)
    h = prompt.run(to="resid_post.0")
    prompt.run(h, from_="mlp_out.1", to="resid_mid.2")  # the stream beside the MLP is known now
    ran = []
    handles = [b.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, b in enumerate(llama._blocks)]
    try:
        prompt.run(h, from_="resid_post.0", to="resid_post.1")
        prompt.run(h, from_="mlp_out.1", to="resid_post.1")
        assert ran == [1, 1]
    finally:
        for handle in handles:
            handle.remove()


def test_new_weights_count(ids):
    lm = build("llama")
    prompt = lm.on(ids)
    prompt.run(to="logits")
    with torch.no_grad():
        lm.model.get_input_embeddings().weight.mul_(2)
    with torch.no_grad():
        close(prompt.run(to="logits"), lm.model(ids).logits)


@pytest.mark.parametrize("side", ["right", "left"])
def test_positions_do_not_count_padding(llama, ids, side):
    prompt = llama.on(ids, attention_mask=torch.tensor(MASKS[side]))
    whole = prompt.run(to="resid_post.1")
    last = prompt.run(to="resid_post.1", positions=[-1, 0])
    ends = {"right": ((6, 0), (3, 0)), "left": ((6, 2), (6, 0))}[side]
    for text in (0, 1):
        torch.testing.assert_close(last[text], whole[text, list(ends[text])])


def test_a_training_model_is_left_training(llama, ids):
    llama.model.train()
    try:
        llama.on(ids).run(to="resid_post.0")
        assert llama.model.training
    finally:
        llama.model.eval()


def test_half_precision_models_give_float32(ids):
    torch.manual_seed(0)
    config = configs()["llama"]
    lm = iam.LanguageModel(transformers.AutoModelForCausalLM.from_config(config).bfloat16().eval())
    prompt = lm.on(ids)
    h = prompt.run(to="resid_post.0")
    assert h.dtype == torch.float32
    assert prompt.run(h, from_="resid_post.0", to="logits").dtype == torch.float32


class TestErrors:
    @pytest.fixture
    def prompt(self, llama, ids):
        return llama.on(ids)

    def test_direction(self, prompt):
        h = prompt.run(to="resid_post.1")
        with pytest.raises(SiteError, match=r"expected to=resid_post\.0 to come after from_=resid_post\.1"):
            prompt.run(h, from_="resid_post.1", to="resid_post.0")

    def test_site(self, prompt):
        with pytest.raises(SiteError, match=r"layer 9 is too large"):
            prompt.run(to="resid_post.9")

    def test_input_without_its_site(self, prompt):
        with pytest.raises(ArgumentError, match="h without from_"):
            prompt.run(torch.zeros(2, 7, WIDTH), to="resid_post.2")
        with pytest.raises(ArgumentError, match=r"from_=resid_pre\.1 without h"):
            prompt.run(from_="resid_pre.1", to="resid_post.2")

    def test_shape(self, prompt):
        with pytest.raises(ShapeError, match=r"expected h of shape \[n·2, 7, 32\] at resid_pre\.1, got \(2, 5, 32\)"):
            prompt.run(torch.zeros(2, 5, WIDTH), from_="resid_pre.1", to="resid_post.2")
        with pytest.raises(ShapeError, match=r"got \(3, 7, 32\)"):
            prompt.run(torch.zeros(3, 7, WIDTH), from_="resid_pre.1", to="resid_post.2")

    def test_tokens_and_positions(self, prompt):
        with pytest.raises(ArgumentError, match=r"expected tokens in 0\.\.66, got \[67\]"):
            prompt.run(to="logits", tokens=[3, 67])
        with pytest.raises(ArgumentError, match=r'expected to="logits", got resid_post\.0'):
            prompt.run(to="resid_post.0", tokens=[3])
        with pytest.raises(
            ArgumentError, match=r"expected positions in -7\.\.6 \(tokens of the shortest text\), got \[7\]"
        ):
            prompt.run(to="logits", positions=[7])

    def test_attached_programs(self, llama, prompt):
        with llama.attach("resid_post.1", lambda x: x), pytest.raises(ArgumentError, match="attached"):
            prompt.run(to="resid_post.2")
