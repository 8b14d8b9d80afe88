"""What a model scored on each held-out conversation, as a file: what two models are compared over, pair by pair."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unnorm.data.prepare import Rows
from unnorm.evaluation.held_out import HeldOut
from unnorm.evaluation.scores import Item, score
from unnorm.foundation import atomic
from unnorm.foundation.parquet import parquet_bytes, read_columns


class ConversationSums(NamedTuple):
    """Over the trained tokens of n conversations: nats [n] fp64, tokens [n] and correct [n] int64 (those that were the
    most likely one). ids [n] int64: digests of what each conversation is, to see that two tables are about the same."""

    nats: np.ndarray
    tokens: np.ndarray
    correct: np.ndarray
    ids: np.ndarray

    def held_out(self, seconds: float) -> HeldOut:
        """The loss over all of them, which took so long to find."""
        tokens = int(self.tokens.sum())
        return HeldOut(float(self.nats.sum()) / tokens, int(self.correct.sum()) / tokens, tokens, seconds)


def score_conversations(model: Any, tokenizer: Any, rows: Rows) -> ConversationSums:
    """Score every conversation in prepared `rows`, in their order. The model is left in its mode."""
    items = (Item(encoded, key=0) for row in rows.rows for encoded in row)
    found = score(model, tokenizer, items, max_length=rows.max_length, packed=rows.packed, pad_id=rows.pad_id)
    nats, tokens, correct, *_ = found.trained.T
    return ConversationSums(nats, tokens.astype(np.int64), correct.astype(np.int64), found.ids)


def write_sums(path: Path, sums: ConversationSums) -> None:
    """Write a Parquet file, one row a conversation."""
    import pyarrow as pa

    atomic.write_bytes(path, parquet_bytes(pa.table(sums._asdict())))


def read_sums(path: Path) -> ConversationSums:
    """Read what `write_sums` wrote. A file that is none is an `ArtefactError`."""
    advice = "cannot be read as scores of conversations. Delete its cell and run again."
    columns = read_columns(path, ConversationSums._fields, advice)
    return ConversationSums(*(column.to_numpy() for column in columns))
