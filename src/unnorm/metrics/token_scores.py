"""Nats and rank of single tokens, however large the vocabulary: memory is bounded, not the number of tokens."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import nn

from unnorm.foundation import ranks
from unnorm.metrics.token_sums import head_only_at

LOGITS = 2**26
"""How many logits may be held at once (fp32: 256 MB)."""


class TokenScores(NamedTuple):
    """Of each scored token, in the order of the mask: nats [N] fp64, −log p of the token; rank [N] int64, how many
    tokens were more likely."""

    nats: torch.Tensor
    rank: torch.Tensor


def positions_at_once(vocabulary: int) -> int:
    """How many positions a forward may compute logits for."""
    return max(1, LOGITS // vocabulary)


@torch.no_grad()
def token_scores(
    forward: Callable[..., object],
    head: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    scored: torch.Tensor,
    vocabulary: int,
) -> TokenScores:
    """Score the tokens of `inputs["input_ids"]` [B, T] where `scored` [B, T] is true (never at position 0).

    inputs: whatever the model takes. Where a batch has more such tokens than logits fit, it is run several times, each
    with a part of them: the output layer sees only those. Under torch.distributed every process runs it as often, since
    a model that is sharded over them runs in all of them or in none: all must call it.
    """
    before = torch.zeros_like(scored)
    before[:, :-1] = scored[:, 1:]
    ids = inputs["input_ids"]
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
        parts.append(TokenScores(nats[:, 0].double(), (logits > found).sum(1)))
    return TokenScores(*(torch.cat(each).cpu() for each in zip(*parts, strict=True)))
