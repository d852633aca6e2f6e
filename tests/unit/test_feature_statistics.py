"""Feature statistics in one pass against the same numbers from dense arrays of the whole corpus."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import iam  # noqa: E402
from iam.cli._contexts import load_contexts  # noqa: E402
from iam.errors import ArgumentError  # noqa: E402
from iam.evaluation import feature_statistics  # noqa: E402
from iam.evaluation._features import BINS, Best, Histograms, final_gain, logit_effects  # noqa: E402

WIDTH, D_SAE, VOCABULARY = 16, 40, 53


class Words:
    """The smallest tokenizer: token 7 is the text " w7"."""

    all_special_ids = (0, 1, 2)
    pad_token_id = 0

    def decode(self, ids, **_):
        return "".join(f" w{int(i)}" for i in ids)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma2"])
def lm(request):
    common = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    shape = {
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 24,
        "max_position_embeddings": 64,
    }
    config = {
        "llama": lambda: transformers.LlamaConfig(**common, **shape),
        "gemma2": lambda: transformers.Gemma2Config(**common, **shape, query_pre_attn_scalar=8, sliding_window=16),
        "gpt2": lambda: transformers.GPT2Config(**common, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=64),
    }[request.param]()
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0) if parameter.dim() > 1 else parameter.add_(0.3 * torch.randn_like(parameter))
    return iam.LanguageModel(model, Words())


def coder(architecture="jumprelu"):
    rng = np.random.default_rng(0)
    return iam.SAE(
        iam.SAEConfig(
            architecture=architecture,
            d_in=WIDTH,
            d_sae=D_SAE,
            k=4 if architecture == "topk" else None,
            metadata={"hook_name": "blocks.0.hook_resid_post"},
        ),
        W_enc=rng.standard_normal((WIDTH, D_SAE)) / 4,
        b_enc=rng.standard_normal(D_SAE) - 1.5,
        W_dec=rng.standard_normal((D_SAE, WIDTH)) / 4,
        b_dec=np.zeros(WIDTH),
        threshold=np.full(D_SAE, 0.1) if architecture == "jumprelu" else None,
    )


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, VOCABULARY, (13, 17), generator=torch.Generator().manual_seed(0))


def dense(lm, sae, ids):
    x = lm.capture(ids, "resid_post.0")[iam.Site(0, "resid_post")]
    return sae.encode(x).to_dense().numpy()


@pytest.mark.parametrize("architecture", ["topk", "jumprelu"])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_counts_maxima_and_strongest_contexts(lm, ids, architecture, batch_size):
    sae = coder(architecture)
    found = feature_statistics(
        sae, model=lm, tokens=ids, top=5, window=(3, 2), batch_size=batch_size, logits=0, from_position=1
    )
    f = dense(lm, sae, ids)
    f[:, 0] = 0
    assert found.positions == 13 * 16 and found.logits is None
    np.testing.assert_array_equal(found.counts, (f != 0).sum((0, 1)))
    np.testing.assert_allclose(found.max_activation, f.max((0, 1)), rtol=1e-5)
    for j in range(D_SAE):
        best = np.sort(f[:, :, j].max(1))[::-1]
        expected = best[best > 0][:5]
        examples = found.top(j)
        np.testing.assert_allclose([e.activation for e in examples], expected, rtol=1e-5)
        assert len({e.prompt for e in examples}) == len(examples)
        for e in examples:
            span = slice(max(0, e.position - 3), e.position + 3)
            np.testing.assert_array_equal(e.ids, ids[e.prompt, span])
            np.testing.assert_allclose(e.values, f[e.prompt, span, j], rtol=1e-5)
            assert e.position - e.at == span.start


def test_the_sample_is_uniform_and_in_quantiles(lm, ids):
    sae = coder()
    f = dense(lm, sae, ids)
    everything = feature_statistics(sae, model=lm, tokens=ids, sample=13, batch_size=5, logits=0)
    again = feature_statistics(sae, model=lm, tokens=ids, sample=13, batch_size=5, logits=0)
    drawn = np.zeros(13)
    for j in range(D_SAE):
        groups = everything.quantiles(j)
        flat = [e.activation for group in groups for e in group]
        best = f[:, :, j].max(1)
        np.testing.assert_allclose(flat, np.sort(best[best > 0]), rtol=1e-5)
        assert len(groups) == min(5, len(flat))
        assert [e.prompt for g in again.quantiles(j) for e in g] == [e.prompt for g in groups for e in g]
    often = int((f != 0).any(1).sum(0).argmax())
    for seed in range(30):
        small = feature_statistics(sae, model=lm, tokens=ids, sample=3, batch_size=13, logits=0, seed=seed)
        for group in small.quantiles(often):
            for e in group:
                drawn[e.prompt] += 1
    can = (f[:, :, often] != 0).any(1)
    assert not drawn[~can].any()
    expected = 30 * 3 / can.sum()  # a count beyond 4.5 standard deviations of a binomial would be a biased sample
    assert np.abs(drawn[can] - expected).max() < 4.5 * np.sqrt(expected)


def test_padding_is_no_context(lm):
    sae = coder()
    long, short = list(range(3, 15)), list(range(20, 26))
    padded = torch.tensor([long, short + [0] * 6])
    mask = (torch.arange(12)[None] < torch.tensor([[12], [6]])).long()

    class Padded:
        """The model, giving two prompts of different lengths."""

        def __getattr__(self, name):
            return getattr(lm, name)

        def _inputs(self, *_args):
            return padded, mask

    found = feature_statistics(sae, model=Padded(), tokens=[padded], logits=0)
    alone = feature_statistics(sae, model=lm, tokens=iter([[long], [short]]), logits=0)
    assert found.positions == alone.positions == 18
    np.testing.assert_array_equal(found.counts, alone.counts)
    for j in range(D_SAE):
        for a, b in zip(found.top(j), alone.top(j), strict=True):
            assert a.prompt == b.prompt and a.position == b.position and a.ids.tolist() == b.ids.tolist()


def test_histograms_grow_without_losing_a_count(rng):
    histograms = Histograms(3)
    seen = {0: [], 1: [], 2: []}
    for scale in (0.01, 5.0, 0.3, 700.0, 1e-6):
        feature = rng.integers(0, 2, 200)
        value = (rng.random(200) * scale * (1 + feature)).astype(np.float32)
        histograms.add(feature, value)
        for j in (0, 1):
            seen[j] += value[feature == j].tolist()
    for j in (0, 1):
        edges, counts = histograms.of(j)
        np.testing.assert_array_equal(counts, np.histogram(seen[j], edges)[0])
        assert counts.sum() == len(seen[j]) and BINS // 2 < len(counts) <= BINS
    assert histograms.of(2)[1].size == 0


def test_best_keeps_the_best(rng):
    best = Best(4, 3, 1)
    offered = {j: [] for j in range(4)}
    for prompt in range(30):
        feature = np.unique(rng.integers(0, 4, 3))
        key = rng.integers(0, 6, len(feature)).astype(float)  # many ties: the earlier prompt stays
        best.add(
            feature, key, np.full(len(feature), prompt), np.zeros(len(feature), int), lambda at: np.zeros((len(at), 1))
        )
        for j, k in zip(feature, key, strict=True):
            offered[j].append((-k, prompt))
    for j in range(4):
        assert list(zip(-best.key[j], best.prompt[j], strict=True)) == sorted(offered[j])[:3]


def test_logit_effects(lm):
    """Adding a little of a decoder row before the final norm moves the logits as the effects say, up to the norm's scale."""
    sae = coder()
    effects = logit_effects(sae.W_dec, lm, n=6)
    unembed = lm.model.get_output_embeddings().weight.detach().double().numpy()
    gain = final_gain(lm).double().numpy()
    exact = sae.W_dec.astype(np.float64) * gain @ unembed.T
    exact -= exact.mean(1, keepdims=True)
    order = np.argsort(-exact, axis=1)
    np.testing.assert_array_equal(effects.top_ids, order[:, :6])
    np.testing.assert_array_equal(effects.bottom_ids, order[:, ::-1][:, :6])
    np.testing.assert_allclose(effects.top_values, np.take_along_axis(exact, order[:, :6], 1), rtol=1e-4, atol=1e-5)
    assert (effects.counts.sum(1) == VOCABULARY).all()
    for j in (0, 7):
        reached = np.histogram(exact[j], effects.edges[j] * (1 + 1e-9))[0]
        assert np.abs(reached.cumsum() - effects.counts[j].cumsum()).max() <= 2  # rounding at edges
    norm = next(m for n, m in lm._body.named_modules() if n in ("norm", "ln_f"))
    x = torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
    row = torch.from_numpy(sae.W_dec[3])
    _, change = torch.autograd.functional.jvp(lambda x: norm(x[None, None])[0, 0], x, row)
    # the derivative of a norm: gain times (row without its parts along 1 and x) over the scale
    basis = [x - x.mean(), torch.ones(WIDTH)] if isinstance(norm, torch.nn.LayerNorm) else [x]
    left = row.clone()
    for direction in basis:
        left -= (left @ direction) / (direction @ direction) * direction
    left *= torch.from_numpy(gain).float()
    assert float(torch.nn.functional.cosine_similarity(change, left, dim=0)) == pytest.approx(1, abs=1e-5)


