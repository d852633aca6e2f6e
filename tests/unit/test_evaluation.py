"""Evaluation against the formulas written out densely, and against a small random model."""

import contextlib
import json
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import iam  # noqa: E402
from iam.errors import ArgumentError, NonFiniteError, ShapeError, SiteError  # noqa: E402
from iam.evaluation import DensityHistogram, Evaluation, evaluate, weight_metrics  # noqa: E402

WIDTH, D_SAE, VOCABULARY = 16, 40, 53


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def lm():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=24,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0) if parameter.dim() > 1 else None
    return iam.LanguageModel(model)


def coder(architecture="topk", hook="blocks.0.hook_resid_post", seed=0):
    rng = np.random.default_rng(seed)
    return iam.SAE(
        iam.SAEConfig(
            architecture=architecture,
            d_in=WIDTH,
            d_sae=D_SAE,
            k=4 if architecture == "topk" else None,
            metadata={"hook_name": hook},
        ),
        W_enc=rng.standard_normal((WIDTH, D_SAE)) / 4,
        b_enc=rng.standard_normal(D_SAE) - 1,
        W_dec=rng.standard_normal((D_SAE, WIDTH)) / 4,
        b_dec=rng.standard_normal(WIDTH) / 4,
        threshold=np.full(D_SAE, 0.1) if architecture == "jumprelu" else None,
    )


def oracle(x, out, f):
    """Every metric over one batch, dense, float64."""
    x, out, f = (np.asarray(a, np.float64) for a in (x, out, f))
    error = ((x - out) ** 2).sum(1)
    around = ((x - x.mean(0)) ** 2).sum(1)
    norm_in, norm_out, dot = np.linalg.norm(x, axis=1), np.linalg.norm(out, axis=1), (x * out).sum(1)
    return {
        "explained_variance": 1 - error.mean() / around.mean(),
        "explained_variance_legacy": (1 - error / around).mean(),
        "fvu": error.mean() / around.mean(),
        "mse": error.mean(),
        "cossim": (dot / norm_in / norm_out).mean(),
        "l2_norm_in": norm_in.mean(),
        "l2_norm_out": norm_out.mean(),
        "l2_ratio": (norm_out / norm_in).mean(),
        "relative_reconstruction_bias": (norm_out**2).mean() / dot.mean(),
        "l0": (f != 0).sum(1).mean(),
        "l1": np.abs(f).sum(1).mean(),
        "dead_features": int((~(f != 0).any(0)).sum()),
        "dense_features": int(((f != 0).mean(0) > 0.1).sum()),
    }


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard"])
@pytest.mark.parametrize("container", ["numpy", "torch", "three dimensions"])
def test_metrics_are_their_formulas(rng, architecture, container):
    sae = coder(architecture)
    x = (rng.standard_normal((90, WIDTH)) + 3).astype(np.float32)
    expected = oracle(x, sae(x), sae.encode(x).to_dense())
    given = {"numpy": x, "torch": torch.from_numpy(x), "three dimensions": x.reshape(9, 10, WIDTH)}[container]
    found = evaluate(sae, activations=given)
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-6), name
    assert found.total_tokens_eval_sparsity_variance == 90
    np.testing.assert_array_equal(found.feature_density, (sae.encode(x).to_dense() != 0).mean(0))
    assert found.ce_loss_score is None and "model_performance_preservation" not in found.metrics
    assert found.consistent_activation_heuristic is None


def test_batches_only_change_what_is_defined_by_the_batch(rng):
    sae = coder()
    x = rng.standard_normal((100, WIDTH)).astype(np.float32) * 2 + 50  # a mean far from zero
    x[:50] += 5
    whole = evaluate(sae, activations=x)
    parts = evaluate(sae, activations=(x[i : i + 7] for i in range(0, 100, 7)))
    assert evaluate(sae, activations=x, batch_size=7).mse == pytest.approx(parts.mse, rel=1e-12)
    each = [oracle(p, sae(p), sae.encode(p).to_dense()) for p in (x[i : i + 7] for i in range(0, 100, 7))]
    for name in ("explained_variance", "mse", "cossim", "l0", "l1", "l2_ratio"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-9), name
    assert parts.dead_features == whole.dead_features
    bias = np.mean([e["relative_reconstruction_bias"] for e in each])
    assert parts.relative_reconstruction_bias == pytest.approx(bias, rel=1e-9)
    sizes = [7] * 14 + [2]
    legacy = np.average([e["explained_variance_legacy"] for e in each], weights=sizes)
    assert parts.explained_variance_legacy == pytest.approx(legacy, rel=1e-9) != whole.explained_variance_legacy
    assert evaluate(sae, activations=x, batch_size=30, max_batches=2).total_tokens_eval_sparsity_variance == 60


