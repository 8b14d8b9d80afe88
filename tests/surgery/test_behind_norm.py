"""A linear layer whose output a norm is given."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from unnorm import DyT, FixedScale
from unnorm.surgery.behind_norm import Part, bring_closer_, newton_step, put_back_, within


def test_a_step_does_what_is_wanted_where_the_curve_is_straight():
    torch.manual_seed(0)
    x, wanted = 0.1 * torch.randn(64, 8), 0.01 * torch.randn(64, 8).double()
    norm = DyT(alpha_init=0.5).build(8)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-3, 3, 8))
    step = newton_step(norm, x, wanted)
    got = (norm(x + step.float()) - norm(x)).double()
    torch.testing.assert_close(got, wanted / 1.1, rtol=0.1, atol=1e-3)  # a tenth of it is damping


def test_a_norm_that_centres_is_stepped_channel_by_channel():
    x, wanted = torch.randn(64, 32), torch.randn(64, 32).double()
    norm = FixedScale().build(32)
    step = newton_step(norm, x, wanted)
    assert torch.corrcoef(torch.stack([step.flatten(), wanted.flatten()]))[0, 1] > 0.9


def test_no_step_is_endless_where_the_curve_is_flat():
    norm = DyT(alpha_init=50.0).build(4)
    step = newton_step(norm, torch.full((16, 4), 30.0), torch.ones(16, 4).double())
    assert torch.isfinite(step).all()


def test_a_change_is_no_longer_than_the_weights():
    weight, slope, offset = torch.ones(3, 4), torch.ones(3, 4).double(), torch.ones(3).double()
    slope[1] *= 100
    slope[2] *= 0.1
    shorter, moved = within(weight, slope, offset)
    torch.testing.assert_close(shorter.norm(dim=1), torch.tensor([2.0, 2.0, 0.2]).double())
    torch.testing.assert_close(moved, torch.tensor([1.0, 0.01, 1.0]).double())


def test_channels_are_put_back_whichever_way_the_weight_lies():
    for layer in (nn.Linear(4, 3), Conv1D(3, 4)):
        old = {name: p.detach().clone() for name, p in layer.named_parameters()}
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(1)
            put_back_(layer, old, torch.tensor([True, False, True]))
        weight = layer.weight if isinstance(layer, nn.Linear) else layer.weight.T
        was = old["weight"] if isinstance(layer, nn.Linear) else old["weight"].T
        assert torch.equal(weight[[0, 2]], was[[0, 2]])
        assert torch.equal(weight[1], was[1] + 1)
        assert torch.equal(layer.bias, old["bias"] + torch.tensor([0.0, 1.0, 0.0]))


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("heads", [1, 4])
def test_a_layer_before_a_norm_gives_what_the_norm_wants(heads, bias):
    torch.manual_seed(0)
    layer, hidden = nn.Linear(32, 16, bias=bias), torch.randn(4, 64, 32)
    norm = DyT(alpha_init=0.5).build(16 // heads)

    def given() -> torch.Tensor:
        return layer(hidden).view(4, 64, heads, -1).transpose(1, 2)

    other = nn.Linear(32, 16, bias=bias)
    wanted = norm(other(hidden).view(4, 64, heads, -1).transpose(1, 2))
    before = (norm(given()) - wanted).square().sum()
    x = given()
    for _ in range(4):
        x = bring_closer_(layer, norm, hidden, x, wanted, slice(None))
    assert torch.equal(x, given())
    assert torch.equal(layer.weight, layer.weight.bfloat16().float())
    assert (norm(x) - wanted).square().sum() < 0.02 * before


@torch.no_grad()
def test_what_else_a_fused_layer_gives_stays():
    torch.manual_seed(0)
    layer, hidden = nn.Linear(8, 12), torch.randn(2, 128, 8)
    layer.weight.copy_(layer.weight.bfloat16())
    layer.bias.copy_(layer.bias.bfloat16())
    old = layer.weight.clone()
    norm = DyT().build(4)
    x = layer(hidden)[..., 4:8]
    bring_closer_(layer, norm, hidden, x, norm(x) + 0.1 * hidden[..., :4], slice(None))
    assert torch.equal(layer.weight[:4], old[:4])
    assert torch.equal(layer.weight[8:], old[8:])
    assert not torch.equal(layer.weight[4:8], old[4:8])


def test_a_part_is_laid_out_as_the_layer_gives_it():
    layer = nn.Linear(3, 8)
    out = layer(torch.randn(2, 5, 3)).detach()
    x = out.view(2, 5, 4, 2).transpose(1, 2)[:, 1]
    part = Part.of(x, layer)
    assert torch.equal(part.taken_from(out), x)
    laid = part.laid_out(x)
    assert torch.equal(laid[:, 2:4], out.flatten(0, 1)[:, 2:4])
    assert laid[:, :2].abs().sum() == laid[:, 4:].abs().sum() == 0
