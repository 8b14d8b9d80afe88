"""From a source to rows that are ready to be batched: the path through this room, as one call."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from unnorm.data import packing
from unnorm.data.conversation import Conversation, content_hash
from unnorm.data.encode import Encoded, LossOn, encode
from unnorm.data.sources import read
from unnorm.data.split import shuffled, split
from unnorm.data.templates import TEMPLATES
from unnorm.foundation.errors import DataError, SettingsError


class DataSettings(BaseModel):
    """A data set and how it is encoded."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    source: str = Field(description="a known name, a .json or .jsonl file, or a hub id")
    path: str | None = Field(default=None, description="a local file for a known name")
    rows: int | None = Field(default=None, gt=0, description="use this many rows at most, from the start of the source")
    template: str = Field(default="alpaca", description=" | ".join(TEMPLATES))
    max_length: int = Field(default=256, gt=1, description="tokens a row, and the most a conversation may have")
    loss_on: LossOn = Field(default="answer", description="answer: answers and their eos; all: prompts too")


@dataclass(frozen=True)
class Rows:
    """Rows in the order in which they are used, and how a batch is made of them."""

    rows: Sequence[packing.Row]
    max_length: int
    pad_id: int
    packed: bool

    def collate(self, rows: Sequence[packing.Row]) -> dict[str, torch.Tensor]:
        """Model inputs with labels for `rows`: [B, T]."""
        if self.packed:
            return packing.collate_packed(rows, self.max_length, self.pad_id)
        return packing.collate_padded(rows, self.pad_id)

    def batches(self, rows_per_batch: int) -> Iterator[dict[str, torch.Tensor]]:
        """All rows, as batches in order."""
        for first in range(0, len(self.rows), rows_per_batch):
            yield self.collate(self.rows[first : first + rows_per_batch])

    @property
    def tokens(self) -> int:
        return packing.token_count(self.rows)


class Source:
    """A data set, read and split once; encoded as asked for."""

    def __init__(self, settings: DataSettings, tokenizer: Any, *, quiet: bool = False) -> None:
        if settings.template not in TEMPLATES:
            raise SettingsError(f"there is no template {settings.template!r}. Known templates: {', '.join(TEMPLATES)}.")
        self.settings, self.tokenizer, self.quiet = settings, tokenizer, quiet
        conversations, self.dropped = read(settings.source, settings.path)
        conversations = conversations[: settings.rows]
        self.hash = content_hash(conversations)
        self.train_conversations, self.held_out = split(conversations)

    def train(self, tokens: int, seed: int, packed: bool = True) -> Rows:
        """Training rows of about `tokens` tokens, in an order that depends on the seed alone.

        If the source holds fewer, it is gone through again, in a fresh order each time.
        """
        encoded = self._encode(shuffled(self.train_conversations, seed), tokens)
        generator = np.random.Generator(np.random.PCG64([seed, 1]))
        rows: list[packing.Row] = []
        left = tokens
        epoch: Sequence[Encoded] = encoded
        while left > 0:
            part = _until(epoch, left)
            fresh = self._rows(part, packed)
            rows += [fresh[i] for i in generator.permutation(len(fresh))]
            left -= sum(len(row.ids) for row in part)
            epoch = [encoded[i] for i in generator.permutation(len(encoded))]
        return self._as_rows(rows, packed)

    def validation(self, tokens: int, packed: bool = True) -> Rows:
        """Held-out rows of about `tokens` tokens; the same for every seed."""
        return self._as_rows(self._rows(self._encode(self.held_out, tokens), packed), packed)

    def _encode(self, conversations: Sequence[Conversation], tokens: int) -> list[Encoded]:
        s = self.settings
        encoded, dropped = encode(
            conversations,
            self.tokenizer,
            template=s.template,
            max_length=s.max_length,
            loss_on=s.loss_on,
            tokens=tokens,
            quiet=self.quiet,
        )
        self.dropped = self.dropped + Counter(dropped)
        if not encoded:
            raise DataError(
                f"{s.source}: no conversation fits into {s.max_length} tokens. Raise max_length, or give shorter rows."
            )
        return encoded

    def _rows(self, encoded: Sequence[Encoded], packed: bool) -> list[packing.Row]:
        if packed:
            return packing.pack(encoded, self.settings.max_length).rows
        return [[item] for item in encoded]

    def _as_rows(self, rows: list[packing.Row], packed: bool) -> Rows:
        pad = self.tokenizer.pad_token_id
        return Rows(rows, self.settings.max_length, pad if pad is not None else self.tokenizer.eos_token_id, packed)


def _until(encoded: Sequence[Encoded], tokens: int) -> list[Encoded]:
    taken, count = [], 0
    for row in encoded:
        if count >= tokens:
            break
        taken.append(row)
        count += len(row.ids)
    return taken
