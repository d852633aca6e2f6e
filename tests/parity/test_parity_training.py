"""Losses of training against those of SAELens 6: same weights, same rows, same loss and gradients.

SAELens computes densely in torch and differentiates with autograd; IAM's gradients are written out on sparse codes.
"""

import pytest

torch = pytest.importorskip("torch")
sae_lens = pytest.importorskip("sae_lens")

from sae_lens.saes.sae import TrainStepInput  # noqa: E402

from iam.training._losses import Terms, loss_of  # noqa: E402

D_IN, D_SAE, ROWS, K = 24, 96, 64, 5
NAMES = {"encoder": "W_enc", "decoder": "W_dec"}

DEAD = torch.zeros(D_SAE, dtype=torch.bool)
DEAD[::7] = True

CASES = {
    "topk": ("topk", "TopK", {"k": K, "rescale_acts_by_decoder_norm": False}, {"k": K, "aux_coefficient": 1.0}),
    "topk-rescaled": (
        "topk",
        "TopK",
        {"k": K, "rescale_acts_by_decoder_norm": True},
        {"k": K, "aux_coefficient": 1.0, "rescale": True},
    ),
    "batchtopk": (
        "batchtopk",
        "BatchTopK",
        {"k": K, "rescale_acts_by_decoder_norm": False, "aux_loss_coefficient": 0.5},
        {"k": K, "aux_coefficient": 0.5},
    ),
    "matryoshka": (
        "matryoshka",
        "MatryoshkaBatchTopK",
        {"k": K, "matryoshka_widths": [16, 40, D_SAE], "rescale_acts_by_decoder_norm": False},
        {"k": K, "widths": (16, 40, D_SAE), "aux_coefficient": 1.0},
    ),
    "standard": ("standard", "Standard", {"l1_coefficient": 0.7}, {"coefficient": 0.7}),
    "gated": ("gated", "Gated", {"l1_coefficient": 0.7}, {"coefficient": 0.7}),
    "jumprelu-step": (
        "jumprelu",
        "JumpReLU",
        {"l0_coefficient": 0.7, "jumprelu_bandwidth": 0.4},
        {"coefficient": 0.7, "bandwidth": 0.4},
    ),
    "jumprelu-tanh": (
        "jumprelu",
        "JumpReLU",
        {"l0_coefficient": 0.7, "jumprelu_bandwidth": 0.4, "jumprelu_sparsity_loss_mode": "tanh"},
        {"coefficient": 0.7, "bandwidth": 0.4, "mode": "tanh"},
    ),
    "jumprelu-quadratic": (
        "jumprelu",
        "JumpReLU",
        {
            "l0_coefficient": 0.7,
            "jumprelu_bandwidth": 0.4,
            "jumprelu_sparsity_loss_mode": "quadratic",
            "target_l0": 6.0,
            "pre_act_loss_coefficient": 0.3,
        },
        {"coefficient": 0.7, "bandwidth": 0.4, "mode": "quadratic", "target_l0": 6.0, "pre_act_coefficient": 0.3},
    ),
}


