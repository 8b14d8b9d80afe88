"""Relative parameters: the same function at the start, plain parameters at the end, steps in units of the start."""

import copy

import pytest
import torch

import unnorm
from conftest import FAMILIES, tiny_model, tokens
from unnorm import DyT
from unnorm.norms.spec import spec_from
from unnorm.tuning.relative import relative


def norms_of(model):
    return [model.get_submodule(site.path) for site in unnorm.find_sites(model)]


@pytest.mark.parametrize("alpha", ["scalar", "channel"])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_changes_until_something_learns(family, alpha):
    model = tiny_model(family)
    unnorm.swap_(model, DyT(alpha=alpha), calibrate_on=tokens(16))
    ids = tokens(2)
    plain, logits = copy.deepcopy(model.state_dict()), model(ids).logits.detach()
    objects = {name: id(parameter) for name, parameter in model.named_parameters()}
    with relative(norms_of(model)) as learning:
        assert len(learning) == 3 * 5
        torch.testing.assert_close(model(ids).logits, logits)
        assert all(float(parameter.detach().abs().max()) == 0 for parameter in learning)
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == objects
    for name, value in model.state_dict().items():
        assert torch.equal(value, plain[name]), name
    assert not any("parametrizations" in name for name, _ in model.named_modules())


def test_what_learns_is_the_formula():
    norm = DyT(alpha="channel").build(3)
    with torch.no_grad():
        norm.alpha.copy_(torch.tensor([1e-3, 0.5, 2.0]))
        norm.weight.copy_(torch.tensor([-4.0, 0.0, 2.0]))
        norm.bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
    with relative([norm]) as (weight, bias, alpha):
        assert weight is norm.parametrizations.weight.original
        with torch.no_grad():
            alpha.fill_(0.1), weight.fill_(0.5), bias.fill_(0.25)
        x = torch.randn(5, 3)
        inside = norm(x)
    torch.testing.assert_close(norm.alpha, torch.tensor([1e-3, 0.5, 2.0]) * torch.tensor(0.1).exp())
    # γ0 (1 + g), or a hundredth of the mean |γ0| = 2 a unit where γ0 is nothing
    torch.testing.assert_close(norm.weight, torch.tensor([-6.0, 0.01, 3.0]))
    torch.testing.assert_close(norm.bias, torch.tensor([1.5, 0.5, -0.5]))
    torch.testing.assert_close(norm(x), inside)


def test_pretrained_norms_learn_the_same_way_also_where_they_store_gamma_minus_one():
    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    for made, stored in ((LlamaRMSNorm(4), 3.0), (GemmaRMSNorm(4), 2.0)):
        with torch.no_grad():
            made.weight.fill_(stored)  # γ = 3 either way
        with relative([made]) as (weight,), torch.no_grad():
            weight.fill_(0.1)
        torch.testing.assert_close(made.weight, torch.full((4,), stored + 0.3))


@pytest.mark.parametrize("learns", [("weight", "bias"), ("bias",)])
def test_a_bias_learns_in_units_of_gamma_also_where_gamma_minus_one_is_stored(learns):
    from transformers.models.nemotron.modeling_nemotron import NemotronLayerNorm1P

    for made, stored in ((torch.nn.LayerNorm(4), 3.0), (NemotronLayerNorm1P(4), 2.0), (NemotronLayerNorm1P(4), 0.0)):
        with torch.no_grad():
            made.weight.fill_(stored), made.bias.fill_(1.0)
        gamma = stored + isinstance(made, NemotronLayerNorm1P)
        made.weight.requires_grad_("weight" in learns)
        with relative([made]) as learning, torch.no_grad():
            assert len(learning) == len(learns)
            learning[-1].fill_(0.1)
        torch.testing.assert_close(made.bias, torch.full((4,), 1 + 0.1 * gamma))


def test_rule_21_a_step_is_no_larger_where_alpha_is_small():
    """One step of Adam changes a small α and a large one by the same share, which raw parameters do not."""
    shares = []
    for how in (True, False):
        norm = DyT(alpha="channel").build(2)
        with torch.no_grad():
            norm.alpha.copy_(torch.tensor([1e-3, 1.0]))
        x, before = torch.tensor([[1000.0, 1.0]]), norm.alpha.detach().clone()

        def step(norm=norm, x=x):
            optimizer = torch.optim.Adam(norm.parameters(), lr=2e-3)
            norm(x).sum().backward()
            optimizer.step()

        if how:
            with relative([norm]):
                step()
        else:
            step()
        shares.append((norm.alpha.detach() - before).abs() / before)
    torch.testing.assert_close(shares[0], torch.full((2,), 2e-3), rtol=1e-2, atol=0)
    assert float(shares[1][0]) > 1  # raw: an α of 1e-3 is tripled


def test_what_does_not_train_is_left_alone_and_an_error_leaves_plain_parameters():
    norm = DyT().build(3)
    norm.weight.requires_grad_(False)
    learning = []
    with pytest.raises(RuntimeError, match="stop"):
        _fail_inside(norm, learning)
    assert len(learning) == 2
    assert [name for name, _ in norm.named_parameters()] == ["weight", "bias", "alpha"]
    assert [p.requires_grad for p in norm.parameters()] == [False, True, True]


@pytest.mark.parametrize("name", ["dyt", "derf", "dyisru", "fixedscale", "layernorm", "rmsnorm", "identity"])
def test_every_norm(name):
    norm = spec_from({"norm": name}).build(4)
    x = torch.randn(6, 4, requires_grad=True)
    out = norm(x)
    before = copy.deepcopy(norm.state_dict())
    with relative([norm]):
        torch.testing.assert_close(norm(x), out)
        if any(p.requires_grad for p in norm.parameters()):
            norm(x).square().sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())


def _fail_inside(norm, learning):
    with relative([norm]) as found:
        learning += found
        raise RuntimeError("stop")