def test_variance_survives_a_large_mean(rng):
    """E‖x‖² − ‖E x‖² in float32 has no correct digit here."""
    x = (rng.standard_normal((500, WIDTH)) * 0.1 + 3000).astype(np.float32)
    sae = coder()
    found = evaluate(sae, activations=x, batch_size=50)
    exact = oracle(x, sae(x), sae.encode(x).to_dense())
    assert found.explained_variance == pytest.approx(exact["explained_variance"], rel=1e-9)


def test_a_perfect_and_a_constant_coder(rng):
    eye = np.eye(WIDTH, dtype=np.float32)
    cfg = iam.SAEConfig(architecture="standard", d_in=WIDTH, d_sae=2 * WIDTH)
    both = np.concatenate([eye, -eye], axis=1)
    sae = iam.SAE(cfg, W_enc=both, b_enc=np.zeros(2 * WIDTH), W_dec=both.T.copy(), b_dec=np.zeros(WIDTH))
    x = rng.standard_normal((30, WIDTH)).astype(np.float32)
    found = evaluate(sae, activations=x)
    assert found.explained_variance == 1 and found.mse == 0 and found.fvu == 0
    assert found.cossim == pytest.approx(1) and found.l2_ratio == pytest.approx(1) and found.l0 == WIDTH
    still = evaluate(sae, activations=np.ones((5, WIDTH), np.float32))
    assert math.isnan(still.explained_variance) and still.to_dict()["metrics"]["reconstruction_quality"]["fvu"] is None
    zero = evaluate(sae, activations=np.concatenate([x, np.zeros((1, WIDTH), np.float32)]))
    assert zero.cossim == pytest.approx(30 / 31)


def test_losses_with_a_model(lm):
    """Cross-entropy and KL written out with the model's own logits; zero ablation of every position."""
    sae = coder("jumprelu")
    ids = torch.randint(3, VOCABULARY, (5, 11), generator=torch.Generator().manual_seed(0))
    found = evaluate(sae, model=lm, tokens=ids, batch_size=2)
    clean = lm.logits(ids).double()
    with lm.attach("resid_post.0", sae):
        with_sae = lm.logits(ids).double()
    with lm.attach("resid_post.0", torch.zeros_like):
        ablated = lm.logits(ids).double()

    def ce(logits):
        return float(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))

    def kl(logits):
        p, q = clean.log_softmax(-1), logits.log_softmax(-1)
        return float((p.exp() * (p - q)).sum(-1).mean())

    for name, expected in [
        ("ce_loss_without_sae", ce(clean)),
        ("ce_loss_with_sae", ce(with_sae)),
        ("ce_loss_with_ablation", ce(ablated)),
        ("ce_loss_score", (ce(ablated) - ce(with_sae)) / (ce(ablated) - ce(clean))),
        ("kl_div_with_sae", kl(with_sae)),
        ("kl_div_with_ablation", kl(ablated)),
        ("kl_div_score", (kl(ablated) - kl(with_sae)) / kl(ablated)),
    ]:
        assert getattr(found, name) == pytest.approx(expected, rel=1e-4), name
    x = lm.capture(ids, "resid_post.0")[iam.Site(0, "resid_post")].reshape(-1, WIDTH).numpy()
    assert found.mse == pytest.approx(oracle(x, sae(x), sae.encode(x).to_dense())["mse"], rel=1e-6)
    f = sae.encode(x).to_dense().reshape(5, 11, D_SAE) != 0
    prompts = f.any(1).sum(0)
    expected = np.where(prompts > 0, f.sum((0, 1)) / np.maximum(prompts, 1), np.nan)
    np.testing.assert_allclose(found.consistent_activation_heuristic, expected)
    assert not lm._hooks._points
    assert evaluate(sae, model=lm, tokens=ids, losses=False).kl_div_score is None


