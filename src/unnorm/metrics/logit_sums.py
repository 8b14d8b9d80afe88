"""Sums over positions of something that logits tell, with gradients, and without ever holding all logits.

Chunk by chunk, a head gives logits, and a `Piece` makes of them a sum and the sum's gradient by them. The gradients by
the hidden states and by the head follow at once, so that nothing of a chunk is kept but these.
"""

from collections.abc import Callable
from typing import Any

import torch

from unnorm.metrics.output_layer import Output, positions_at_once

Piece = Callable[[slice, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""From some positions and their logits [n, V] in fp32 to the sum and a count (how many positions are right). The sum's
gradient by the logits stands in the logits' place afterwards."""
_PARTS_ON_CPU = 4
"""Chunks are so much smaller on a processor, whose caches and memory they come out of: there a chunk of 256 positions
took 0.8 of the time of one of 1,365 (SmolLM2's 49,152 logits each)."""


def sum_over_logits(hidden: torch.Tensor, out: Output, piece: Piece) -> tuple[torch.Tensor, torch.Tensor]:
    """(sum, fp32 scalar with gradient; count, int64 scalar) of `piece` over the positions of `hidden` [N, C].

    out: how hidden states become logits. Products are in its dtype.
    """
    return _Sum.apply(hidden, out.weight, out.bias, out, piece)  # type: ignore[no-any-return, no-untyped-call]


class _Sum(torch.autograd.Function):
    """The sum, and its gradients by the hidden states and by the head's weight and bias, in one go."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        out: Output,
        piece: Piece,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        by_hidden, by_weight, by_bias = ctx.needs_input_grad[:3]
        wanted = by_hidden or by_weight or by_bias
        device = hidden.device.type
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        count = torch.zeros((), dtype=torch.int64, device=hidden.device)
        d_hidden = torch.empty_like(hidden) if by_hidden else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if by_weight else None
        d_bias = torch.zeros_like(bias, dtype=torch.float32) if by_bias and bias is not None else None
        size = positions_at_once(weight.shape[0])
        if device == "cpu" and d_weight is None:  # every chunk adds to all of d_weight
            size = max(1, size // _PARTS_ON_CPU)
        with torch.autocast(device, enabled=False):
            out = out._replace(weight=out.weight.to(out.dtype))
            for first in range(0, len(hidden), size):
                part = slice(first, first + size)
                h = hidden[part].to(out.dtype)
                z = out.logits(h)
                slope = out.slope(z) if wanted else None
                nats, right = piece(part, z)
                total += nats
                count += right
                if not wanted:
                    continue
                d_z = (z if slope is None else z.mul_(slope)).to(out.dtype)
                if d_hidden is not None:
                    d_hidden[part] = d_z @ out.weight
                if d_weight is not None:
                    d_weight += d_z.T @ h
                if d_bias is not None:
                    d_bias += d_z.sum(0)
        ctx.gradients = (d_hidden, d_weight, d_bias)
        ctx.mark_non_differentiable(count)
        return total, count

    @staticmethod
    def backward(ctx: Any, d_total: torch.Tensor, _: Any) -> Any:  # type: ignore[override]
        gradients = (None if d is None else d * d_total.to(d.dtype) for d in ctx.gradients)
        return (*gradients, None, None)
