"""What a model scored on each question of tasks, as a file: what two models are compared over, question by question."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from unnorm.foundation import atomic
from unnorm.foundation.parquet import parquet_bytes, read_columns


class TaskScore(NamedTuple):
    """One question's number. question: digest of its place in the data, what it says and how it was asked; the same
    for two models that were asked the same. value: in the metric's unit, 1 or 0 where it is an accuracy."""

    task: str
    metric: str
    question: str
    value: float


def write_scores(path: Path, scores: Sequence[TaskScore]) -> None:
    """Write a Parquet file, one row a score, in their order."""
    import pyarrow as pa

    columns = dict(zip(TaskScore._fields, zip(*scores, strict=True), strict=True)) if scores else {}
    kinds = [(name, pa.float64() if name == "value" else pa.string()) for name in TaskScore._fields]
    table = pa.table({name: pa.array(columns.get(name, ()), kind) for name, kind in kinds}, schema=pa.schema(kinds))
    atomic.write_bytes(path, parquet_bytes(table))


def read_scores(path: Path) -> list[TaskScore]:
    """Read what `write_scores` wrote. A file that is none is an `ArtefactError`."""
    advice = "cannot be read as scores of tasks. Delete the folder it stands in and its lease, and run again."
    columns = read_columns(path, TaskScore._fields, advice)
    return [TaskScore(*row) for row in zip(*(column.to_pylist() for column in columns), strict=True)]
