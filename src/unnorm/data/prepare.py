"""From a source to rows that are ready to be batched: the path through this room, as one call."""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from unnorm.data import packing
from unnorm.data.conversation import Conversation, content_hash
from unnorm.data.encode import Encoded, Encoding, bos_of, encode
from unnorm.data.encoded_cache import cached, tokenizer_hash
from unnorm.data.settings import DataSettings, LossOn
from unnorm.data.sources import read
from unnorm.data.split import shuffled, split, split_for_search
from unnorm.data.templates import template_of
from unnorm.foundation.errors import DataError

MOST_PASSES = 4
"""Up to so many passes, data that is seen again teaches about as much as new data (arXiv 2305.16264)."""
_MOST_TOO_LONG = 0.2
"""The long ones hold more of the text than their number says."""


class Share(NamedTuple):
    """What was taken of the training or the held-out part of a data set.

    asked: tokens wanted; tokens: those taken, repeats included. conversations: taken, of `of` in the part; a long one
    that is split counts once a piece. whole: no more than these can be used. passes: how often they are gone through.
    """

    asked: int
    tokens: int
    conversations: int
    of: int
    whole: bool
    passes: float = 1.0

    @property
    def trained(self) -> str:
        """What share of the training part is trained on."""
        taken = f"{self.conversations:,} of the {self.of:,} conversations to train on"
        return f"{taken}, gone through {self.passes:,.1f} times" if self.whole else f"{taken}, each once"

    @property
    def held_out(self) -> str:
        """What share of the held-out part is evaluated on."""
        taken = f"{self.conversations:,} of the {self.of:,} conversations held out"
        return f"{self.tokens:,} of {self.asked:,} tokens asked for, in {taken}"

    @property
    def warning_of_training(self) -> str | None:
        """A warning where the same conversations are trained on many times."""
        if self.passes <= MOST_PASSES:
            return None
        return (
            f"warning: the data is gone through {self.passes:,.1f} times to reach {self.asked:,} tokens. After "
            f"{MOST_PASSES} times a model learns little but to recite it. Ask for {self.enough:,} tokens at most, or "
            "give more data."
        )

    @property
    def enough(self) -> int:
        """Tokens of as many passes as are worth it."""
        return int(MOST_PASSES * self.tokens / self.passes)

    @property
    def warning_of_held_out(self) -> str | None:
        """A warning where less can be evaluated on than was asked for."""
        if self.tokens >= self.asked:
            return None
        return (
            f"warning: {self.asked:,} tokens were asked for to evaluate on, and the held-out part has {self.tokens:,} "
            f"in {self.conversations:,} conversations. A loss over so few is uncertain. Give more data, or hold out a "
            "larger share of it (held_out)."
        )


def warning_of_length(dropped: Mapping[str, int], conversations: int, length: int) -> str | None:
    """A warning where many conversations have more than `length` tokens. dropped: by reason, beside `conversations`."""
    long = dropped.get(f"longer than {length} tokens", 0)
    met = conversations + sum(dropped.values())
    if long <= _MOST_TOO_LONG * met:
        return None
    return (
        f"warning: {long:,} of {met:,} conversations are longer than {length} tokens and are left out. Raise "
        "max_length, or keep their start with too_long (--too-long keep-start)."
    )


def warnings_of(train: "Rows", held_out: "Rows") -> list[str]:
    """What is to be warned of where a model is to learn from `train` and to be measured on `held_out`."""
    found = (
        train.share.warning_of_training,
        held_out.share.warning_of_held_out,
        warning_of_length(train.dropped, train.share.conversations, train.max_length),
    )
    return [warning for warning in found if warning]


_ALL = 2**62
"""More tokens than there are."""


@dataclass(frozen=True)
class Rows:
    """Rows in the order in which they are used, and how a batch is made of them.

    share: what was taken of the data. dropped, changed: what became of conversations as these rows were encoded, by
    reason; what became of them before is in `Source.reading`.
    """

    rows: Sequence[packing.Row]
    max_length: int
    pad_id: int
    packed: bool
    share: Share
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    weighted: bool = False
    """Whether some turns count more or less than others: then every batch has weights, so that all are alike."""
    bos: int | None = None
    """The token with which the tokenizer begins every text on its own account, if it does."""

    def collate(self, rows: Sequence[packing.Row]) -> dict[str, torch.Tensor]:
        """Model inputs with labels for `rows`: [B, T]."""
        if self.packed:
            return packing.collate_packed(rows, self.max_length, self.pad_id, weighted=self.weighted)
        return packing.collate_padded(rows, self.pad_id, weighted=self.weighted)

    def batches(self, rows_per_batch: int) -> Iterator[dict[str, torch.Tensor]]:
        """All rows, as batches in order."""
        for first in range(0, len(self.rows), rows_per_batch):
            yield self.collate(self.rows[first : first + rows_per_batch])

    @property
    def tokens(self) -> int:
        return packing.token_count(self.rows)


