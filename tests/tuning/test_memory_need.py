"""What a recovery is said to need, against what a forward pass of the model really keeps."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig

from unnorm.tuning.memory_need import bytes_needed, kept_numbers
from unnorm.tuning.recover_settings import RecoverSettings

SMALL = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 64}
CONFIGS = {
    "llama": LlamaConfig(**SMALL, intermediate_size=320, num_key_value_heads=2),
    "neox": GPTNeoXConfig(**SMALL, intermediate_size=384),
    "gpt2": GPT2Config(n_embd=96, n_layer=3, n_head=4, vocab_size=64, resid_pdrop=0, attn_pdrop=0, embd_pdrop=0),
}


def kept(model, ids, *, bf16):
    """Bytes that the blocks' forward pass keeps for the backward pass, weights and their copies left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    shapes = {tuple(p.shape) for p in model.parameters() if p.ndim == 2}
    found = {}

    def pack(tensor):
        storage, shape = tensor.untyped_storage(), tuple(tensor.shape)
        if storage.data_ptr() not in weights and shape not in shapes and shape[::-1] not in shapes:
            found[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address is used twice
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        model.base_model(input_ids=ids, use_cache=False)
    return sum(size for size, _ in found.values())


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_what_blocks_keep_is_what_they_are_said_to(name, bf16):
    model = AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation="sdpa").train()
    ids = torch.randint(1, 64, (2, 50))
    size = 2 if bf16 else 4
    said = ids.numel() * kept_numbers(model, size) * size
    assert said == pytest.approx(kept(model, ids, bf16=bf16), rel=0.25)


def test_no_more_logits_than_a_chunk_are_counted():
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"])
    blocks = 100 * 4 * kept_numbers(model, 4)

    def needs(rows, objective):
        return bytes_needed(model, model, RecoverSettings(precision="fp32", objective=objective), rows, 100)

    for objective, copies in (("kl", 5), ("ce", 3)):
        model.config.vocab_size = 64
        assert needs(2, objective) - needs(1, objective) == blocks + 100 * copies * 4 * 64
        model.config.vocab_size = 2**20  # 64 positions at once
        assert needs(2, objective) - needs(1, objective) == blocks