def test_positions_and_tokens_that_do_not_count(lm):
    sae = coder()
    ids = torch.randint(3, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(2))
    ids[0, 4] = ids[2, 8] = 1
    found = evaluate(sae, model=lm, tokens=ids, from_position=2, exclude_special_tokens=[1])
    keep = torch.ones_like(ids, dtype=torch.bool)
    keep[:, :2] = False
    keep &= ids != 1
    x = lm.capture(ids, "resid_post.0")[iam.Site(0, "resid_post")][keep].numpy()
    expected = oracle(x, sae(x), sae.encode(x).to_dense())
    assert found.explained_variance == pytest.approx(expected["explained_variance"], rel=1e-6)
    assert found.total_tokens_eval_reconstruction == found.total_tokens_eval_sparsity_variance == 3 * 7 - 2
    with lm.with_coders(sae, from_position=2, exclude_special_tokens=[1]):
        logits = lm.logits(ids)
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    assert found.ce_loss_with_sae == pytest.approx(float(losses[keep[:, :-1]].mean()), rel=1e-5)


def test_ways_to_give_tokens_agree(lm):
    sae = coder()
    ids = torch.randint(3, VOCABULARY, (4, 8), generator=torch.Generator().manual_seed(3))
    ways = [ids, ids.numpy(), ids.tolist(), (ids[i : i + 2] for i in (0, 2))]
    found = [evaluate(sae, model=lm, tokens=way, batch_size=2).to_dict() for way in ways]
    assert all(f == found[0] for f in found)


def test_a_transcoder_is_measured_against_its_output_site(lm):
    rng = np.random.default_rng(5)
    cfg = iam.CoderConfig(
        architecture="standard",
        d_in=WIDTH,
        d_out=WIDTH,
        d_sae=D_SAE,
        apply_b_dec_to_input=False,
        metadata={"hook_name": "blocks.1.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out"},
    )
    weights = {
        "W_enc": rng.standard_normal((WIDTH, D_SAE)) / 4,
        "b_enc": np.zeros(D_SAE),
        "W_dec": rng.standard_normal((D_SAE, WIDTH)) / 4,
        "b_dec": np.zeros(WIDTH),
        "W_skip": rng.standard_normal((WIDTH, WIDTH)) / 4,
    }
    transcoder = iam.Transcoder(cfg, **weights)
    ids = torch.randint(3, VOCABULARY, (4, 8), generator=torch.Generator().manual_seed(3))
    seen = lm.capture(ids, ["mlp_in.1", "mlp_out.1"])
    x, y = (seen[iam.Site(1, kind)].reshape(-1, WIDTH).numpy() for kind in ("mlp_in", "mlp_out"))
    expected = oracle(y, transcoder(x), transcoder.encode(x).to_dense())
    found = evaluate(transcoder, model=lm, tokens=ids)
    direct = evaluate(transcoder, activations=x, targets=y)
    for name in ("explained_variance", "mse", "cossim", "l2_norm_in", "l0"):
        assert getattr(found, name) == pytest.approx(expected[name], rel=1e-5), name
        assert getattr(direct, name) == pytest.approx(expected[name], rel=1e-5), name
    with pytest.raises(ArgumentError, match="pass targets"):
        evaluate(transcoder, activations=x)
    with pytest.raises(ShapeError, match="leading dimensions"):
        evaluate(transcoder, activations=x, targets=y[:3])


