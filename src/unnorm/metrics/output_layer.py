"""From a model's last hidden states to its logits: what its output layer does, and what follows that.

The output layer is the largest of a small model, and its logits are far larger than what they are made of. So they are
made for some positions at a time, from the hidden states that the layer would have read.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

LOGITS = 2**26
"""How many logits may be held at once (fp32: 256 MB)."""
_TOLERANCE = 2e-2
"""Of the largest logit: bf16 rounds by 4e-3."""
_ROUNDED = 2e-3
"""A scale this near to 1 is 1."""


class Output(NamedTuple):
    """From the last hidden states h [N, C] to logits [N, V]: z = scale (h Wᵀ + b), or cap · tanh(z / cap). dtype: in
    which the model computes h Wᵀ."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    scale: float = 1.0
    cap: float | None = None
    dtype: torch.dtype = torch.float32

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """fp32 [N, V] of `hidden` [N, C]; the product is in the dtype of `hidden`. A tensor of its own, to write on."""
        bias = None if self.bias is None else self.bias.to(hidden.dtype)
        z = F.linear(hidden, self.weight.to(hidden.dtype), bias).float()
        z = z if self.scale == 1.0 else z.mul_(self.scale)
        return z if self.cap is None else z.div_(self.cap).tanh_().mul_(self.cap)

    def slope(self, logits: torch.Tensor) -> torch.Tensor | None:
        """∂ logits / ∂ (h Wᵀ + b), element by element, at these logits; None where it is 1."""
        if self.cap is not None:
            return self.scale * (1 - (logits / self.cap).square())
        return None if self.scale == 1.0 else torch.tensor(self.scale, device=logits.device)


def positions_at_once(vocabulary: int) -> int:
    """How many positions a forward may compute logits for."""
    return max(1, LOGITS // vocabulary)


def hidden_states(
    forward: Callable[..., Any], head: nn.Module, inputs: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, Output | None]:
    """The head's input [B, T, C] for all positions, and how it becomes logits; None where that is not known.

    The head itself runs at one position alone, and what comes out there tells what follows it.
    """
    seen: list[torch.Tensor] = []
    given: list[torch.Tensor] = []

    def see(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        seen.append(args[0])
        return (args[0][:1, -1:], *args[1:])

    handles = [
        head.register_forward_pre_hook(see),
        head.register_forward_hook(lambda module, args, out: given.append(out.detach())),
    ]
    try:
        logits = forward(**inputs, use_cache=False).logits.detach()
    finally:
        for handle in handles:
            handle.remove()
    if len(seen) != 1 or type(head) is not nn.Linear:
        return seen[-1], None
    return seen[0], _output_of(head, given[0], logits.flatten().double(), _cap_of(forward))


def _output_of(head: nn.Linear, given: torch.Tensor, logits: torch.Tensor, cap: float | None) -> Output | None:
    """What makes `logits` [V] of what the head gave: nothing, a scale (Cohere, Granite) or a cap (Gemma 2); None where
    it is something else, or cannot be told."""
    z = given.flatten().double()
    if not z.any():  # of nothing, every scale makes nothing
        return None
    before = logits if cap is None else cap * torch.atanh((logits / cap).clamp(-0.999, 0.999))
    scale = float((z @ before) / (z @ z).clamp_min(1e-30))
    scale = 1.0 if abs(scale - 1) < _ROUNDED else scale
    found = z * scale if cap is None else cap * torch.tanh(z * scale / cap)
    if (found - logits).abs().max() > _TOLERANCE * logits.abs().max():
        return None
    return Output(head.weight, head.bias, scale, cap, given.dtype)


def _cap_of(model: Any) -> float | None:
    config = getattr(getattr(model, "module", model), "config", None)  # DDP wraps it
    text = getattr(config, "get_text_config", lambda: config)()
    return getattr(text, "final_logit_softcapping", None)
