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

from unnorm.metrics.batches import followed_tokens, inputs_of

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
    with head_only_at(head, wanted):
        logits = forward(**inputs_of(batch), use_cache=False).logits[0].float()  # type: ignore[attr-defined]  # [N, V]
    count = torch.tensor(targets.numel(), device=labels.device)
    if "weights" in batch:
        weights = batch["weights"][:, 1:][wanted[:, :-1]]
        nats, weight = (F.cross_entropy(logits, targets, reduction="none") * weights).sum(), weights.sum()
    else:
        nats, weight = F.cross_entropy(logits, targets, reduction="sum"), count.float()
    correct = (logits.detach().argmax(-1) == targets).sum()
    return TokenSums(nats, correct, count, weight)


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
