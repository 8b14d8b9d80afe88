"""Sums of nats and correct tokens over the trained tokens of a batch: the one place where the loss is computed.

Sums, never means of means: a loss is (sum of nats) / (number of tokens) at whatever level it is asked for. The output
head runs only where a label asks for it, which changes no number and saves its cost on prompts and padding.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from unnorm.foundation import ranks
from unnorm.metrics.batches import followed_tokens, inputs_of
from unnorm.metrics.logit_sums import sum_over_logits
from unnorm.metrics.output_layer import hidden_states, positions_at_once


class TokenScores(NamedTuple):
    """Of each scored token, in the order of the mask: nats [N] fp64, −log p of the token; rank [N] int64, how many
    tokens come before it, the most likely first; of those as likely, the one with the smaller id, as argmax has it."""

    nats: torch.Tensor
    rank: torch.Tensor


IGNORED = -100
"""The label of a token that is not trained on."""


class TokenSums(NamedTuple):
    """nats: fp32 scalar with gradient (sum of −log p in nats, weighted where there are weights); correct, tokens: int64
    scalars; weight: fp32 scalar, the sum of the weights: what `nats` is to be divided by."""

    nats: torch.Tensor
    correct: torch.Tensor
    tokens: torch.Tensor
    weight: torch.Tensor


def token_sums(forward: Callable[..., object], head: nn.Module, batch: Mapping[str, torch.Tensor]) -> TokenSums:
    """Run `forward` on a batch and sum the next-token loss over its labelled tokens.

    batch: `input_ids` [B, T] int64, `labels` [B, T] int64 (`IGNORED` where not trained; the label at t is the token
    at t, shifted here), perhaps `weights` [B, T] fp32 (what the label at t counts), and whatever else the model takes
    (`position_ids`, `attention_mask`); `tokens`, a count, is not handed on. `head` is the output embedding inside
    `forward`. The cache is always off: with it on, packed rows leak into each other.
    """
    labels = batch["labels"]
    wanted = torch.zeros_like(labels, dtype=torch.bool)
    wanted[:, :-1] = labels[:, 1:] != IGNORED
    targets = labels[:, 1:][wanted[:, :-1]]
    count = torch.tensor(targets.numel(), device=labels.device)
    weights = batch["weights"][:, 1:][wanted[:, :-1]] if "weights" in batch else None
    weight = count.float() if weights is None else weights.sum()
    hidden, out = hidden_states(forward, head, inputs_of(batch)) if type(head) is nn.Linear else (None, None)
    if hidden is None or out is None or out.dtype is torch.float16:  # which must be scaled up before it is rounded
        nats, correct = _whole(forward, head, batch, wanted, targets, weights)
    else:

        def piece(part: slice, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return _nats_(z, targets[part], None if weights is None else weights[part])

        nats, correct = sum_over_logits(hidden[wanted], out, piece)
    return TokenSums(nats, correct, count, weight)


def _nats_(z: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """(Σ −log p of the targets, weighted, how many of them are the likeliest) of the logits z, fp32 [n, V]; the sum's
    gradient, weight · (p − 1 at the target), stands in z afterwards."""
    most, at = z.max(-1, keepdim=True)
    right, places = (at[:, 0] == targets).sum(), targets[:, None]
    found = z.sub_(most).gather(1, places)
    total = z.exp_().sum(-1, keepdim=True)
    nats = total.log() - found
    z.div_(total).scatter_add_(1, places, torch.full_like(found, -1.0))
    if weights is not None:
        nats, z = nats * weights[:, None], z.mul_(weights[:, None])
    return nats.sum(), right


def _whole(
    forward: Callable[..., object],
    head: nn.Module,
    batch: Mapping[str, torch.Tensor],
    wanted: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same from all logits of the labelled tokens, where a head is none that is known."""
    with head_only_at(head, wanted):
        logits = forward(**inputs_of(batch), use_cache=False).logits[0].float()  # type: ignore[attr-defined]  # [N, V]
    correct = (logits.detach().argmax(-1) == targets).sum()
    if weights is None:
        return F.cross_entropy(logits, targets, reduction="sum"), correct
    return (F.cross_entropy(logits, targets, reduction="none") * weights).sum(), correct


def all_labelled(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same batch with a label at every token that follows another of its text, and no weights."""
    labels = torch.full_like(batch["input_ids"], IGNORED)
    follows = followed_tokens(batch)
    labels[:, 1:][follows[:, :-1]] = batch["input_ids"][:, 1:][follows[:, :-1]]
    return {**{name: value for name, value in batch.items() if name != "weights"}, "labels": labels}


@contextmanager
def head_only_at(head: nn.Module, wanted: torch.Tensor) -> Iterator[None]:
    """While open, `head` sees only the positions where `wanted` [B, T] is true: [B, T, C] becomes [1, N, C]."""

    def select(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (args[0][wanted].unsqueeze(0), *args[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def token_scores(
    forward: Callable[..., object],
    head: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    scored: torch.Tensor,
    vocabulary: int,
    ids: torch.Tensor,
) -> TokenScores:
    """Score the tokens of `ids` [B, T] where `scored` [B, T] is true (never at position 0).

    inputs: whatever the model takes. Where a batch has more such tokens than logits fit, it is run several times, each
    with a part of them: the output layer sees only those. Under torch.distributed every process runs it as often, since
    a model that is sharded over them runs in all of them or in none: all must call it.
    """
    before = torch.zeros_like(scored)
    before[:, :-1] = scored[:, 1:]
    places = before.nonzero()
    size = positions_at_once(vocabulary)
    parts = []
    for number in range(max(ranks.of_all(max(1, -(-len(places) // size))))):
        some = places[number * size : (number + 1) * size]
        wanted = torch.zeros_like(before)
        wanted[some[:, 0], some[:, 1]] = True
        with head_only_at(head, wanted):
            logits = forward(**inputs, use_cache=False).logits[0].float()  # type: ignore[attr-defined]  # [n, V]
        targets = ids[some[:, 0], some[:, 1] + 1]
        found = logits.gather(1, targets[:, None])
        nats = torch.logsumexp(logits, 1, keepdim=True) - found
        earlier = torch.arange(logits.shape[1], device=logits.device) < targets[:, None]
        tied = (logits == found) & earlier
        rank, rows = (logits > found).sum(1), tied.any(1)
        rank[rows] += tied[rows].sum(1)  # of the few rows that have one, since to sum takes far longer than to look
        parts.append(TokenScores(nats[:, 0].double(), rank))
    return TokenScores(*(torch.cat(each).cpu() for each in zip(*parts, strict=True)))
