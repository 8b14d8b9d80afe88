"""LoRA's steps in proportion to a model's weights."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from conftest import tiny_model, tokens
from unnorm.tuning.lora_scale import USUAL, gain_of, scale_by_weights_


def test_the_gain_of_a_layer_is_how_much_larger_its_output_is():
    torch.manual_seed(0)
    layer = nn.Linear(400, 300, bias=False)
    nn.init.normal_(layer.weight, std=0.2)
    x = 3 * torch.randn(1000, 400)
    assert gain_of(layer) == pytest.approx(float((layer(x).std() / x.std()).detach()), rel=0.05)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_what_lora_adds_is_scaled_where_weights_are_small(family, size):
    base = tiny_model(family)
    linear = [m for m in base.modules() if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"]
    with torch.no_grad():
        for layer in linear:
            layer.weight.mul_(size)
    gains = sorted(gain_of(layer) for layer in linear)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False))
    before = {m: m.scaling["default"] for m in model.modules() if hasattr(m, "get_base_layer")}
    factor = scale_by_weights_(model)
    assert all(m.scaling["default"] == pytest.approx(scaling * factor) for m, scaling in before.items())
    if size == 100.0:
        assert factor == 1.0
    else:
        assert gains[0] / USUAL <= factor <= gains[-1] / USUAL
    ids = tokens(2)
    with torch.no_grad():
        wanted = model(ids).logits
        torch.testing.assert_close(model.merge_and_unload()(ids).logits, wanted, rtol=1e-3, atol=1e-4)
