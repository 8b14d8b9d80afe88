"""Curves that are bent straight: what stays, what goes, and the line at the end."""

import pytest
import torch

from unnorm import DyT
from unnorm.norms.dyisru import DyISRU
from unnorm.norms.spec import spec_from
from unnorm.norms.straight import STRAIGHT, TYPICAL, as_curve, as_fixed_scale, gain, why_not_straight


def made(spec, width=4):
    norm = spec.build(width)
    with torch.no_grad():
        norm.alpha.copy_(torch.linspace(0.2, 1.0, norm.alpha.numel()))
        norm.weight.copy_(torch.tensor([3.0, -1.0, 0.5, 2.0]))
        if norm.bias is not None:
            norm.bias.copy_(torch.tensor([0.1, 0.0, -0.2, 0.3]))
    return norm


def bent(spec, typical, c):
    norm = made(spec)
    with torch.no_grad():
        norm.alpha.mul_(c)
        norm.weight.mul_(gain(spec, typical, c))
    return norm


@pytest.mark.parametrize("spec", [DyT(), DyT(alpha="channel", bias=False), DyISRU(alpha="channel")], ids=str)
@torch.no_grad()
def test_typical_activations_keep_their_size_and_large_ones_are_bounded_later(spec):
    typical = torch.tensor([0.3, 0.5, 1.0, 2.0])
    start = made(spec)
    x = typical / start.alpha
    offset = start.bias if start.bias is not None else torch.zeros(4)
    torch.testing.assert_close(bent(spec, typical, 1.0)(7 * x), start(7 * x))
    sizes = []
    for c in (1.0, 0.3, 0.1):
        norm = bent(spec, typical, c)
        torch.testing.assert_close(norm(x), start(x))
        sizes.append((norm(20 * x) - offset).abs())
    assert bool((sizes[0] < sizes[1]).all() and (sizes[1] < sizes[2]).all())


@pytest.mark.parametrize("spec", [DyT(alpha="channel"), DyT(bias=False), DyISRU()], ids=str)
@torch.no_grad()
def test_a_straight_curve_is_a_fixed_scale(spec):
    typical = torch.tensor([0.3, 0.5, 1.0, 2.0])
    norm = bent(spec, typical, 1e-3)
    line = as_fixed_scale(norm, torch.tensor(2.5))
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(line(x), norm(x), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(line(3 * x) - line(0 * x), 3 * (line(x) - line(0 * x)))
    assert line.spec.to_dict() == {"norm": "fixedscale", "affine": True, "bias": spec.bias, "center": False}
    assert float(line.sigma) == 2.5


@torch.no_grad()
def test_a_fixed_scale_gets_a_curve_that_it_is_the_tangent_of():
    line = as_fixed_scale(made(DyT(alpha="channel")), torch.tensor(2.5))
    typical = torch.tensor([0.1, 1.0, 3.0, 50.0])
    curve = as_curve(line, typical)
    curve.weight.mul_(gain(curve.spec, torch.full((4,), TYPICAL), STRAIGHT))
    curve.alpha.mul_(STRAIGHT)
    x = typical * torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(curve(x), line(x), rtol=1e-3, atol=1e-3)
    large = 1e6 * typical
    assert bool((curve(large).abs() < line(large).abs() / 100).all())
    torch.testing.assert_close(as_fixed_scale(curve, torch.tensor(2.5)).weight, line.weight, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"norm": "derf"}, "shift"),
        ({"norm": "dyt", "affine": False}, "no γ"),
        ({"norm": "layernorm"}, "no curve"),
        ({"norm": "fixedscale", "center": True}, "mean off"),
        ({"norm": "fixedscale", "center": False, "affine": False}, "no γ"),
    ],
)
def test_what_cannot_be_bent_is_told_why(settings, why):
    assert why in why_not_straight(spec_from(settings))
