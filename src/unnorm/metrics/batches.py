"""What stands where in a batch of model inputs: which positions hold tokens, and what of it a model takes."""

from collections.abc import Mapping

import torch

_OURS = ("labels", "tokens", "weights")
"""Of a batch, but not of a model's arguments."""


def inputs_of(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What of a batch the model takes."""
    return {name: value for name, value in batch.items() if name not in _OURS}


def counted_tokens(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Which positions of a batch hold tokens of a text, [B, T]: not padding, be it masked or the tail of a packed row.

    `tokens` [B], where it is there, counts a packed row's tokens, which come first.
    """
    ids = batch["input_ids"]
    if "attention_mask" in batch:
        return batch["attention_mask"].bool()
    if "tokens" in batch:
        places = torch.arange(ids.shape[1], device=ids.device)
        return places < batch["tokens"].to(ids.device)[:, None]
    return torch.ones_like(ids, dtype=torch.bool)


def followed_tokens(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Which tokens of a batch are followed by another of the same text, [B, T]."""
    keep = counted_tokens(batch)
    follows = keep.clone()
    follows[:, -1] = False
    follows[:, :-1] &= keep[:, 1:]
    if "position_ids" in batch:
        follows[:, :-1] &= batch["position_ids"][:, 1:] != 0
    return follows
