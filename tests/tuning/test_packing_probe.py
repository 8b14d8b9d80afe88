import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from conftest import FAMILIES, tiny_model
from unnorm.tuning.packing_probe import packing_is_clean


@pytest.mark.parametrize("family", FAMILIES)
def test_the_three_families_pack_cleanly(family):
    assert packing_is_clean(tiny_model(family))


LEAKING = {
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "alibi": True},
    "opt": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "ffn_dim": 64,
        "word_embed_proj_dim": 32,
    },
}


@pytest.mark.parametrize("family", list(LEAKING))
def test_a_family_that_leaks_is_found_out(family):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=384, **LEAKING[family])
    assert not packing_is_clean(AutoModelForCausalLM.from_config(config).eval())
