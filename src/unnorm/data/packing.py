"""Pack encoded conversations into rows of a fixed length, and rows into batches of model inputs.

Best-fit decreasing (Johnson 1974): longest first, each into the fullest row that still takes it. Position ids restart
at every conversation, and there is no attention mask: from that, transformers builds a block-diagonal mask itself,
with the cache off. Models on which this leaks get padded rows instead (`pad`), one conversation each, with a mask.
"""

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from unnorm.data.encode import Encoded
from unnorm.metrics.token_sums import IGNORED

Row = list[Encoded]
"""Conversations that share one row."""


class Packing(NamedTuple):
    """Rows, and the share of their positions that hold tokens."""

    rows: list[Row]
    efficiency: float


def pack(encoded: Sequence[Encoded], length: int) -> Packing:
    """Best-fit decreasing into rows of `length` tokens. Ties keep the given order, so the result is deterministic."""
    lengths = np.array([len(row.ids) for row in encoded], dtype=np.int64)
    rows: list[Row] = []
    spaces: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for index in np.argsort(-lengths, kind="stable"):
        item = encoded[index]
        need = len(item.ids)
        position = bisect.bisect_left(spaces, (need, -1))
        if position == len(spaces):
            free, row = length, len(rows)
            rows.append([])
        else:
            free, row = spaces.pop(position)
        rows[row].append(item)
        if free > need:
            bisect.insort(spaces, (free - need, row))
    return Packing(rows, float(lengths.sum()) / (len(rows) * length) if rows else 1.0)


def collate_packed(rows: Sequence[Row], length: int, pad_id: int, *, weighted: bool = False) -> dict[str, torch.Tensor]:
    """A batch [B, length] of packed rows: input_ids, labels, position_ids (int64), and `tokens` [B], each row's count
    without padding; if `weighted`, also weights (fp32), what each label counts. The tail is a segment of padding."""
    batch = _filled(rows, length, pad_id, weighted)
    batch["position_ids"] = torch.zeros(len(rows), length, dtype=torch.int64)
    for number, row in enumerate(rows):
        at = 0
        for size in [*(len(item.ids) for item in row), length - token_count([row])]:
            batch["position_ids"][number, at : at + size] = torch.arange(size)
            at += size
    return batch


def collate_padded(rows: Sequence[Row], pad_id: int, *, weighted: bool = False) -> dict[str, torch.Tensor]:
    """A batch [B, longest] with one conversation a row and an attention mask. Padding is masked by position: an eos
    that serves as pad token stays a target where it ends an answer. `tokens` [B] counts without padding; if `weighted`,
    weights (fp32) hold what each label counts."""
    assert all(len(row) == 1 for row in rows)
    length = max(len(row[0].ids) for row in rows)
    mask = torch.arange(length) < torch.tensor([token_count([row]) for row in rows])[:, None]
    return {**_filled(rows, length, pad_id, weighted), "attention_mask": mask.long()}


def token_count(rows: Sequence[Row]) -> int:
    """Tokens in `rows`, padding not counted."""
    return sum(len(item.ids) for row in rows for item in row)


def _filled(rows: Sequence[Row], length: int, pad_id: int, weighted: bool) -> dict[str, torch.Tensor]:
    """What packed and padded batches have alike."""
    batch = {
        "tokens": torch.tensor([token_count([row]) for row in rows]),
        "input_ids": torch.full((len(rows), length), pad_id),
        "labels": torch.full((len(rows), length), IGNORED),
    }
    if weighted:
        batch["weights"] = torch.zeros(len(rows), length)
    for number, row in enumerate(rows):
        here = number, slice(token_count([row]))
        batch["input_ids"][here] = torch.from_numpy(np.concatenate([item.ids for item in row]))
        batch["labels"][here] = torch.from_numpy(np.concatenate([item.labels for item in row]))
        if weighted:
            batch["weights"][here] = torch.from_numpy(np.concatenate([item.label_weights for item in row]))
    return batch
