import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import unnorm
from conftest import FAMILIES, tiny_config, tiny_model
from unnorm.foundation.errors import ModelError, SiteError

EXPECTED = {
    "gpt2": [
        "transformer.h.0.ln_1",
        "transformer.h.0.ln_2",
        "transformer.h.1.ln_1",
        "transformer.h.1.ln_2",
        "transformer.ln_f",
    ],
    "gpt_neox": [
        "gpt_neox.layers.0.input_layernorm",
        "gpt_neox.layers.0.post_attention_layernorm",
        "gpt_neox.layers.1.input_layernorm",
        "gpt_neox.layers.1.post_attention_layernorm",
        "gpt_neox.final_layer_norm",
    ],
    "llama": [
        "model.layers.0.input_layernorm",
        "model.layers.0.post_attention_layernorm",
        "model.layers.1.input_layernorm",
        "model.layers.1.post_attention_layernorm",
        "model.norm",
    ],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_sites_of_the_three_families_in_execution_order(family):
    sites = unnorm.find_sites(tiny_model(family))
    assert [site.path for site in sites] == EXPECTED[family]
    assert [site.role for site in sites] == ["attention", "mlp"] * 2 + ["final"]
    assert {site.kind for site in sites} == {"rmsnorm" if family == "llama" else "layernorm"}
    assert {site.width for site in sites} == {32}
    assert {site.parameters for site in sites} == {32 if family == "llama" else 64}
    assert [site.order for site in sites] == list(range(5))
    assert {site.order_is for site in sites} == {"execution"}


def test_execution_order_is_not_module_order():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.late, self.early = nn.LayerNorm(8), nn.LayerNorm(8)
            self.embedding = nn.Embedding(16, 8)

        def forward(self, input_ids, use_cache=False):
            return self.late(self.early(self.embedding(input_ids)))

    assert [site.path for site in unnorm.find_sites(Backwards())] == ["early", "late"]


def test_on_the_meta_device_order_is_marked_as_the_modules():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny_config("llama"))
    sites = unnorm.find_sites(model)
    assert [site.path for site in sites] == EXPECTED["llama"]
    assert {site.order_is for site in sites} == {"module"}


def test_kind_is_found_by_behaviour_not_by_name():
    class MyNorm(nn.Module):  # an RMSNorm by another name
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8))

        def forward(self, x):
            return self.weight * x / x.square().mean(-1, keepdim=True).sqrt()

    class DroppedNorm(MyNorm):  # a name that promises a norm, a behaviour that is none
        def forward(self, x):
            return self.weight * x

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.embedding = MyNorm(), DroppedNorm(), nn.Embedding(16, 8)

        def forward(self, input_ids, use_cache=False):
            return self.b(self.a(self.embedding(input_ids)))

    sites = unnorm.find_sites(Model())
    assert [(site.path, site.kind) for site in sites] == [("a", "rmsnorm")]


def test_bf16_models_are_read_too():
    sites = unnorm.find_sites(tiny_model("llama").bfloat16())
    assert {site.kind for site in sites} == {"rmsnorm"}


def test_a_model_without_norms_is_a_clear_error():
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(SiteError, match="no norm sites"):
        unnorm.find_sites(model)


def test_a_peft_model_is_refused():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_model("llama"), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ModelError, match="before get_peft_model"):
        unnorm.find_sites(model)


def test_finding_sites_leaves_the_model_alone():
    model = tiny_model("gpt2").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    unnorm.find_sites(model)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
