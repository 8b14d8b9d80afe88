"""Repaired lines as Parquet. A column whose values have several types becomes JSON text, each value as it was written.

Two passes over the lines, a few megabytes at a time: one to learn the types, one to write.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from unnorm.foundation.errors import DataError

_BATCH = 8 << 20
_LONG_NUMBER = re.compile(rb"\d{16}|[eE]\+?\d{3}")

_read_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def write_parquet(lines: BinaryIO, out: BinaryIO) -> dict[str, str]:
    """Write the records in `lines`, one a line, to `out`; column -> its Arrow type, or `JSON text`.

    Raises `DataError` if there is no column.
    """
    types: dict[str, pa.DataType | None] = {}
    for batch in _batches(lines):
        for name, found in _types(batch).items():
            types[name] = _join(types[name], found) if name in types else found
    if not types:
        raise DataError("the records have no fields, so there is nothing to put into a table. Write JSONL instead.")
    while (unfit := _write(lines, out, types)) is not None:
        types[unfit] = None
    return {name: "JSON text" if kind is None else str(kind) for name, kind in types.items()}


def _write(lines: BinaryIO, out: BinaryIO, types: dict[str, "pa.DataType | None"]) -> str | None:
    """Write all; a column whose values do not fit its type exactly ends it, and is returned."""
    out.seek(0)
    out.truncate()
    schema = pa.schema([(name, pa.string() if kind is None else kind) for name, kind in types.items()])
    with pq.ParquetWriter(out, schema) as writer:
        for batch in _batches(lines):
            records = _parse(batch)
            raw = [_read_raw(line) for line in batch] if None in types.values() else []
            columns = []
            for name, kind in types.items():
                try:
                    values = _texts(raw, name) if kind is None else [record.get(name) for record in records]
                    columns.append(pa.array(values, schema.field(name).type))
                except (pa.ArrowException, OverflowError):
                    return name
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    return None


def _texts(raw: list[dict[str, msgspec.Raw]], name: str) -> list[Any]:
    return [bytes(row[name]).decode() if name in row else None for row in raw]


def _batches(lines: BinaryIO) -> Iterator[list[bytes]]:
    lines.seek(0)
    while batch := lines.readlines(_BATCH):
        yield batch


def _parse(batch: list[bytes]) -> list[dict[str, Any]]:
    """The records. orjson would read numbers of more than 64 bits as floating point, so those go another way."""
    text = b"[" + b",".join(batch) + b"]"
    records: list[dict[str, Any]] = json.loads(text) if _LONG_NUMBER.search(text) else orjson.loads(text)
    return records


def _types(batch: list[bytes]) -> dict[str, "pa.DataType | None"]:
    values: dict[str, list[Any]] = {}
    for record in _parse(batch):
        for name, value in record.items():
            values.setdefault(name, []).append(value)
    return {name: _type(column) for name, column in values.items()}


def _type(column: list[Any]) -> "pa.DataType | None":
    """The Arrow type that holds all of `column` exactly, or None."""
    kinds = {type(value) for value in column} - {type(None)}
    if len(kinds) > 1 and kinds != {int, float}:
        return None
    try:
        found = pa.array(column).type
    except (pa.ArrowException, OverflowError):
        return None
    if float in kinds and any(value is not None and abs(value) == math.inf for value in column):
        return None
    return found


def _join(one: "pa.DataType | None", other: "pa.DataType | None") -> "pa.DataType | None":
    if one is None or other is None:
        return None
    try:
        both = [pa.schema([("x", kind)]) for kind in (one, other)]
        return pa.unify_schemas(both, promote_options="permissive").field("x").type
    except pa.ArrowException:
        return None