def test_result_as_text_json_and_picture(rng, tmp_path):
    sae = coder()
    found = evaluate(sae, activations=rng.standard_normal((200, WIDTH)).astype(np.float32))
    text = repr(found)
    assert "explained_variance" in text and "SAE(topk" in text and "200" in text
    document = json.loads(found.to_json(tmp_path / "e.json"))
    assert document == json.loads((tmp_path / "e.json").read_text()) == found.to_dict()
    assert document["metrics"]["sparsity"]["l0"] == found.l0
    histogram = document["density_histogram"]
    assert (
        sum(histogram["counts"]) + histogram["never"] == D_SAE
        and len(histogram["log10_density_edges"]) == len(histogram["counts"]) + 1
    )
    path = found.save_picture(tmp_path / "density.svg")
    import xml.etree.ElementTree as tree

    svg = tree.parse(path).getroot()
    bars = [r for r in svg.iter("{http://www.w3.org/2000/svg}rect") if len(r)]
    assert len(bars) == len(histogram["counts"]) + 1
    words = [t.text for t in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert "features" in words and any("share of positions" in w for w in words) and "0.01" in words
    with pytest.raises(ArgumentError, match=r"ends in \.svg"):
        found.save_picture(tmp_path / "density.png")
    with pytest.raises(AttributeError):
        found.l0 = 3


def test_ticks_stay_few():
    from iam.evaluation._picture import _tick

    for highest in (1, 4, 7, 23, 99, 1000, 24_576, 131_072):
        step = _tick(highest)
        assert step >= 1 and highest / step <= 5 and int(str(step).rstrip("0") or 1) in (1, 2, 5, 25, 4, 8), (
            highest,
            step,
        )


def test_weight_metrics(rng):
    sae = coder("standard")
    found = weight_metrics(sae)
    np.testing.assert_allclose(found["encoder_norm"], np.linalg.norm(sae.W_enc, axis=0), rtol=1e-6)
    unit = [w / np.linalg.norm(w, axis=1, keepdims=True) for w in (sae.W_enc.T, sae.W_dec)]
    np.testing.assert_allclose(found["encoder_decoder_cosine_sim"], (unit[0] * unit[1]).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(found["encoder_bias"], sae.b_enc)


def test_histogram_counts_every_feature_once(rng):
    density = np.concatenate([np.zeros(3), 10.0 ** rng.uniform(-9, 0, 50), [1.0]])
    histogram = DensityHistogram.of(density)
    assert histogram.never == 3 and histogram.counts.sum() == 51
    assert histogram.counts[0] == (density[density > 0] < 10**-5.75).sum()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ArgumentError, "expected activations, or a model and tokens, got neither"),
        ({"activations": np.zeros((2, 5), np.float32)}, ShapeError, r"\[\.\.\., 16\] \(d_in\), got \(2, 5\)"),
        ({"activations": np.zeros((0, WIDTH), np.float32)}, ArgumentError, "at least one position"),
        ({"activations": np.full((2, WIDTH), np.nan, np.float32)}, NonFiniteError, "finite"),
        (
            {"activations": np.zeros((2, WIDTH)), "batch_size": 0},
            ArgumentError,
            "batch_size to be an integer >= 1, got 0",
        ),
        ({"activations": np.zeros((2, WIDTH)), "tokens": [1]}, ArgumentError, "tokens goes with a model"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        evaluate(coder(), **arguments)


def test_wrong_arguments_with_a_model(lm):
    with pytest.raises(SiteError, match=r"trained at resid_post\.0, not at resid_post\.1"):
        evaluate(coder(), model=lm, tokens=[3, 4], site="resid_post.1")
    with pytest.raises(ArgumentError, match="got both"):
        evaluate(coder(), model=lm, activations=np.zeros((2, WIDTH)))
    with pytest.raises(ArgumentError, match="a model needs tokens"):
        evaluate(coder(), model=lm)
    with pytest.raises(ArgumentError, match="text, token ids or batches"):
        evaluate(coder(), model=lm, tokens=3)


def test_no_dense_features(rng, monkeypatch):
    """The whole point: nothing of the size rows x dictionary."""
    monkeypatch.setattr(iam.SparseFeatures, "to_dense", lambda self: pytest.fail("densified"))
    assert isinstance(evaluate(coder(), activations=rng.standard_normal((9, WIDTH))), Evaluation)


def cross_layer():
    rng = np.random.default_rng(6)
    cfg = iam.CoderConfig(
        architecture="standard",
        d_in=WIDTH,
        d_sae=D_SAE,
        metadata={
            "hook_names": [f"blocks.{i}.mlp.hook_in" for i in (0, 1)],
            "hook_names_out": [f"blocks.{i}.hook_mlp_out" for i in (0, 1)],
        },
    )
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32) / 5  # noqa: E731
    return iam.CrossLayerTranscoder(
        cfg,
        W_enc=[draw(WIDTH, D_SAE), draw(WIDTH, D_SAE)],
        b_enc=[draw(D_SAE), draw(D_SAE)],
        W_dec=[draw(D_SAE, 2, WIDTH), draw(D_SAE, 1, WIDTH)],
        b_dec=[draw(WIDTH), draw(WIDTH)],
        W_skip=[draw(WIDTH, WIDTH), draw(WIDTH, WIDTH)],
    )


PLAIN = ("explained_variance", "mse", "cossim", "l2_ratio", "relative_reconstruction_bias", "l0", "l1", "dead_features")


def cross_entropy(logits, ids):
    return float(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))


