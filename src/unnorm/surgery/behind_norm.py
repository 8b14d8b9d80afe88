"""Correct a linear layer whose output reaches the residual stream through a norm (post-norms)."""

from collections.abc import Mapping

import torch
from torch import nn

from unnorm.norms.spec import Norm

_FLAT = 0.1
"""Of a channel's mean squared slope: added to the squared slope at a token, where the curve may be flat."""
_LONGEST = 1.0
"""A change of a channel's weights, as a share of their length."""


def newton_step(norm: Norm, x: torch.Tensor, lacking: torch.Tensor) -> torch.Tensor:
    """By how much x [N, C] is to change so that the norm's output changes by `lacking` [N, C], to first order: each
    channel by its own slope, damped where the curve is flat. float64 [N, C]."""
    signs = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(0)).to(x) * 2 - 1
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        # The diagonal of the Jacobian: exact for an elementwise norm, and near it for one that centres (Hutchinson).
        slope = torch.autograd.grad((norm(x) * signs).float().sum(), x)[0].double() * signs
    least = _FLAT * slope.square().mean(0)
    return lacking * slope / (slope.square() + least.clamp_min(1e-30))


def within(weight: torch.Tensor, slope: torch.Tensor, offset: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The change `slope` [D, C], `offset` [D] of a layer of `weight` [D, C], made shorter in each output channel in
    which it is longer than `_LONGEST` times the weight: where a curve is nearly flat, no change does what is wanted."""
    length = _LONGEST * weight.double().norm(dim=1) / slope.norm(dim=1).clamp_min(1e-30)
    share = length.clamp_max(1.0)
    return slope * share[:, None], offset * share


def put_back_(layer: nn.Module, old: Mapping[str, torch.Tensor], channels: torch.Tensor) -> None:
    """Give a linear layer the `old` parameters of those output channels at which `channels` [C] is true."""
    for name, parameter in layer.named_parameters(recurse=False):
        across = name == "weight" and not isinstance(layer, nn.Linear)  # GPT-2's lies the other way round
        now, was = (parameter.T, old[name].T) if across else (parameter, old[name])
        now[channels] = was[channels]
