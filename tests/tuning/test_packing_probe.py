import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from conftest import FAMILIES, tiny_model
from unnorm.tuning.packing_probe import packing_is_clean


@pytest.mark.parametrize("family", FAMILIES)
def test_the_three_families_pack_cleanly(family):
    assert packing_is_clean(tiny_model(family))


def test_a_family_that_leaks_is_found_out():
    torch.manual_seed(0)
    config = AutoConfig.for_model("bloom", hidden_size=32, n_layer=2, n_head=2, vocab_size=384)
    assert not packing_is_clean(AutoModelForCausalLM.from_config(config).eval())
