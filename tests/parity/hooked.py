"""One tiny model twice: as SAELens's ``HookedSAETransformer`` and as an ``iam.LanguageModel``; one coder twice likewise."""

import numpy as np
import torch
import transformers

import iam

LAYERS, WIDTH, VOCABULARY, CONTEXT, D_SAE = 2, 16, 41, 24, 48


def models():
    from sae_lens import HookedSAETransformer
    from transformer_lens import HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    torch.manual_seed(0)
    hf = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=WIDTH,
            n_layer=LAYERS,
            n_head=2,
            n_positions=CONTEXT,
            activation_function="gelu_new",
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    ).eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter)) if parameter.dim() == 1 else parameter.mul_(6.0)
    cfg = HookedTransformerConfig(
        n_layers=LAYERS,
        d_model=WIDTH,
        n_ctx=CONTEXT,
        d_head=WIDTH // 2,
        n_heads=2,
        d_mlp=4 * WIDTH,
        act_fn="gelu_new",
        d_vocab=VOCABULARY,
        normalization_type="LN",
        device="cpu",
        default_prepend_bos=False,
    )
    hooked = HookedSAETransformer(cfg)
    hooked.load_state_dict(convert_gpt2_weights(hf, cfg), strict=False)
    return hooked.eval(), iam.LanguageModel(hf)


def coders(tmp_path, architecture="topk", hook="blocks.1.hook_resid_pre", seed=0):
    """SAELens's and ours, of one file that we wrote."""
    from sae_lens import SAE

    rng = np.random.default_rng(seed)
    cfg = iam.SAEConfig(
        architecture=architecture,
        d_in=WIDTH,
        d_sae=D_SAE,
        k=4 if architecture == "topk" else None,
        metadata={
            "hook_name": hook,
            "model_name": "tiny",
            "prepend_bos": False,
            "context_size": CONTEXT,
            "sae_lens_version": "6.54.12",  # without it SAELens takes the file for one from before 6.0 and drops all of this
        },
    )
    ours = iam.SAE(
        cfg,
        W_enc=rng.standard_normal((WIDTH, D_SAE)) / 5,
        b_enc=rng.standard_normal(D_SAE) / 10 - 0.3,
        W_dec=rng.standard_normal((D_SAE, WIDTH)) / 5,
        b_dec=rng.standard_normal(WIDTH) / 10,
        threshold=np.full(D_SAE, 0.2) if architecture == "jumprelu" else None,
    )
    ours.save_model(tmp_path / architecture)
    return SAE.load_from_disk(str(tmp_path / architecture)), ours
