from types import SimpleNamespace

import pytest
import torch
from torch import nn

import unnorm
from conftest import FAMILIES, tiny_model, tokens
from unnorm import DyT
from unnorm.tuning.parameter_groups import fusible, parameter_groups


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


def test_adamw_is_fused_where_every_parameter_is_on_a_gpu_or_on_the_processor():
    here = nn.Parameter(torch.zeros(2))
    there, elsewhere = (SimpleNamespace(is_cuda=on, device=SimpleNamespace(type="x")) for on in (True, False))
    assert fusible([{"params": [there, there]}, {"params": [there]}])
    assert fusible([{"params": [here, here]}])
    assert fusible(parameter_groups(tiny_model("gpt2"), 0.01))
    assert not fusible([{"params": [there, here]}, {"params": [there]}])
    assert not fusible([{"params": [elsewhere]}])
