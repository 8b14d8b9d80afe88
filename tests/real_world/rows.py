"""Rows as files of each kind, read the way a user's are."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from unnorm.data.settings import DataSettings
from unnorm.data.sources import Reading
from unnorm.data.sources import read as read_settings

KINDS = ("jsonl", "csv", "parquet")


def write(folder: Path, kind: str, rows: list[Any]) -> str:
    """`rows` in a file of that kind. Lists are JSON in a CSV file, and what is missing or null is empty."""
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    elif kind == "parquet":
        columns = dict.fromkeys(column for row in rows for column in row)
        pa.parquet.write_table(pa.table({column: [row.get(column) for row in rows] for column in columns}), path)
    else:
        columns = list(dict.fromkeys(column for row in rows for column in row))
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows([cell(row.get(column)) for column in columns] for row in rows)
    return str(path)


def read(folder: Path, rows: list[Any], kind: str = "jsonl", **settings: Any) -> Reading:
    return read_settings(DataSettings(source=write(folder, kind, rows), **settings), quiet=True)


def said(reading: Reading) -> list[list[str]]:
    """Each conversation as `role: text`."""
    return [
        [f"{m.role}: {m.content}" + (f" | {m.input}" if m.input else "") for m in c.messages]
        for c in reading.conversations
    ]


def cell(value: Any) -> str:
    """What a CSV file holds of a value."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
