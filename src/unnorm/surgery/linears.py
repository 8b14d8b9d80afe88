"""Plain linear layers, of whichever class, and the weights that stand in several places."""

from typing import Any

import torch
from torch import nn


def is_linear(module: nn.Module) -> bool:
    """A plain linear layer: torch's, or GPT-2's `Conv1D`, whose weight lies the other way round."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def weight_of(module: Any) -> torch.Tensor:
    """A view of the weight of a linear layer, [out, in]."""
    return module.weight if isinstance(module, nn.Linear) else module.weight.T  # type: ignore[no-any-return]


def shared_weights(model: nn.Module) -> set[int]:
    """Ids of the parameters that stand in several places, as a tied embedding does."""
    seen: set[int] = set()
    shared: set[int] = set()
    for _, parameter in model.named_parameters(remove_duplicate=False):
        (shared if id(parameter) in seen else seen).add(id(parameter))
    return shared
