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
