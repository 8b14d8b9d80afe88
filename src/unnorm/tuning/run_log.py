"""The logs of a run: one JSON object a line, in step order, cut back to the checkpoint when a run is resumed."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from unnorm.foundation import atomic


class RunLog:
    """Appends records that hold a `step` to a JSONL file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: dict[str, Any]) -> None:
        with atomic.disk_errors(self.path), open(self.path, "ab") as file:
            file.write(orjson.dumps(record) + b"\n")

    def read(self) -> list[dict[str, Any]]:
        """All whole records; a last line that a kill cut short is left out."""
        if not self.path.is_file():
            return []
        records = []
        for line in self.path.read_bytes().split(b"\n"):
            try:
                records.append(orjson.loads(line))
            except orjson.JSONDecodeError:
                continue
        return records

    def last(self) -> dict[str, Any] | None:
        """The last whole record, without reading the rest of the file."""
        try:
            with open(self.path, "rb") as file:
                end = file.seek(0, os.SEEK_END)
                for length in (2**14, end):
                    file.seek(max(0, end - length))
                    for line in reversed(file.read().split(b"\n")[1 if length < end else 0 :]):
                        with suppress(orjson.JSONDecodeError):
                            return orjson.loads(line)  # type: ignore[no-any-return]
        except FileNotFoundError:
            pass
        return None

    def cut_after(self, step: int) -> None:
        """Keep only the records up to and including `step`."""
        kept = [orjson.dumps(record) for record in self.read() if record["step"] <= step]
        atomic.write_bytes(self.path, b"".join(line + b"\n" for line in kept))
