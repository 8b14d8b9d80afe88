"""What a model scored on each held-out conversation, as a file: what two models are compared over, pair by pair."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from unnorm.evaluation.scores import Scores
from unnorm.foundation import atomic
from unnorm.foundation.parquet import parquet_bytes, read_columns


class ConversationSums(NamedTuple):
    """Over the trained tokens of n conversations: nats [n] fp64, tokens [n] and correct [n] int64 (those that were the
    most likely one). ids [n] int64: digests of what each conversation is, to see that two tables are about the same."""

    nats: np.ndarray
    tokens: np.ndarray
    correct: np.ndarray
    ids: np.ndarray


def trained_sums(scores: Scores) -> ConversationSums:
    """What `scores` say of each conversation's trained tokens."""
    nats, tokens, correct, *_ = scores.trained.T
    return ConversationSums(nats, tokens.astype(np.int64), correct.astype(np.int64), scores.ids)


def write_sums(path: Path, sums: ConversationSums) -> None:
    """Write a Parquet file, one row a conversation."""
    import pyarrow as pa

    atomic.write_bytes(path, parquet_bytes(pa.table(sums._asdict())))


def read_sums(path: Path) -> ConversationSums:
    """Read what `write_sums` wrote. A file that is none is an `ArtefactError`."""
    advice = "cannot be read as scores of conversations. Delete its cell and run again."
    columns = read_columns(path, ConversationSums._fields, advice)
    return ConversationSums(*(column.to_numpy() for column in columns))
