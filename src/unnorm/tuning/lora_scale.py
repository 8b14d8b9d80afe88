"""LoRA's steps in proportion to a model's weights, so that one rate serves models of small and of large ones.

Adam moves each number of B by about the learning rate in a step, whatever the weights are. The layers of SmolLM2-135M
give some 4.6 times what comes in, for inputs of no direction in particular, those of Gemma 3 270M as much as comes in:
at the rate that serves the one, each step changes the other's outputs by a share several times as large, and a recovery
diverges. One factor a model, not one a layer: with that, SmolLM2 ended worse (docs/log.md).
"""

from statistics import median
from typing import Any

import torch
from torch import nn

from unnorm.surgery.linears import weight_of

USUAL = 4.5
"""Of a model's layers, from which on nothing is scaled. Rates were measured on SmolLM2-135M, whose median is above."""


def gain_of(layer: nn.Module) -> float:
    """Root mean square of a linear layer's weight [out, in] times √in: how much larger its output is than its input, as
    root mean squares, for inputs of no direction in particular."""
    weight = weight_of(layer).detach().float()
    gain: float = float(weight.square().mean().sqrt()) * weight.shape[1] ** 0.5
    return gain


@torch.no_grad()
def scale_by_weights_(learner: Any) -> float:
    """Scale what every LoRA of a PeftModel adds by the median gain of its layers over the `USUAL` one, if that is below
    1. Returns the factor."""
    adapted = [module for module in learner.modules() if isinstance(getattr(module, "scaling", None), dict)]
    factor = min(1.0, median(gain_of(module.get_base_layer()) for module in adapted) / USUAL) or 1.0
    for module in adapted:
        for name in module.scaling:
            module.scaling[name] *= factor
    return factor
