"""KL divergence of a model's next-token distributions from another's, over a vocabulary of any size.

    Σ_tokens KL(p ‖ q) = Σ_tokens Σ_v p_v (log p_v − log q_v)        p: the original, q: the model that learns

Logits exist for a few hundred tokens at a time only: each model runs up to its head, and then, chunk by chunk, both
heads give logits, from which the sum and its gradient follow at once (∂/∂z = q − p). Where what a model does to its
head's output is not known, all logits of a batch are held instead.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from unnorm.metrics.batches import counted_tokens, followed_tokens, inputs_of
from unnorm.metrics.token_sums import positions_at_once

_TOLERANCE = 2e-2
"""Of the largest logit: bf16 rounds by 4e-3."""
_SOME = 512
"""Positions whose log-probabilities are held at once, where all logits are."""
_ROUNDED = 2e-3
"""A scale this near to 1 is 1."""


class Divergence(NamedTuple):
    """nats: fp32 scalar with gradient, the sum over tokens of KL(original ‖ model); agreed, tokens: int64 scalars, how
    many tokens both find most likely, and how many there are."""

    nats: torch.Tensor
    agreed: torch.Tensor
    tokens: torch.Tensor


class Output(NamedTuple):
    """From the last hidden states h [N, C] to logits [N, V]: z = scale (h Wᵀ + b), or cap · tanh(z / cap)."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    scale: float = 1.0
    cap: float | None = None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """fp32 [N, V] of `hidden` [N, C]; the product is in the dtype of `hidden`."""
        bias = None if self.bias is None else self.bias.to(hidden.dtype)
        z = F.linear(hidden, self.weight.to(hidden.dtype), bias).float()
        z = z if self.scale == 1.0 else z * self.scale
        return z if self.cap is None else self.cap * torch.tanh(z / self.cap)

    def slope(self, logits: torch.Tensor) -> torch.Tensor | float:
        """∂ logits / ∂ (h Wᵀ + b), element by element, at these logits."""
        return self.scale if self.cap is None else self.scale * (1 - (logits / self.cap).square())


def divergence(
    model: Callable[..., Any],
    head: nn.Module,
    original: Callable[..., Any],
    original_head: nn.Module,
    batch: Mapping[str, torch.Tensor],
) -> Divergence:
    """Run both models on a batch and sum the divergence over its tokens, prompts and answers alike.

    batch: `input_ids` [B, T] and what else the models take; `labels` and `weights` are left out. head: each one's
    output layer. Under autocast the products are in its dtype. The original gets no gradient.
    """
    keep, inputs = counted_tokens(batch), inputs_of(batch)
    with torch.no_grad():
        wanted, wanted_out = _hidden(original, original_head, inputs)
    found, found_out = _hidden(model, head, inputs)
    if wanted_out is None or found_out is None:
        with torch.no_grad():
            wanted_logits = original(**inputs, use_cache=False).logits[keep].float()
        found_logits = model(**inputs, use_cache=False).logits[keep].float()
        return _plain(found_logits, wanted_logits)
    total, agreed = _Chunked.apply(  # type: ignore[no-untyped-call]
        found[keep], found_out.weight, found_out.bias, found_out, wanted[keep], wanted_out
    )
    return Divergence(total, agreed, keep.sum())


class Compared(NamedTuple):
    """Sums over the tokens of texts, as numbers: kl, KL(original ‖ model) in nats over `tokens`; agreed, how many of
    these both find most likely the same next token for; loss and original_loss, −log p of the next token in nats, over
    `predicted`: the next tokens that have a label, or all where there are no labels."""

    kl: float
    agreed: int
    tokens: int
    loss: float
    original_loss: float
    predicted: int


