from types import SimpleNamespace

import pytest
from torch import nn

import unnorm
from conftest import FAMILIES, tiny_model, tokens
from unnorm import DyT
from unnorm.tuning.parameter_groups import on_gpu, parameter_groups


@pytest.mark.parametrize("family", FAMILIES)
def test_rule_12_matrices_decay_and_norms_biases_alphas_embeddings_do_not(family):
    model = tiny_model(family)
    unnorm.swap_(model, DyT(), calibrate_on=tokens())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decay, rest = ({names[id(parameter)] for parameter in group["params"]} for group in parameter_groups(model, 0.01))
    assert [group["weight_decay"] for group in parameter_groups(model, 0.01)] == [0.01, 0.0]
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    assert decay | rest == set(names.values())
    for name, parameter in model.named_parameters():
        expected = rest if parameter.ndim < 2 or id(parameter) in embeddings else decay
        assert name in expected
    assert any(name.endswith(".alpha") for name in rest)
    assert not any("norm" in name or ".ln_" in name for name in decay)


def test_adamw_is_fused_where_every_parameter_is_on_a_gpu():
    here, there = (SimpleNamespace(is_cuda=on) for on in (False, True))
    assert on_gpu([{"params": [there, there]}, {"params": [there]}])
    assert not on_gpu([{"params": [there, here]}, {"params": [there]}])
    assert not on_gpu(parameter_groups(tiny_model("gpt2"), 0.01))