def theirs(name, settings):
    cls = getattr(sae_lens, f"{name}TrainingSAE")
    config = getattr(sae_lens, f"{name}TrainingSAEConfig")
    sae = cls(config(d_in=D_IN, d_sae=D_SAE, dtype="float32", device="cpu", **settings))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in sae.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator) * (0.3 if parameter.dim() == 2 else 0.2)
            parameter.copy_(drawn.abs() if "threshold" in key else drawn)
    return sae


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients(case):
    ours, name, settings, terms = CASES[case]
    sae = theirs(name, settings)
    x = torch.randn(ROWS, D_IN, generator=torch.Generator().manual_seed(1))
    coefficients = {key: one.value for key, one in sae.get_coefficients().items()}
    step = TrainStepInput(
        sae_in=x, coefficients=coefficients, dead_neuron_mask=DEAD, n_training_steps=10, is_logging_step=False
    )
    output = sae.training_forward_pass(step)
    output.loss.backward()
    found_parameters = dict(sae.named_parameters())
    assert all(parameter.grad is not None for parameter in found_parameters.values())

    weights = {
        {"W_enc": "encoder", "W_dec": "decoder"}.get(key, key): value.detach().clone()
        for key, value in found_parameters.items()
    }
    weights["encoder"] = weights["encoder"].T.contiguous()
    apply = sae.cfg.apply_b_dec_to_input
    loss = loss_of(ours, weights, [x], [x], Terms(apply_b_dec_to_input=apply, dead=DEAD, **terms))
    # float32: sums of up to 10,000 terms in another order
    assert float(sum(loss.parts.values())) == pytest.approx(float(output.loss.detach()), rel=1e-5)
    for key, gradient in loss.gradients.items():
        expected = found_parameters[NAMES.get(key, key)].grad
        expected = expected.T if key == "encoder" else expected
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()), msg=key)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "standard"])
def test_loss_curve(architecture, tmp_path):
    """The trainer of SAELens and ours, from the same weights on the same batches: the same losses, step by step.

    All of a step takes part: loss, clipping, Adam, dead features and AuxK. The first steps agree to float32's rounding; later ones
    may choose another feature at a near tie, so the bound is 1 %, as for the explained variance of a whole run.
    """
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    from iam.training import TrainConfig
    from iam.training._steps import Optimiser
    from iam.training._trainer import Trainer

    name, settings = {
        "topk": ("TopK", {"k": K, "rescale_acts_by_decoder_norm": False}),
        "batchtopk": ("BatchTopK", {"k": K, "rescale_acts_by_decoder_norm": False}),
        "standard": ("Standard", {"l1_coefficient": 0.7}),
    }[architecture]
    steps, rows, window = 80, 128, 8
    generator = torch.Generator().manual_seed(5)
    directions = torch.randn(40, D_IN, generator=generator)
    batches = [torch.rand(rows, 40, generator=generator).pow(8) @ directions for _ in range(steps)]

    sae = theirs(name, settings)
    weights = {
        {"W_enc": "encoder", "W_dec": "decoder"}.get(key, key): value.detach().clone()
        for key, value in sae.named_parameters()
    }
    weights["encoder"] = weights["encoder"].T.contiguous()
    trainer = SAETrainer(
        cfg=SAETrainerConfig(
            n_checkpoints=0, checkpoint_path=None, save_final_checkpoint=False, total_training_samples=rows * 1000,
            device="cpu", autocast=False, lr=3e-3, lr_end=3e-3, lr_scheduler_name="constant", lr_warm_up_steps=0, adam_beta1=0.9,
            adam_beta2=0.999, lr_decay_steps=0, n_restart_cycles=1, train_batch_size_samples=rows, dead_feature_window=window,
            feature_sampling_window=2000, logger=LoggingConfig(log_to_wandb=False),
        ),
        sae=sae,
        data_provider=iter(batches),
    )  # fmt: skip
    expected = [float(trainer._train_step(sae=sae, sae_in=batch).loss.detach()) for batch in batches]

    coder = {"architecture": architecture, "d_sae": D_SAE, "normalize_activations": "none", "normalize_decoder": False}
    config = TrainConfig.from_dict(
        {
            "coder": coder | ({} if architecture == "standard" else {"k": K}),
            "schedule": {"steps": steps, "batch": rows},
            "optimiser": {"lr": 3e-3},
            "sparsity": {"dead_after": window, "coefficient": 0.7},
            "checkpoint": {"folder": str(tmp_path)},
        }
    )
    with torch.no_grad():
        ours = Trainer(config)
        ours.apply_b_dec = sae.cfg.apply_b_dec_to_input
        ours.weights = weights
        ours.optimiser = Optimiser(weights, config.optimiser)
        found = [ours.advance([batch]) for batch in batches]
    losses = [one["loss"] for one in found]
    assert losses[:5] == pytest.approx(expected[:5], rel=1e-4)
    assert losses == pytest.approx(expected, rel=1e-2)
    assert expected[-1] < 0.8 * expected[0]
    if architecture != "standard":
        assert max(one["dead"] for one in found) > 0, "no feature died: AuxK was not compared"