def test_a_cross_layer_transcoder_as_a_whole_and_layer_by_layer(lm):
    clt = cross_layer()
    ids = torch.randint(3, VOCABULARY, (5, 8), generator=torch.Generator().manual_seed(3))
    sites = [iam.Site(i, kind) for kind in ("mlp_in", "mlp_out") for i in (0, 1)]
    seen = lm.capture(ids, sites)
    rows = [seen[s].reshape(-1, WIDTH).numpy() for s in sites]
    found = evaluate(clt, model=lm, tokens=ids, batch_size=5)
    direct = evaluate(clt, activations=rows[:2], targets=rows[2:])
    outputs, codes = clt(rows[:2]), [f.to_dense() for f in clt.encode(rows[:2])]
    cases = [(rows[2 + t], outputs[t], codes[t]) for t in (0, 1)]
    cases.append(tuple(np.concatenate(side, -1) for side in zip(*cases, strict=True)))
    for made in (found, direct):
        for case, part in zip(cases, [*made.parts, made], strict=True):
            expected = oracle(*case)
            for name in PLAIN:
                assert getattr(part, name) == pytest.approx(expected[name], rel=1e-5), name
    assert [part.site for part in found.parts] == ["mlp_out.0", "mlp_out.1"]
    assert [part.site for part in direct.parts] == ["0", "1"]
    np.testing.assert_array_equal(found.feature_density, np.concatenate([p.feature_density for p in found.parts]))
    with lm.with_coders(clt):
        assert found.ce_loss_with_sae == pytest.approx(cross_entropy(lm.logits(ids), ids), rel=1e-5)
    with lm.attach("mlp_out.0", torch.zeros_like), lm.attach("mlp_out.1", torch.zeros_like):
        assert found.ce_loss_with_ablation == pytest.approx(cross_entropy(lm.logits(ids), ids), rel=1e-5)
    assert all(part.ce_loss_with_sae is None for part in found.parts)  # they are in the model together


def crosscoder(**metadata):
    rng = np.random.default_rng(7)
    return iam.Crosscoder(
        iam.CoderConfig(architecture="topk", d_in=WIDTH, d_sae=D_SAE, k=5, metadata=metadata),
        W_enc=rng.standard_normal((2, WIDTH, D_SAE)) / 4,
        b_enc=rng.standard_normal(D_SAE) / 4,
        W_dec=rng.standard_normal((D_SAE, 2, WIDTH)) / 4,
        b_dec=rng.standard_normal((2, WIDTH)) / 4,
    )


