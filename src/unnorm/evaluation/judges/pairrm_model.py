"""PairRM's network and input, on transformers' `DebertaV2Model`: the reference package needs transformers 4.

Source: LLM-Blender, arXiv 2306.02561, section 3; `llm_blender/pair_ranker/pairrm.py` for the names of the weights.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from unnorm.evaluation.judges.special_tokens import neutralise

MOST_SOURCE = 1224
"""Tokens of the source that are read, its own markers among them; the start is kept."""
MOST_ALL = 2048


class Markers(NamedTuple):
    """Token ids that stand before the three texts."""

    source: int = 128001
    candidate1: int = 128002
    candidate2: int = 128003


class PairRM(nn.Module):
    """A DeBERTa and a head over (source, candidate); names of weights as published."""

    def __init__(self, config: Any) -> None:
        from transformers import DebertaV2Model

        super().__init__()
        dropout = getattr(config, "drop_out", 0.05)
        self.markers = markers_of(config)
        self.pretrained_model = DebertaV2Model(config)
        self.head_layer = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(2 * config.hidden_size, config.hidden_size),
            nn.Tanh(),
            nn.Dropout(dropout),
            nn.Linear(config.hidden_size, getattr(config, "n_tasks", 1)),
        )

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits [B] of the first candidate being better, from ids and mask [B, T]: head([s; c1]) − head([s; c2]).

        Each row holds each marker once.
        """
        states = self.pretrained_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        source, one, two = (states[self._place(input_ids, marker)] for marker in self.markers)  # [B, C] each
        first = self.head_layer(torch.cat([source, one], dim=-1))
        second = self.head_layer(torch.cat([source, two], dim=-1))
        logits: torch.Tensor = (first - second).mean(dim=-1)
        return logits

    @staticmethod
    def _place(input_ids: torch.Tensor, marker: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows, columns = torch.where(input_ids == marker)
        assert rows.tolist() == list(range(len(input_ids))), "each row holds each marker once"
        return rows, columns


def markers_of(config: Any) -> Markers:
    """The marker ids that a configuration names, else the published ones."""
    names = ("source_prefix_id", "cand1_prefix_id", "cand2_prefix_id")
    return Markers(*(getattr(config, name, None) or default for name, default in zip(names, Markers(), strict=True)))


def pair_ids(tokenizer: Any, markers: Markers, source: str, candidate1: str, candidate2: str) -> tuple[list[int], bool]:
    """(ids of `[CLS]<|source|>X[SEP][CLS]<|candidate1|>A[SEP][CLS]<|candidate2|>B[SEP]`, whether a text was cut).

    The source keeps its first 1224 tokens; each candidate then gets half of what is left of 2048. Counts are with
    [CLS], marker and [SEP]. Markers are put in as ids: the same written in a text stays text.
    """
    ids, cut = _segment(tokenizer, markers.source, source, MOST_SOURCE)
    room = (MOST_ALL - len(ids)) // 2
    for marker, text in ((markers.candidate1, candidate1), (markers.candidate2, candidate2)):
        segment, shortened = _segment(tokenizer, marker, text, room)
        ids, cut = ids + segment, cut or shortened
    return ids, cut


def _segment(tokenizer: Any, marker: int, text: str, most: int) -> tuple[list[int], bool]:
    words = tokenizer(neutralise(text, tokenizer), add_special_tokens=False, verbose=False)["input_ids"]
    room = most - 3
    return [tokenizer.cls_token_id, marker, *words[:room], tokenizer.sep_token_id], len(words) > room


def pad(rows: Sequence[list[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask) [B, T] int64, padded on the right."""
    length = max(map(len, rows))
    ids = torch.tensor([row + [pad_id] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return ids, mask
