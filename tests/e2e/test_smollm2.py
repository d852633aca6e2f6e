"""The shipped autoencoder on the real model, and programs inside its forward pass."""

import numpy as np
import pytest

import iam
from iam.cli._demo import coder_folder
from iam.reference import clt

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("smollm2_gguf")]

CONTEXT = 256  # tokens, as in training


@pytest.fixture(scope="module")
def model():
    return iam.LanguageModel("smollm2")


@pytest.fixture(scope="module")
def sae():
    return iam.SAE.load_from_disk(coder_folder())


@pytest.fixture(scope="module")
def contexts(model, repo_root):
    """Token ids ``[contexts, CONTEXT]`` of a novel that the coder was not trained on."""
    torch = pytest.importorskip("torch")
    text = (repo_root / "tests/fixtures/persuasion.txt").read_text()
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    count = len(ids) // CONTEXT
    assert count >= 6
    return torch.tensor(ids[: count * CONTEXT]).view(count, CONTEXT)


@pytest.fixture(scope="module")
def rows(model, sae, contexts):
    """Activations ``[rows, 576]`` without attention sinks: what the coder is for."""
    x = model.capture(contexts, [sae.site])[sae.site][:, 1:].reshape(-1, sae.cfg.d_in)
    norms = x.norm(dim=1)
    return x[norms < 10 * norms.median()]


def test_explains_a_text_that_it_was_not_trained_on(sae, rows):
    @iam.jit
    def reconstruct(x):
        f = sae.encode(x)
        return f, sae.decode(f)

    f, y = reconstruct(rows)
    unexplained = (rows - y).double().square().sum() / (rows - rows.mean(0)).double().square().sum()
    assert 1 - float(unexplained) >= 0.80
    assert 31 <= f.l0 <= 32


def test_agrees_with_the_oracle(sae, rows):
    x = rows[:200].numpy()
    pre = clt.encode(x.astype(np.float64), sae.W_enc, sae.b_enc, sae.b_dec)
    expected = clt.decode(clt.topk(pre, k=32), sae.W_dec, sae.b_dec)
    np.testing.assert_allclose(sae(x), expected, rtol=1e-4, atol=1e-3)


def test_reconstruction_keeps_most_of_what_the_model_knows(model, sae, contexts):
    """Next-token loss with the site replaced by its reconstruction: far closer to the untouched model than to a constant."""
    from torch.nn.functional import cross_entropy

    ids = contexts[:2]

    def loss(program):
        with model.attach(sae.site, program, from_position=1):
            logits = model.logits(ids)[:, :-1]
        return float(cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))

    mean = model.capture(ids, [sae.site])[sae.site][:, 1:].mean((0, 1))
    untouched, reconstructed, constant = loss(lambda x: x), loss(sae), loss(lambda x: mean.expand_as(x))
    assert untouched < reconstructed
    assert (constant - reconstructed) / (constant - untouched) > 0.8


def test_steering_is_the_same_with_and_without_a_cache(model, sae):
    """Greedy decoding with the KV cache writes what full forward passes predict, under the same compiled program."""
    torch = pytest.importorskip("torch")

    @iam.jit
    def steered(x, strength):
        f = sae.encode(x)
        return x + sae.decode(f.set(7, strength)) - sae.decode(f)

    prompt = "The family went out into the garden"
    plain = model.generate(prompt, max_new_tokens=12)
    with model.attach(sae.site, lambda x: steered(x, 60.0), from_position=1):
        written = model.generate(prompt, max_new_tokens=12, stop_at_eos=False)
        ids = torch.tensor([model.tokenizer(prompt, add_special_tokens=False)["input_ids"]])
        for _ in range(12):
            ids = torch.cat([ids, model.logits(ids)[:, -1:].argmax(-1)], dim=1)
    assert written != plain
    assert model.tokenizer.decode(ids[0].tolist(), skip_special_tokens=True) == prompt + written
    assert steered.stats()["compilations"] == 1


@pytest.mark.parametrize(
    ("name", "explained", "recovered"),
    [("smollm2-135m-mlp-15-transcoder", 0.74, 0.85), ("smollm2-135m-mlp-12-15-clt", 0.50, 0.75)],
)
def test_transcoders_in_the_package_predict_what_mlps_write(model, contexts, name, explained, recovered):
    """On text that they were not trained on, with the tolerance that a few hundred positions of one novel need."""
    coder = iam.formats.from_pretrained("iam", name)
    found = iam.evaluate(coder, model=model, tokens=contexts[:4].numpy(), from_position=1)
    assert found.explained_variance > explained
    assert found.ce_loss_score > recovered
