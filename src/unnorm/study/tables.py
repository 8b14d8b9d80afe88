"""Rows of plain values as CSV, Parquet or LaTeX."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from unnorm.foundation.latex import tabular
from unnorm.foundation.parquet import parquet_bytes

Table = Sequence[Mapping[str, Any]]

_TEXT = {"model", "dataset", "arm", "against", "strategy", "state", "cell", "metric", "task"}
_WHOLE = {
    "seed",
    "steps",
    "train_tokens",
    "trainable_parameters",
    "total_parameters",
    "conversations",
    "questions",
    "threads",
}
_FLAGS = {"matched", "complete", "equivalent", "is_share"}
_LISTS = {"seeds", "paired"}


def as_csv(rows: Table, columns: Sequence[str]) -> bytes:
    """CSV with a header; numbers in full, lists with spaces between."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: _joined(row[column]) for column in columns} for row in rows)
    return text.getvalue().encode()


def as_parquet(rows: Table, columns: Sequence[str]) -> bytes:
    """Parquet. A column's type goes by its name, so that tables of few rows have the same types as those of many."""
    import pyarrow as pa

    def kind(column: str) -> Any:
        if column in _TEXT:
            return pa.string()
        if column in _LISTS:
            return pa.list_(pa.int64())
        return pa.int64() if column in _WHOLE else pa.bool_() if column in _FLAGS else pa.float64()

    table = pa.Table.from_pylist(list(rows), schema=pa.schema([(column, kind(column)) for column in columns]))
    return parquet_bytes(table)


def as_latex(rows: Table, columns: Sequence[str]) -> bytes:
    """A tabular environment (booktabs), escaped; numbers with four digits after the point, hashes left out."""
    shown = [column for column in columns if column != "cell"]
    lines = tabular(shown, ([_short(row[column]) for column in shown] for row in rows), len(shown))
    return "\n".join([*lines, ""]).encode()


def _joined(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(_joined(value))