class Source:
    """A data set, read and split once; encoded as asked for, or as found in the cache.

    reading: what its rows were understood to be, and what became of them. encoding: what shapes the encoded rows beside
    `hash`, the hash of what is said in the conversations.
    """

    def __init__(self, settings: DataSettings, tokenizer: Any, *, quiet: bool = False) -> None:
        self.settings, self.tokenizer, self.quiet = settings, tokenizer, quiet
        self.encoding = settings.encoding(template_of(settings.template, tokenizer).identity)
        self.reading = read(settings, quiet=quiet)
        self.hash = content_hash(self.reading.conversations)
        self.train_conversations, self.held_out = split(self.reading.conversations, settings.held_out)
        if settings.for_search:
            self.train_conversations, self.held_out = split_for_search(self.train_conversations, settings.held_out)

    def with_loss_on(self, loss_on: LossOn) -> "Source":
        """The same conversations, not read again, of which other tokens are trained."""
        other = copy.copy(self)
        other.settings = self.settings.model_copy(update={"loss_on": loss_on})
        other.encoding = other.settings.encoding(template_of(other.settings.template, self.tokenizer).identity)
        return other

    def train(self, tokens: int, seed: int, packed: bool = True) -> Rows:
        """Training rows of about `tokens` tokens, in an order that depends on the seed alone.

        If the source holds fewer, it is gone through again, in a fresh order each time.
        """
        encoding = self._encode(shuffled(self.train_conversations, seed), tokens, f"{self._part}train, seed {seed}")
        encoded = encoding.rows
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
        share = self._share(encoding, tokens, self.train_conversations, tokens - left)
        return self._as_rows(rows, packed, encoding, share)

    def epoch_tokens(self) -> int:
        """Tokens of the whole training part, gone through once."""
        encoding = self._encode(self.train_conversations, _ALL, f"{self._part}train, whole")
        return sum(len(row.ids) for row in encoding.rows)

    def validation(self, tokens: int, packed: bool = True) -> Rows:
        """Held-out rows of about `tokens` tokens, or as many as there are; the same for every seed."""
        encoding = self._encode(self.held_out, tokens, f"{self._part}held out")
        rows = self._rows(encoding.rows, packed)
        return self._as_rows(rows, packed, encoding, self._share(encoding, tokens, self.held_out))

    @property
    def _part(self) -> str:
        return "for search, " if self.settings.for_search else ""

    def _encode(self, conversations: Sequence[Conversation], tokens: int, which: str) -> Encoding:
        """Conversations, which are `which` of the source's, encoded until there are `tokens` tokens."""
        s = self.settings
        shaped_by = {
            "data": self.hash,
            "which": which,
            "tokens": tokens,
            "tokenizer": tokenizer_hash(self.tokenizer),
            **self.encoding,
        }
        encoding = cached(
            shaped_by,
            lambda: encode(
                conversations,
                self.tokenizer,
                template=s.template,
                max_length=s.max_length,
                loss_on=s.loss_on,
                too_long=s.too_long,
                tokens=tokens,
                quiet=self.quiet,
            ),
        )
        if not encoding.rows:
            reasons = "; ".join(f"{count} × {reason}" for reason, count in encoding.dropped.items())
            raise DataError(
                f"{s.source}: no conversation fits into {s.max_length} tokens and has one that is trained ({reasons}). "
                "Raise max_length, choose another template or loss_on, or give shorter rows."
            )
        return encoding

    def _share(self, encoding: Encoding, asked: int, part: Sequence[Conversation], tokens: int | None = None) -> Share:
        """What `encoding` is of `part`. tokens: taken of it in all, where it is gone through several times."""
        once = sum(len(row.ids) for row in encoding.rows)
        # pieces of a long conversation are no conversations: of how many they are is not known
        met = 0 if self.settings.too_long == "split" else len(encoding.rows) + sum(encoding.dropped.values())
        taken = once if tokens is None else tokens
        return Share(
            asked, taken, min(len(encoding.rows), len(part)), len(part), once < asked or met >= len(part), taken / once
        )

    def _rows(self, encoded: Sequence[Encoded], packed: bool) -> list[packing.Row]:
        if packed:
            return packing.pack(encoded, self.settings.max_length).rows
        return [[item] for item in encoded]

    def _as_rows(self, rows: list[packing.Row], packed: bool, encoding: Encoding, share: Share) -> Rows:
        pad = self.tokenizer.pad_token_id
        weighted = any(item.weights is not None for row in rows for item in row)
        pad = pad if pad is not None else self.tokenizer.eos_token_id
        length, counts = self.settings.max_length, (encoding.dropped, encoding.changed)
        return Rows(rows, length, pad, packed, share, *counts, weighted=weighted, bos=bos_of(self.tokenizer))


def _until(encoded: Sequence[Encoded], tokens: int) -> list[Encoded]:
    taken, count = [], 0
    for row in encoded:
        if count >= tokens:
            break
        taken.append(row)
        count += len(row.ids)
    return taken
