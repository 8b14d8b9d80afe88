"""Token ids or model inputs, in whatever form they are given, as batches that a model takes."""

from collections.abc import Iterable, Mapping

import torch

from unnorm.foundation.errors import DataError
from unnorm.metrics.batches import counted_tokens

Inputs = torch.Tensor | Mapping[str, torch.Tensor]
_WANTED = ("input_ids", "position_ids", "attention_mask", "tokens")


def as_batches(data: Inputs | Iterable[Inputs]) -> list[dict[str, torch.Tensor]]:
    """One dictionary of model inputs a batch, and `tokens` [B] where a packed batch has it (see `counted`).

    No tokens, or ids that are none: `DataError`.
    """
    parts = [data] if isinstance(data, (torch.Tensor, Mapping)) else list(data)
    batches = [{"input_ids": part} if isinstance(part, torch.Tensor) else dict(part) for part in parts]
    if not batches or any("input_ids" not in batch or batch["input_ids"].numel() == 0 for batch in batches):
        raise DataError("there are no tokens: give token ids [B, T] or model inputs with `input_ids`.")
    for batch in batches:
        if batch["input_ids"].ndim != 2 or batch["input_ids"].is_floating_point():
            raise DataError(
                f"calibration wants integer token ids of shape [B, T], not {tuple(batch['input_ids'].shape)} "
                f"of {batch['input_ids'].dtype}. Tokenise the text and stack it into a batch first."
            )
    return [{name: batch[name] for name in _WANTED if name in batch} for batch in batches]


def as_one_batch(data: Inputs | Iterable[Inputs]) -> dict[str, torch.Tensor]:
    """Everything as one batch; shorter batches are padded, with an attention mask."""
    batches = as_batches(data)
    length = max(batch["input_ids"].shape[1] for batch in batches)
    if any(batch["input_ids"].shape[1] != length or batch.keys() != batches[0].keys() for batch in batches):
        if any("position_ids" in batch for batch in batches):
            raise DataError("batches with position_ids (packed rows) must all have the same length.")
        for batch in batches:
            batch["attention_mask"] = counted_tokens(batch).long()
            batch.pop("tokens", None)
    return {name: torch.cat([_pad_to(batch[name], length) for batch in batches]) for name in batches[0]}


def single_rows(data: Inputs | Iterable[Inputs]) -> list[dict[str, torch.Tensor]]:
    """Every row by itself, [1, T], on the CPU."""
    return [
        {name: tensor[i : i + 1].cpu() for name, tensor in batch.items()}
        for batch in as_batches(data)
        for i in range(len(batch["input_ids"]))
    ]


def with_pieces(batch: Mapping[str, torch.Tensor], length: int, bos: int | None = None) -> dict[str, torch.Tensor]:
    """Packed rows, in the second half of which every text ends, and another begins, each `length` tokens.

    batch: with position_ids [B, T], for a model in which no text of a row sees another. Of one row, `batch` has two.
    bos: the token that begins every text, where one does, and that takes the place of a piece's first.
    """
    if len(batch["input_ids"]) == 1:
        batch = {name: torch.cat([tensor, tensor]) for name, tensor in batch.items()}
    positions = batch["position_ids"].clone()
    half = slice(-(len(positions) // 2), None)
    positions[half] %= length
    ids = batch["input_ids"].clone()
    if bos is not None:
        ids[half][positions[half] == 0] = bos
    return {**batch, "input_ids": ids, "position_ids": positions}


def counted(batch: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """Which positions hold tokens, [B, T]; None: all.

    By the attention mask; in packed rows, which have none, by `tokens` [B], how many each row holds before its padding.
    """
    return counted_tokens(batch) if "attention_mask" in batch or "tokens" in batch else None


def firsts(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Where a sequence starts, [B, T]: each row's first token, or, in packed rows, wherever positions start anew.

    Padding never counts as a start.
    """
    keep = counted_tokens(batch)
    if "position_ids" in batch:
        return (batch["position_ids"] == 0).expand_as(keep) & keep
    return keep & (keep.cumsum(1) == 1)


def counted_rows(keep: torch.Tensor | None, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Each tensor [B, T, ..., C] as rows [N, C], without the positions that `keep` [B, T] leaves out."""
    here = keep if keep is not None and tensors[0].shape[:2] == keep.shape else slice(None)
    return tuple(tensor[here].flatten(0, -2) for tensor in tensors)


def tokens_in(batch: Mapping[str, torch.Tensor]) -> int:
    """How many tokens a batch holds, padding left out."""
    return int(counted_tokens(batch).sum())


def _pad_to(tensor: torch.Tensor, length: int) -> torch.Tensor:
    if tensor.ndim == 1:  # `tokens`, a number a row
        return tensor
    return torch.nn.functional.pad(tensor, (0, length - tensor.shape[1]))
