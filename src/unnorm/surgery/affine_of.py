"""The γ and β that a pretrained norm applies, read from what it does, since Gemma and Nemotron store γ − 1."""

import torch
from torch import nn

from unnorm.surgery.sites import Site


@torch.no_grad()
def affine_of(module: nn.Module, site: Site) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """(γ, β), each [C] fp32 or None, of the pretrained norm at `site`."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if weight is None:
        return None, None
    gamma = weight.float() + (1.0 if site.kind.endswith("-plus-one") else 0.0)
    return gamma, bias.float() if bias is not None else None
