"""Fold what is linear in a norm into the linear layers that read it: exact, up to the rounding of their weights.

For `y = γ t(x) + β` and a reader `W y + b`, the same is `(W diag γ) t(x) + (b + W β)`. All of a fixed scale is linear,
`t(x) = (x − mean(x)) / σ₀`, so its σ₀ and its mean go the same way and what is left is the identity. Products are
computed in float64 and rounded once, to the weights' dtype.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from unnorm.norms.affine import AffineNorm
from unnorm.norms.dyt import DyTNorm
from unnorm.norms.fixed_scale import FixedScaleNorm
from unnorm.norms.identity import Identity
from unnorm.norms.layer_norm import LayerNorm
from unnorm.norms.logistic import logistic_of
from unnorm.norms.rms_norm import RMSNorm
from unnorm.norms.spec import Norm
from unnorm.surgery.linears import weight_of
from unnorm.surgery.sites import Site, affine_of


@dataclass(frozen=True)
class Linear:
    """The part of a norm that its readers can take over: x -> scale · (x, centred or not) + offset. [C] float64."""

    scale: torch.Tensor
    offset: torch.Tensor
    centred: bool

    @property
    def trivial(self) -> bool:
        return not self.centred and bool((self.scale == 1).all()) and not self.has_offset

    @property
    def has_offset(self) -> bool:
        return bool((self.offset != 0).any())


def linear_part(module: nn.Module, site: Site) -> Linear | None:
    """What can be folded of the norm `module` that stands at `site`; None where it is not of the form γ t(x) + β."""
    gamma: torch.Tensor | None
    beta: torch.Tensor | None
    if isinstance(module, AffineNorm):
        gamma, beta = module.weight, module.bias
    elif isinstance(module, Norm) or not site.kind.startswith(("layernorm", "rmsnorm")) or site.eps <= 0:
        return None
    else:
        gamma, beta = affine_of(module, site)
    ones = torch.ones(site.width, dtype=torch.float64, device=_device_of(module))
    scale = ones if gamma is None else gamma.detach().double()
    offset = torch.zeros_like(scale) if beta is None else beta.detach().double()
    if isinstance(module, FixedScaleNorm):
        return Linear(scale / module.sigma.double(), offset, module.spec.centres)
    return Linear(scale, offset, centred=False)


def bare_norm(module: nn.Module, site: Site) -> nn.Module:
    """What is left of `module` once its linear part is folded: a norm of its kind without γ and β."""
    if isinstance(module, FixedScaleNorm):
        bare: nn.Module = Identity(affine=False).build(site.width)
    elif isinstance(module, AffineNorm):
        bare = module.spec.model_copy(update={"affine": False}).build(site.width)
        own = module.state_dict()
        bare.load_state_dict({name: own[name] for name in bare.state_dict()})
    elif type(module) is nn.LayerNorm:
        bare = nn.LayerNorm(site.width, eps=site.eps, elementwise_affine=False)
    else:
        spec = LayerNorm if site.kind.startswith("layernorm") else RMSNorm
        bare = spec(affine=False, eps=site.eps).build(site.width)
    return bare.to(_device_of(module)).train(module.training)


def as_logistic(module: nn.Module, layers: Sequence[Any]) -> tuple[Linear, nn.Module] | None:
    """What can be folded of a DyT, and what is left, if it is written by the logistic function, which is faster on a
    processor; None for other norms, on CUDA, and where readers would get new biases or round more than fp32 does."""
    if type(module) is not DyTNorm or module.alpha.is_cuda:
        return None
    if any(layer.bias is None or layer.weight.dtype is not torch.float32 for layer in layers):
        return None
    bare, scale, offset = logistic_of(module)
    return Linear(scale, offset, centred=False), bare.train(module.training)


@torch.no_grad()
def fold_into_(layer: Any, part: Linear) -> None:
    """Make `layer` take the norm's linear part over. It gets a bias if it has none and one is needed."""
    weight = weight_of(layer)
    old = weight.double()
    new = old * part.scale
    if part.centred:
        new -= new.mean(1, keepdim=True)
    if part.has_offset:
        offset = old @ part.offset
        if layer.bias is None:
            layer.bias = nn.Parameter(offset.to(weight.dtype), requires_grad=layer.weight.requires_grad)
        else:
            layer.bias.copy_(layer.bias.double() + offset)
    weight.copy_(new)


def why_not(layer: Any, part: Linear, shared: set[int]) -> str | None:
    """Why nothing can be folded into `layer`, or None. shared: ids of parameters that stand in several places."""
    weight = layer.weight
    if type(layer) is not nn.Linear and type(layer).__name__ != "Conv1D":
        return f"is a {type(layer).__name__}, not a plain linear layer"
    if type(weight) is not nn.Parameter or not weight.is_floating_point() or weight.is_meta:
        return "has weights that are packed, quantized or not in memory"
    if weight_of(layer).shape[1] != part.scale.shape[0]:
        return "reads something of another width"
    if id(weight) in shared or (part.has_offset and layer.bias is not None and id(layer.bias) in shared):
        return "is tied to other weights"
    return None


def _device_of(module: nn.Module) -> torch.device:
    return next((t.device for t in [*module.parameters(), *module.buffers()]), torch.device("cpu"))
