"""Parquet files, written whole or not at all, and read with an error that says what to do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unnorm.foundation.errors import ArtefactError


def parquet_bytes(table: Any) -> bytes:
    """A pyarrow table as the content of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    content: bytes = buffer.getvalue().to_pybytes()
    return content


def read_columns(path: Path, columns: Sequence[str], otherwise: str) -> list[Any]:
    """The columns of a file as pyarrow arrays, in this order. Where it is no such file, an `ArtefactError` that says
    `otherwise` after the path."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=list(columns))
    except (OSError, pa.ArrowException) as error:
        raise ArtefactError(f"{path} {otherwise}") from error
    return [table[name] for name in columns]
