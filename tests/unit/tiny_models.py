"""Small random models of every family, for the tests of models."""

import torch
import transformers

import iam

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


def configs():
    from transformers import (
        Gemma2Config,
        Gemma3TextConfig,
        GPT2Config,
        GPTNeoXConfig,
        LlamaConfig,
        MistralConfig,
        Qwen2Config,
        Qwen3Config,
    )

    gpt2 = {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": 64}
    gemma = GQA | {"query_pre_attn_scalar": 8, "sliding_window": 4}
    return {
        "llama": LlamaConfig(**GQA),
        "mistral": MistralConfig(**GQA),
        "qwen2": Qwen2Config(**COMMON | {"num_key_value_heads": 2}),
        "qwen3": Qwen3Config(**GQA | {"head_dim": 16}),
        "gpt2": GPT2Config(**gpt2, pad_token_id=0, bos_token_id=1, eos_token_id=2),
        "neox-parallel": GPTNeoXConfig(**COMMON, use_parallel_residual=True),
        "neox-sequential": GPTNeoXConfig(**COMMON, use_parallel_residual=False),
        "gemma2": Gemma2Config(**gemma),
        "gemma3": Gemma3TextConfig(**gemma),
    }


FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gpt2", "neox-parallel", "neox-sequential", "gemma2", "gemma3"]


def build(name):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(configs()[name], attn_implementation="eager").eval()
    with torch.no_grad():  # norms start at their identity; away from it, a missed gain shows
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.mul_(4.0)
    return iam.LanguageModel(model)


def close(a, b, tolerance=2e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max().clamp(min=1)))
