"""Looks at a source: its first conversations as they are trained on, and what it holds: rows, turns, tokens,
duplicates, and what is dropped and changed on the way to packed rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from unnorm.data.conversation import Conversation, content_hash
from unnorm.data.encode import Encoded, Encoder, Encoding
from unnorm.data.packing import pack
from unnorm.data.settings import DataSettings
from unnorm.data.sources import Reading
from unnorm.foundation.errors import DataError
from unnorm.metrics.token_sums import IGNORED


class TokenRun(NamedTuple):
    """Tokens that follow each other and count the same. text: as they decode; weight: 0 where they are not trained."""

    text: str
    tokens: int
    weight: float


class Shown(NamedTuple):
    """A conversation and the rows that are made of it. dropped, changed: why there is none, and what was done to it."""

    conversation: Conversation
    rows: list[list[TokenRun]]
    dropped: list[str]
    changed: list[str]


_BINS = 40
_SHOWN = 99.5  # percentile of the lengths up to which the histogram goes


@dataclass(frozen=True)
class Statistics:
    """Counts of a source under its settings.

    lengths: tokens of a conversation before anything is cut, by percentile; histogram: `edges` (one more than counts),
    `counts`, and how many are `beyond` the last edge. tokens, trained: of the encoded rows. packing_efficiency: share
    of the positions of packed rows that hold tokens; packing: `edges` and `counts` of the packed rows by tokens.
    """

    formats: dict[str, str]
    rows: int
    conversations: int
    turns: dict[str, int]
    languages: dict[str, int]
    duplicates: int
    lengths: dict[str, float]
    histogram: dict[str, Any]
    encoded: int
    tokens: int
    trained: int
    packed_rows: int
    packing_efficiency: float
    packing: dict[str, Any]
    dropped: dict[str, int]
    changed: dict[str, int]
    noted: dict[str, int]
    content_hash: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def statistics(reading: Reading, settings: DataSettings, tokenizer: Any, *, quiet: bool = False) -> Statistics:
    """Encode everything that was read, and count. Raises `DataError` if nothing in it is trained."""
    encoding = Encoding([], Counter(), Counter())
    lengths: list[int] = []
    rows: list[Encoded] = []
    s = settings
    encoder = Encoder(tokenizer, s.template, s.max_length, s.loss_on, s.too_long)
    for length, made in encoder.each(reading.conversations, encoding, quiet=quiet):
        lengths += [length] if length else []
        rows += made
    if not rows:
        raise DataError(f"{reading.name}: nothing is left to train on: {dict(encoding.dropped)}.")
    packing = pack(rows, settings.max_length)
    dropped, changed = Counter(reading.dropped) + encoding.dropped, Counter(reading.changed) + encoding.changed
    return Statistics(
        formats=reading.formats,
        rows=reading.rows,
        conversations=len(reading.conversations),
        turns=dict(Counter(message.role for c in reading.conversations for message in c.messages)),
        languages=dict(Counter(c.language for c in reading.conversations if c.language).most_common()),
        duplicates=len(reading.conversations) - len(set(map(_said, reading.conversations))),
        lengths=_percentiles(lengths),
        histogram=_histogram(lengths),
        encoded=len(rows),
        tokens=sum(len(row.ids) for row in rows),
        trained=sum(int((row.labels != IGNORED).sum()) for row in rows),
        packed_rows=len(packing.rows),
        packing_efficiency=packing.efficiency,
        packing=_fill([sum(len(item.ids) for item in row) for row in packing.rows], settings.max_length),
        dropped=dict(dropped.most_common()),
        changed=dict(changed.most_common()),
        noted=dict(reading.noted.most_common()),
        content_hash=content_hash(reading.conversations),
    )


def _said(conversation: Conversation) -> tuple[tuple[str, str, str], ...]:
    return tuple((message.role, message.content, message.input) for message in conversation.messages)


def _percentiles(lengths: list[int]) -> dict[str, float]:
    array = np.array(lengths)
    found = {f"p{p}": float(np.percentile(array, p)) for p in (50, 90, 99)}
    return {"min": float(array.min()), "mean": float(array.mean()), **found, "max": float(array.max())}


def _histogram(lengths: list[int]) -> dict[str, Any]:
    array = np.array(lengths)
    width = max(1, -(-int(np.percentile(array, _SHOWN)) // _BINS))
    edges = np.arange(0, width * _BINS + 1, width)
    counts, _ = np.histogram(array[array < edges[-1]], edges)
    return {"edges": edges.tolist(), "counts": counts.tolist(), "beyond": int((array >= edges[-1]).sum())}


def _fill(tokens: list[int], length: int) -> dict[str, Any]:
    """How many rows hold how many tokens; bins are counted back from `length`, so that full rows end the last one."""
    width = max(1, -(-length // _BINS))
    edges = np.arange(length, -width, -width).clip(0)[::-1]
    counts, _ = np.histogram(tokens, edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def preview(conversations: Sequence[Conversation], settings: DataSettings, tokenizer: Any) -> list[Shown]:
    """Each conversation as it would be trained on."""
    shown, s = [], settings
    encoder = Encoder(tokenizer, s.template, s.max_length, s.loss_on, s.too_long)
    for conversation in conversations:
        encoding = Encoding([], Counter(), Counter())
        ((_, made),) = encoder.each([conversation], encoding, quiet=True)
        rows = [_runs(row, tokenizer) for row in made]
        shown.append(Shown(conversation, rows, list(encoding.dropped), [*conversation.changes, *encoding.changed]))
    return shown


def _runs(row: Encoded, tokenizer: Any) -> list[TokenRun]:
    runs = []
    at = 0
    for weight, run in groupby(row.label_weights.tolist()):
        length = len(list(run))
        ids = row.ids[at : at + length].tolist()
        text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        runs.append(TokenRun(text, length, weight))
        at += length
    return runs