@torch.no_grad()
def compare(
    model: Callable[..., Any],
    head: nn.Module,
    original: Callable[..., Any],
    original_head: nn.Module,
    batch: Mapping[str, torch.Tensor],
) -> Compared:
    """As `divergence`, without a gradient, and with both models' losses on the tokens themselves.

    `labels` [B, T], -100 where a token is none of an answer, say which tokens count in the losses.
    """
    keep, inputs = counted_tokens(batch), inputs_of(batch)
    has_next = followed_tokens(batch)
    if "labels" in batch:
        has_next &= torch.roll(batch["labels"], -1, 1) != -100
    targets = torch.roll(batch["input_ids"], -1, 1)[keep]  # [N]; what follows, where something does
    follows = has_next[keep]
    wanted, wanted_out = _hidden(original, original_head, inputs)
    found, found_out = _hidden(model, head, inputs)
    if wanted_out is None or found_out is None:
        whole = [m(**inputs, use_cache=False).logits[keep] for m in (model, original)]
        chunks = zip(*(logits.float().split(_SOME) for logits in whole), strict=True)
    else:
        size = positions_at_once(found_out.weight.shape[0])
        pairs = zip(found[keep].split(size), wanted[keep].split(size), strict=True)
        chunks = ((found_out.logits(h), wanted_out.logits(g)) for h, g in pairs)  # type: ignore[assignment]
    sums, at = [0.0, 0, 0.0, 0.0], 0
    for q, p in chunks:
        part = slice(at, at + len(q))
        at += len(q)
        log_q, log_p = q.log_softmax(-1), p.log_softmax(-1)
        here = follows[part]
        following = targets[part][here, None]
        losses = [-float(log[here].gather(1, following).double().sum()) for log in (log_q, log_p)]
        kl = float((log_p.exp() * (log_p - log_q)).double().sum())
        agreed = int((q.argmax(-1) == p.argmax(-1)).sum())
        sums = [a + b for a, b in zip(sums, (kl, agreed, *losses), strict=True)]
    return Compared(sums[0], int(sums[1]), int(keep.sum()), sums[2], sums[3], int(has_next.sum()))


def _plain(found: torch.Tensor, wanted: torch.Tensor) -> Divergence:
    nats = F.kl_div(found.log_softmax(-1), wanted.log_softmax(-1), log_target=True, reduction="sum")
    agreed = (found.detach().argmax(-1) == wanted.argmax(-1)).sum()
    return Divergence(nats, agreed, torch.tensor(len(found), device=found.device))


class _Chunked(torch.autograd.Function):
    """The sum, and its gradients by the model's hidden states and by its head's weight and bias, in one go."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        out: Output,
        original_hidden: torch.Tensor,
        original_out: Output,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        by_hidden, by_weight, by_bias = ctx.needs_input_grad[:3]
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        agreed = torch.zeros((), dtype=torch.int64, device=hidden.device)
        d_hidden = torch.empty_like(hidden) if by_hidden else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if by_weight else None
        d_bias = torch.zeros_like(bias, dtype=torch.float32) if by_bias and bias is not None else None
        with torch.autocast(device, enabled=False):
            out, original_out = (o._replace(weight=o.weight.to(dtype)) for o in (out, original_out))
            size = positions_at_once(weight.shape[0])
            for first in range(0, len(hidden), size):
                part = slice(first, first + size)
                h = hidden[part].to(dtype)
                found, wanted = out.logits(h), original_out.logits(original_hidden[part].to(dtype))
                agreed += (found.argmax(-1) == wanted.argmax(-1)).sum()
                log_p, log_q = wanted.log_softmax(-1), found.log_softmax(-1)
                slope = None if out.cap is None and out.scale == 1.0 else out.slope(found)
                del wanted, found
                p = log_p.exp()
                total += log_p.sub_(log_q).mul_(p).sum()
                if not (by_hidden or by_weight or by_bias):
                    continue
                d_z = log_q.exp_().sub_(p)
                d_z = (d_z if slope is None else d_z.mul_(slope)).to(dtype)
                if d_hidden is not None:
                    d_hidden[part] = d_z @ out.weight
                if d_weight is not None:
                    d_weight += d_z.T @ h
                if d_bias is not None:
                    d_bias += d_z.sum(0)
        ctx.gradients = (d_hidden, d_weight, d_bias)
        ctx.mark_non_differentiable(agreed)
        return total, agreed

    @staticmethod
    def backward(ctx: Any, d_total: torch.Tensor, _: Any) -> Any:  # type: ignore[override]
        gradients = (None if d is None else d * d_total.to(d.dtype) for d in ctx.gradients)
        return (*gradients, None, None, None)


def _hidden(
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
    return seen[0], _output_of(head, given[0].flatten().double(), logits.flatten().double(), _cap_of(forward))


def _output_of(head: nn.Linear, z: torch.Tensor, logits: torch.Tensor, cap: float | None) -> Output | None:
    """What makes `logits` [V] of the head's own output z [V]: nothing, a scale (Cohere, Granite) or a cap (Gemma 2)."""
    before = logits if cap is None else cap * torch.atanh((logits / cap).clamp(-0.999, 0.999))
    scale = float((z @ before) / (z @ z).clamp_min(1e-30))
    scale = 1.0 if abs(scale - 1) < _ROUNDED else scale
    found = z * scale if cap is None else cap * torch.tanh(z * scale / cap)
    if (found - logits).abs().max() > _TOLERANCE * logits.abs().max():
        return None
    return Output(head.weight, head.bias, scale, cap)


def _cap_of(model: Any) -> float | None:
    config = getattr(getattr(model, "module", model), "config", None)  # DDP wraps it
    text = getattr(config, "get_text_config", lambda: config)()
    return getattr(text, "final_logit_softcapping", None)
