"""Columns of one's own under the names that a format has: `instruction=prompt,output=answer`."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from unnorm.foundation.errors import DataError
from unnorm.foundation.nearest import did_you_mean
from unnorm.foundation.terminal import shorten

_SAMPLE = 100  # rows in which a column must be found

Pairs = tuple[tuple[str, str], ...]


def _pairs(value: Any) -> Any:
    """{field: column}, or text as the command line has it, as pairs, which can be hashed."""
    if isinstance(value, str):
        parts = [part.partition("=") for part in value.split(",")]
        value = [(field.strip(), column.strip()) for field, _, column in parts]
    found = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(found, list | tuple) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(name, str) and name for name in pair)
        for pair in found
    ):
        raise ValueError("must give each field of the format its column, as in instruction=prompt,output=answer")
    fields = [field for field, _ in found]
    if len(set(fields)) < len(fields):
        raise ValueError(f"must name each field once, not {', '.join(fields)}")
    return tuple((field, column) for field, column in found)


Columns = Annotated[
    Pairs, BeforeValidator(_pairs), WithJsonSchema({"type": "object", "additionalProperties": {"type": "string"}})
]
"""Pairs of a format's field and the column that holds it."""


def _advice(field: str, column: str, there: list[str]) -> str:
    turned = f" The field comes first: {column}={field}." if field in there else ""
    return did_you_mean(column, there) or turned


def renamed(rows: Iterable[Any], columns: Pairs, source: str) -> Iterator[Any]:
    """Rows whose `columns` stand under the fields' names; other columns stay, but for one of such a name.

    Raises `DataError` for a column that none of the first rows of `source` has.
    """
    rows = iter(rows)
    first = list(islice(rows, _SAMPLE))
    there = list(dict.fromkeys(str(key) for row in first if isinstance(row, Mapping) for key in row))
    for field, column in columns:
        if first and column not in there:
            raise DataError(
                f"{source} has no column {column!r}, which map gives for {field!r}. It has: "
                f"{shorten(', '.join(there), 300)}.{_advice(field, column, there)}"
            )
    taken = {name for pair in columns for name in pair}
    for row in chain(first, rows):
        if isinstance(row, Mapping):
            rest = {key: value for key, value in row.items() if key not in taken}
            yield {field: row[column] for field, column in columns if column in row} | rest
        else:
            yield row