def test_stores(lm, ids, tmp_path):
    sae = coder()
    found = feature_statistics(sae, model=lm, tokens=ids, top=4, sample=10, source="noise")
    path = found.save_contexts(tmp_path / "store")
    contexts = load_contexts(path.parent, D_SAE)
    assert contexts.source == "noise" and len(contexts.density) == D_SAE
    j = int(found.counts.argmax())
    info = contexts.info(j)
    top = found.top(j)
    assert len(info.examples) == 3 and info.examples[0].token == f" w{top[0].ids[top[0].at]}"
    assert info.examples[0].activation == pytest.approx(top[0].activation, abs=0.006)
    assert info.max_activation == pytest.approx(float(found.max_activation[j]), abs=0.006)

    paths = found.save_neuronpedia(tmp_path / "np", sae_set="test-set", batch=16, vectors=True)
    assert [p.name for p in paths] == ["batch-0.json", "batch-1.json", "batch-2.json"]
    document = json.loads(paths[j // 16].read_text())
    assert document["model_id"] == found.model_name != "" and "/" not in found.model_name
    assert document["layer"] == 0 and document["sae_set"] == "test-set"
    feature = next(f for f in document["features"] if f["feature_index"] == j)
    assert len(feature["freq_hist_data_bar_values"]) == len(feature["freq_hist_data_bar_heights"])
    assert sum(feature["freq_hist_data_bar_heights"]) == found.counts[j]
    assert len(feature["pos_str"]) == len(feature["pos_values"]) == 10 and feature["pos_str"][0].startswith(" w")
    assert feature["frac_nonzero"] == pytest.approx(found.density[j])
    first = feature["activations"][0]
    assert first["bin_min"] == first["bin_contains"] == -1
    assert len(first["tokens"]) == len(first["values"])
    assert (
        max(first["values"])
        == first["values"][first["qualifying_token_index"]]
        == pytest.approx(top[0].activation, abs=1e-3)
    )
    shares = {(a["bin_min"], a["bin_max"]): a["bin_contains"] for a in feature["activations"] if a["bin_contains"] >= 0}
    assert len(shares) == 5 and sum(shares.values()) == pytest.approx(1, abs=0.01)
    every = [f for p in paths for f in json.loads(p.read_text())["features"]]
    assert len(every) == int((found.counts > 0).sum())
    np.testing.assert_array_equal(feature["vector"], sae.W_dec[j].astype(float))
    assert "never active" in repr(found)


def test_without_a_tokenizer_there_is_no_text(lm, ids, tmp_path):
    bare = iam.LanguageModel(lm.model)
    found = feature_statistics(coder(), model=bare, tokens=ids, logits=0)
    for save in (lambda: found.save_contexts(tmp_path), lambda: found.save_neuronpedia(tmp_path, sae_set="s")):
        with pytest.raises(ArgumentError, match="no tokenizer"):
            save()
    with pytest.raises(ArgumentError, match="top: expected an integer in 1"):
        feature_statistics(coder(), model=bare, tokens=ids, top=0)
    with pytest.raises(ArgumentError, match="at least one position"):
        feature_statistics(coder(), model=bare, tokens=ids, from_position=40)
