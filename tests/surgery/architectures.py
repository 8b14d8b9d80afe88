"""Tiny random models of many architectures, offline: hidden size 32, two layers, a vocabulary of 128."""

from typing import Any

import torch

VOCABULARY = 128
_CONTEXT = 32

_LLAMA = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": _CONTEXT,
}
_WITH_HEAD_DIM = {**_LLAMA, "head_dim": 8}
_ALL_HEADS = {name: value for name, value in _LLAMA.items() if name != "num_key_value_heads"}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": _CONTEXT}
_FALCON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_COHERE = {**_LLAMA, "pad_token_id": 0}
_BERT = {**_ALL_HEADS, "type_vocab_size": 2}

# name: (model type, settings); the name is the model type, or says what differs.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", _GPT2),
    "gpt_neo": (
        "gpt_neo",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": _CONTEXT,
        },
    ),
    "gptj": ("gptj", {**_GPT2, "rotary_dim": 4}),
    "gpt_neox": ("gpt_neox", _ALL_HEADS),
    "gpt_neox, sequential": ("gpt_neox", {**_ALL_HEADS, "use_parallel_residual": False}),
    "opt": (
        "opt",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 64,
            "max_position_embeddings": _CONTEXT,
            "word_embed_proj_dim": 32,
        },
    ),
    "opt, post-norm": (
        "opt",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 64,
            "max_position_embeddings": _CONTEXT,
            "word_embed_proj_dim": 16,
            "do_layer_norm_before": False,
        },
    ),
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon": ("falcon", {**_FALCON, "multi_query": True, "parallel_attn": True}),
    "falcon, two norms": ("falcon", {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon, sequential": ("falcon", {**_FALCON, "parallel_attn": False, "alibi": True, "multi_query": False}),
    "mpt": ("mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "expansion_ratio": 2, "max_seq_len": _CONTEXT}),
    "phi": ("phi", _ALL_HEADS),
    "phi, qk norms": ("phi", {**_ALL_HEADS, "qk_layernorm": True}),
    "phi3": ("phi3", {**_LLAMA, "pad_token_id": 0}),
    "stablelm": ("stablelm", _LLAMA),
    "stablelm, parallel, qk norms": ("stablelm", {**_LLAMA, "qk_layernorm": True, "use_parallel_residual": True}),
    "llama": ("llama", _LLAMA),
    "mistral": ("mistral", _LLAMA),
    "mixtral": ("mixtral", {**_LLAMA, "num_local_experts": 4}),
    "qwen2": ("qwen2", _LLAMA),
    "qwen3": ("qwen3", _WITH_HEAD_DIM),
    "gemma": ("gemma", _WITH_HEAD_DIM),
    "gemma2": ("gemma2", _WITH_HEAD_DIM),
    "gemma3_text": ("gemma3_text", _WITH_HEAD_DIM),
    "olmo": ("olmo", _LLAMA),
    "olmo2": ("olmo2", _LLAMA),
    "cohere": ("cohere", _COHERE),
    "cohere, qk norms": ("cohere", {**_COHERE, "use_qk_norm": True}),
    "cohere2": ("cohere2", {**_COHERE, "head_dim": 8}),
    "starcoder2": ("starcoder2", _LLAMA),
    "mamba": ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    "mamba2": ("mamba2", {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 8, "n_groups": 2}),
    "granite": ("granite", _LLAMA),
    "glm": ("glm", {**_WITH_HEAD_DIM, "pad_token_id": 0}),
    "glm4": ("glm4", {**_WITH_HEAD_DIM, "pad_token_id": 0}),
    "smollm3": ("smollm3", {**_LLAMA, "pad_token_id": 0}),
    "nemotron": ("nemotron", {**_LLAMA, "head_dim": 8}),
    "nanochat": ("nanochat", _LLAMA),
    "deepseek_v3": (
        "deepseek_v3",
        {
            **_LLAMA,
            "num_key_value_heads": 4,
            "moe_intermediate_size": 16,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "q_lora_rank": 16,
            "kv_lora_rank": 12,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
        },
    ),
    "bert": ("bert", _BERT),
}


def architecture_config(name: str) -> Any:
    from transformers import AutoConfig

    model_type, settings = CONFIGS[name]
    ids = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}
    return AutoConfig.for_model(model_type, **{**ids, **settings})


def architecture(name: str) -> Any:
    """A random model whose norms have seen some life: their parameters are off their start."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    torch.manual_seed(0)
    config = architecture_config(name)
    auto = AutoModelForMaskedLM if config.model_type == "bert" else AutoModelForCausalLM
    model = auto.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif parameter.ndim == 2:
                parameter.mul_(2.0)
    return model


def architecture_tokens(rows: int = 2, length: int = 16) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(0))
