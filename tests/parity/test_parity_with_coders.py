"""Coders in a model: what SAELens's ``HookedSAETransformer`` computes and caches, and what IAM does."""

import pytest

pytest.importorskip("sae_lens", reason="runs in the environment of SAELens")

import torch
from hooked import VOCABULARY, coders, models

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def both():
    return models()


@pytest.fixture
def ids():
    return torch.randint(3, VOCABULARY, (3, 11), generator=torch.Generator().manual_seed(1))


def test_the_two_models_are_one(both, ids):
    hooked, lm = both
    torch.testing.assert_close(lm.logits(ids), hooked(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard"])
@pytest.mark.parametrize("error_term", [False, True])
def test_logits_and_cache(both, ids, tmp_path, architecture, error_term):
    hooked, lm = both
    theirs, ours = coders(tmp_path, architecture)
    with torch.no_grad():
        expected, cache = hooked.run_with_cache_with_saes(ids, saes=[theirs], use_error_term=error_term)
    logits, found = lm.run_with_cache_with_saes(ids, saes=[ours], use_error_term=error_term)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    at = "blocks.1.hook_resid_pre"
    names = {name for name in cache if name.startswith(at)}
    assert {name for name in found if name.startswith(at)} == names
    for name in names | {"blocks.0.hook_resid_post", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"}:
        torch.testing.assert_close(
            found.dense(name), cache[name], rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
    loss = lm.run_with_saes(ids, saes=[ours], use_error_term=error_term, return_type="loss")
    with torch.no_grad():
        expected = hooked.run_with_saes(ids, saes=[theirs], use_error_term=error_term, return_type="loss")
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def test_special_tokens(both, ids, tmp_path):
    hooked, lm = both
    theirs, ours = coders(tmp_path)
    skipped = [int(ids[0, 2]), int(ids[1, 5])]
    with torch.no_grad():
        expected = hooked.run_with_saes(ids, saes=[theirs], exclude_special_tokens=skipped)
    torch.testing.assert_close(
        lm.run_with_saes(ids, saes=[ours], exclude_special_tokens=skipped), expected, rtol=1e-4, atol=1e-4
    )


def test_skip_of_a_transcoder_survives_in_the_model(both, ids):
    """SAELens 6.54.12 calls encode and decode inside a model, which leaves the skip out; called alone, it has it. IAM has it in both."""
    import numpy as np
    from hooked import WIDTH
    from sae_lens import SkipTranscoder
    from sae_lens.saes.transcoder import SkipTranscoderConfig

    import iam

    hooked, lm = both
    rng = np.random.default_rng(3)
    names = {"hook_name": "blocks.1.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out"}
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32) / 5  # noqa: E731
    weights = {
        "W_enc": draw(WIDTH, 24),
        "b_enc": draw(24),
        "W_dec": draw(24, WIDTH),
        "b_dec": draw(WIDTH),
        "W_skip": draw(WIDTH, WIDTH),
    }
    ours = iam.Transcoder(iam.CoderConfig(architecture="standard", d_in=WIDTH, d_sae=24, metadata=names), **weights)
    theirs = SkipTranscoder(SkipTranscoderConfig(d_in=WIDTH, d_out=WIDTH, d_sae=24, apply_b_dec_to_input=False))
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    for name, value in names.items():
        setattr(theirs.cfg.metadata, name, value)
    x = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
        lost, cache = hooked.run_with_cache_with_saes(ids, saes=[theirs])
    logits, found = lm.run_with_cache_with_saes(ids, saes=[ours])
    at = "blocks.1.hook_mlp_out.hook_sae_"
    torch.testing.assert_close(found[at + "input"], cache[at + "input"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[at + "recons"], cache[at + "recons"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[at + "output"], ours(found[at + "input"]), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits, lost, atol=1e-2), "SAELens keeps the skip now: compare the logits instead"
