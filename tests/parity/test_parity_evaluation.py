"""Metrics: SAELens's ``run_evals`` and ``iam.evaluation.evaluate`` on the same model, coder and tokens."""

import pytest

pytest.importorskip("sae_lens", reason="runs in the environment of SAELens")

import torch
from hooked import CONTEXT, VOCABULARY, coders, models

from iam.evaluation import evaluate, weight_metrics

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Store:
    """What ``run_evals`` asks of an ActivationsStore."""

    store_batch_size_prompts = 3
    context_size = CONTEXT

    def __init__(self, tokens):
        self.tokens = tokens
        self.reset_input_dataset()

    def reset_input_dataset(self):
        self.batches = iter(self.tokens.split(self.store_batch_size_prompts))

    def get_batch_tokens(self, _size):
        return next(self.batches)


@pytest.fixture(scope="module")
def both():
    return models()


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard"])
@pytest.mark.parametrize("hook", ["blocks.1.hook_resid_pre", "blocks.0.hook_mlp_out"])
@pytest.mark.parametrize("ignored", [False, [7, 12]])
def test_every_metric(both, tmp_path, architecture, hook, ignored):
    from sae_lens.evals import get_eval_everything_config, run_evals
    from sae_lens.training.activation_scaler import ActivationScaler

    hooked, lm = both
    theirs, ours = coders(tmp_path, architecture, hook)
    tokens = torch.randint(3, VOCABULARY, (6, CONTEXT), generator=torch.Generator().manual_seed(3))
    config = get_eval_everything_config(n_eval_reconstruction_batches=2, n_eval_sparsity_variance_batches=2)
    expected, features = run_evals(
        theirs, Store(tokens), hooked, ActivationScaler(), config, exclude_special_tokens=ignored
    )
    found = evaluate(ours, model=lm, tokens=tokens, batch_size=3, exclude_special_tokens=ignored)
    for group, values in expected.items():
        if group == "token_stats":
            continue  # SAELens counts tokens that it ignored
        for name, value in values.items():
            assert found.metrics[group][name] == pytest.approx(value, rel=1e-4, abs=1e-4), f"{group}.{name}"
    names = {name for group, values in expected.items() for name in values}
    assert {"kl_div_score", "ce_loss_score", "explained_variance", "l2_ratio", "l1"} <= names
    close = {"rtol": 1e-4, "atol": 1e-4, "equal_nan": True}
    for name in ("feature_density", "consistent_activation_heuristic"):
        torch.testing.assert_close(torch.tensor(getattr(found, name)), torch.tensor(features[name]).double(), **close)
    for name, value in weight_metrics(ours).items():
        torch.testing.assert_close(torch.tensor(value), torch.tensor(features[name]).double(), **close)
