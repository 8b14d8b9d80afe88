"""Relative parameters: while it trains, a norm's parameter is its start times or plus a part that learns from zero.

    α = α₀ · eᵃ        γ = γ₀ (1 + g)        β = β₀ + u b,   u = median |γ₀|

A site's α spans four orders of magnitude over a model and its γ as many, so that one step size cannot suit all of them:
a step of 2e-3 on an α of 1e-3 triples it. Relative to where they start, all of them learn at one rate. The start is
whatever the module holds when training begins, and when it ends, plain α, γ and β stand there again.

Pretrained norms (LayerNorm, RMSNorm) learn their γ and β the same way, so that compared arms stay matched; where a norm
stores γ − 1 (Gemma), it is γ that is relative.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils import parametrize

from unnorm.surgery.norm_behaviour import kind_of

_SMALLEST = 1e-2
"""A γ₀ below this share of the mean |γ₀| learns in steps of that share: else a channel that starts at 0 is dead."""


class _Relative(nn.Module):
    """A parametrization by buffers that are `held`, in units of which it learns."""

    def __init__(self, **held: torch.Tensor) -> None:
        super().__init__()
        for name, tensor in held.items():
            self.register_buffer(name, tensor, persistent=False)
        self.first = held

    def scale_(self, factor: torch.Tensor | float) -> None:
        for name, tensor in self.first.items():
            device = getattr(self, name).device
            setattr(self, name, tensor.to(device) * torch.as_tensor(factor, device=device))


class _Scaled(_Relative):
    """v₀ + s · v, with v from 0. v₀ and s have the parameter's shape, or s is one number."""

    start: torch.Tensor
    scale: torch.Tensor

    def forward(self, v: torch.Tensor) -> torch.Tensor:
        return self.start + self.scale * v

    def right_inverse(self, value: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(value)


class _Grown(_Relative):
    """v₀ · eᵛ, with v from 0."""

    start: torch.Tensor

    def forward(self, v: torch.Tensor) -> torch.Tensor:
        return self.start * v.exp()

    def right_inverse(self, value: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(value)


@contextmanager
def relative(norms: Iterable[nn.Module]) -> Iterator[list[nn.Parameter]]:
    """While open, those of the norms' parameters that train are relative; yields what learns, in a fixed order.

    norms: modules with `weight` γ, `bias` β, and `alpha` α where they have one; other parameters stay as they are.
    Parameters stay the same objects, with the same `requires_grad`; their names get a `parametrizations` in them.
    When closed, also by an error, each parameter holds the value that it stood for.
    """
    changed: list[tuple[nn.Module, str]] = []
    learning: list[nn.Parameter] = []
    try:
        for norm in norms:
            kind = kind_of(norm) or ""  # now: with a parametrization in it, it can no longer be asked
            for name, parameter in list(norm.named_parameters(recurse=False)):
                if not parameter.requires_grad:
                    continue
                learning.append(parameter)
                part = _part(norm, kind, name, parameter.detach())
                if part is not None:
                    # Not unsafe: the check that it fits would run the norm's other parts as well.
                    parametrize.register_parametrization(norm, name, part, unsafe=True)
                    changed.append((norm, name))
        yield learning
    finally:
        for norm, name in changed:
            parametrize.remove_parametrizations(norm, name, leave_parametrized=True)


def scale_(norm: nn.Module, name: str, factor: torch.Tensor | float) -> None:
    """While a norm's parameters are relative, make the one called `name` stand for `factor` times what it would stand
    for by itself, and learn in steps as much larger. factor: of the parameter's shape, or a number; the last one holds.
    """
    part: _Relative = norm.parametrizations[name][0]  # type: ignore[index, union-attr, assignment]
    part.scale_(factor)


def _part(norm: nn.Module, kind: str, name: str, start: torch.Tensor) -> nn.Module | None:
    start, added = start.clone(), float(kind.endswith("-plus-one"))
    if name == "alpha":
        return _Grown(start=start)
    if name == "weight":
        gamma = start + added
        smallest = _SMALLEST * gamma.abs().mean().clamp_min(torch.finfo(gamma.dtype).tiny)
        return _Scaled(start=start, scale=torch.where(gamma.abs() < smallest, smallest, gamma))
    if name == "bias":
        weight = getattr(norm, "weight", None)
        sizes = start.new_ones(1) if weight is None else (weight.detach().to(start.dtype) + added).abs()
        unit = torch.where(sizes.median() > 0, sizes.median(), sizes.mean())
        return _Scaled(start=start, scale=unit)
    return None