def test_a_crosscoder_as_a_whole_and_site_by_site(lm):
    names = ["blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"]
    coder = crosscoder(hook_names=names)
    places = [iam.Site.parse(name) for name in names]
    ids = torch.randint(3, VOCABULARY, (5, 8), generator=torch.Generator().manual_seed(3))
    seen = lm.capture(ids, places)
    xs = [seen[s].reshape(-1, WIDTH).numpy() for s in places]
    found = evaluate(coder, model=lm, tokens=ids, batch_size=5)
    direct = evaluate(coder, activations=np.stack(xs))
    several = evaluate(coder, activations=([x[:25] for x in xs], [x[25:] for x in xs]).__iter__())
    outs, f = coder(xs), coder.encode(xs).to_dense()
    cases = [(xs[s], outs[s], f) for s in (0, 1)]
    cases.append((np.concatenate(xs, -1), np.concatenate(outs, -1), f))
    for made in (found, direct):
        for case, part in zip(cases, [*made.parts, made], strict=True):
            expected = oracle(*case)
            for name in PLAIN:
                assert getattr(part, name) == pytest.approx(expected[name], rel=1e-5), name
    assert several.explained_variance == pytest.approx(direct.explained_variance, rel=1e-6)
    shapes = [seen[s].shape for s in places]
    known = dict(
        zip(places, (torch.from_numpy(out).reshape(n) for out, n in zip(outs, shapes, strict=True)), strict=True)
    )
    for part, replaced in zip([*found.parts, found], [places[:1], places[1:], places], strict=True):
        with contextlib.ExitStack() as stack:
            for site in replaced:
                stack.enter_context(lm.attach(site, lambda rows, site=site: known[site].reshape(rows.shape)))
            assert part.ce_loss_with_sae == pytest.approx(cross_entropy(lm.logits(ids), ids), rel=1e-5)
        with contextlib.ExitStack() as stack:
            for site in replaced:
                stack.enter_context(lm.attach(site, torch.zeros_like))
            assert part.ce_loss_with_ablation == pytest.approx(cross_entropy(lm.logits(ids), ids), rel=1e-5)
    assert evaluate(crosscoder(), model=lm, tokens=ids, site=names, losses=False).mse == pytest.approx(found.mse)


def test_several_sites_as_text_json_and_with_positions_left_out(lm):
    coder = crosscoder(hook_names=["blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"])
    texts = [[5, 6, 7, 8, 9], [10, 11, 12]]
    padded = torch.tensor([texts[0], texts[1] + [0, 0]])
    mask = torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    found = evaluate(coder, model=lm, tokens=iter(texts), from_position=1, exclude_special_tokens=[7])
    kept = [(0, 1), (0, 3), (0, 4), (1, 1), (1, 2)]
    assert found.total_tokens_eval_sparsity_variance == len(kept)
    _, f = lm.run_with_crosscoder(
        padded, coder, attention_mask=mask, from_position=1, exclude_special_tokens=[7], return_type=None
    )
    assert found.l0 == pytest.approx(float((f.to_dense() != 0).sum()) / len(kept))
    document = json.loads(found.to_json())
    assert [part["site"] for part in document["parts"]] == ["resid_post.0", "mlp_out.1"]
    assert document["parts"][0]["metrics"]["reconstruction_quality"]["mse"] == found.parts[0].mse
    lines = str(found).splitlines()
    assert lines[-3].split()[:3] == ["site", "explained_variance", "mse"] and lines[-1].split()[0] == "mlp_out.1"
    assert lines[-1].split()[2] == f"{found.parts[1].mse:.4f}"


def test_what_does_not_fit_a_coder_of_several_sites(lm):
    clt, rows = cross_layer(), [np.zeros((3, WIDTH), np.float32)] * 2
    cases = [
        (clt, {"activations": rows}, ArgumentError, "pass targets"),
        (clt, {"activations": rows, "targets": rows[:1]}, ShapeError, "expected 2 targets, one for each site"),
        (
            clt,
            {"activations": rows, "targets": [r[:2] for r in rows]},
            ShapeError,
            r"same rows at every site, got \[3, 3, 2, 2\]",
        ),
        (clt, {"activations": [rows[0][:, :5], rows[1]], "targets": rows}, ShapeError, "d_in"),
        (clt, {"activations": iter([3]), "targets": iter([rows])}, ArgumentError, "activations as 2 arrays, got int"),
        (crosscoder(), {"activations": rows, "targets": rows}, ArgumentError, "no targets for a Crosscoder"),
        (crosscoder(), {"model": lm, "tokens": [[3, 4]]}, SiteError, "expected 2 different sites"),
        (clt, {"model": lm, "tokens": [[3, 4]], "site": "mlp_in.0"}, ArgumentError, "no site for a cross-layer"),
    ]
    for coder_, arguments, error, message in cases:
        with pytest.raises(error, match=message):
            evaluate(coder_, **arguments)


def test_import_needs_no_torch():
    import subprocess
    import sys

    code = "import sys, iam.evaluation; print(sorted({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
