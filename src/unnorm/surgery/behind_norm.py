"""Correct a linear layer whose output a norm is given: one before a post-norm, or before a norm of queries or keys.

A Gauss-Newton step: the change of the norm's input that its output lacks, to first order, and the layer fitted to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from unnorm.norms.spec import Norm
from unnorm.surgery.linears import weight_of
from unnorm.surgery.ridge import ridge

_FLAT = 0.1
"""Of a channel's mean squared slope: added to the squared slope at a token, where the curve may be flat."""
_LONGEST = 1.0
"""A change of a channel's weights, as a share of their length."""


def root(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor whose numbers `tensor` is a view of; itself, if of none."""
    return tensor if tensor._base is None else tensor._base


@dataclass(frozen=True)
class Part:
    """Where a norm's input lies in what a linear layer gives: all of it, in heads, or a slice of a fused projection."""

    shape: torch.Size
    stride: tuple[int, ...]
    offset: int
    whole: torch.Size
    width: int
    """D: what the layer gives is [..., D]."""

    @classmethod
    def of(cls, x: torch.Tensor, layer: nn.Module) -> Self:
        """x: a view of what `layer` gave."""
        return cls(x.shape, x.stride(), int(x.storage_offset()), root(x).shape, weight_of(layer).shape[0])

    def taken_from(self, out: torch.Tensor) -> torch.Tensor:
        """The norm's input, of what the layer gives."""
        return torch.as_strided(root(out), self.shape, self.stride, self.offset)

    def laid_out(self, values: torch.Tensor) -> torch.Tensor:
        """Of `values`, shaped as the norm's input: as the layer gives them, [N, D], 0 where it gives others."""
        whole = torch.zeros(self.whole, dtype=values.dtype, device=values.device)
        torch.as_strided(whole, self.shape, self.stride, self.offset).copy_(values)
        return whole.view(-1, self.width)


def bring_closer_(
    layer: Any, norm: Norm, hidden: torch.Tensor, x: torch.Tensor, wanted: torch.Tensor, keep: Any
) -> torch.Tensor:
    """Correct `layer`, of whose output for `hidden` [..., C] x is a view, so that norm(x) comes closer to `wanted`,
    shaped as x. Returns x anew.

    One step, of which each output channel keeps what makes its error over the tokens `keep` smaller. Weights are
    rounded to what bf16 holds.
    """
    part = Part.of(x, layer)
    old = {name: parameter.detach().clone() for name, parameter in layer.named_parameters(recurse=False)}
    before = wanted.double() - norm(x).double()
    step = newton_step(norm, x.flatten(0, -2), before.flatten(0, -2)).view(x.shape)
    change = ridge(hidden.flatten(0, -2)[keep], part.laid_out(step)[keep], intercept=layer.bias is not None)
    add_(layer, *within(weight_of(layer), *change))
    after = wanted.double() - norm(part.taken_from(layer.forward(hidden))).double()  # not a call: the hooks are done
    errors = [part.laid_out(error)[keep].square().sum(0) for error in (before, after)]
    put_back_(layer, old, errors[1] > errors[0])
    return part.taken_from(layer.forward(hidden))


def add_(layer: Any, slope: torch.Tensor, offset: torch.Tensor) -> None:
    """Add to a linear layer's weight and bias, and round them (`round_`)."""
    weight_of(layer).add_(slope.to(layer.weight.dtype))
    if layer.bias is not None:
        layer.bias.add_(offset.to(layer.bias.dtype))
    round_(layer)


def round_(layer: Any) -> None:
    """Leave of fp32 parameters what bf16 holds, so that the model is the same once it is saved or run in bf16. What is
    lost here, later layers make up for; rounded at the end, a deep model is ruined."""
    for parameter in layer.parameters(recurse=False):
        if parameter.dtype == torch.float32:
            parameter.copy_(parameter.bfloat16())


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
