"""KL divergence of a model's next-token distributions from another's, over a vocabulary of any size.

    Σ_tokens KL(p ‖ q) = Σ_tokens Σ_v p_v (log p_v − log q_v)        p: the original, q: the model that learns

Each model runs up to its head, and then, chunk by chunk, both heads give logits, from which the sum and its gradient
follow at once (∂/∂z = q − p). Where what a model does to its head's output is not known, all logits of a batch are held
instead.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from unnorm.metrics.batches import counted_tokens, followed_tokens, inputs_of
from unnorm.metrics.logit_sums import sum_over_logits
from unnorm.metrics.output_layer import hidden_states, positions_at_once

_SOME = 512
"""Positions whose log-probabilities are held at once, where all logits are."""


class Divergence(NamedTuple):
    """nats: fp32 scalar with gradient, the sum over tokens of KL(original ‖ model); agreed, tokens: int64 scalars, how
    many tokens both find most likely, and how many there are."""

    nats: torch.Tensor
    agreed: torch.Tensor
    tokens: torch.Tensor


def divergence(
    model: Callable[..., Any],
    head: nn.Module,
    original: Callable[..., Any],
    original_head: nn.Module,
    batch: Mapping[str, torch.Tensor],
    leave_out: Callable[[], torch.Tensor] | None = None,
) -> Divergence:
    """Run both models on a batch and sum the divergence over its tokens, prompts and answers alike.

    batch: `input_ids` [B, T] and what else the models take; `labels` and `weights` are left out. head: each one's
    output layer. leave_out: rows that do not count, bool [B]; asked for once `model` has run. Under autocast the
    products are in its dtype. The original gets no gradient.
    """
    keep, inputs = counted_tokens(batch), inputs_of(batch)
    with torch.no_grad():
        wanted, wanted_out = hidden_states(original, original_head, inputs)
    found, found_out = hidden_states(model, head, inputs)
    if leave_out is not None:
        keep = keep & ~leave_out()[:, None]
    if wanted_out is None or found_out is None:
        with torch.no_grad():
            wanted_logits = original(**inputs, use_cache=False).logits[keep].float()
        found_logits = model(**inputs, use_cache=False).logits[keep].float()
        return _plain(found_logits, wanted_logits)
    dtype, wanted = found_out.dtype, wanted[keep]
    wanted_out = wanted_out._replace(weight=wanted_out.weight.detach().to(dtype))

    def piece(part: slice, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _kl_(z, wanted_out.logits(wanted[part].to(dtype)))

    total, agreed = sum_over_logits(found[keep], found_out, piece)
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
    wanted, wanted_out = hidden_states(original, original_head, inputs)
    found, found_out = hidden_states(model, head, inputs)
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


def _kl_(z: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(Σ KL(p ‖ q), how many rows have the same maximum) of the logits w of p and z of q, both fp32 [n, V]; the sum's
    gradient, q − p, stands in z afterwards.

    With z and w less their maxima: log p − log q = (w − z) + log Σ eᶻ − log Σ eʷ.
    """
    (z_most, z_at), (w_most, w_at) = z.max(-1, keepdim=True), w.max(-1, keepdim=True)
    apart = w.sub_(w_most).sub(z.sub_(z_most))
    z_sum, w_sum = z.exp_().sum(-1, keepdim=True), w.exp_().sum(-1, keepdim=True)
    w.div_(w_sum)
    total = apart.mul_(w).sum() + (z_sum.log() - w_sum.log()).sum()
    z.div_(z_sum).sub_(w)
    return total, (z_at == w_at).sum()
