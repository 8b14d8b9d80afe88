"""Lines of JSON written as one array, so that record n still stands in line n."""

from typing import BinaryIO


class JsonArray:
    """Takes what a file of lines would be written, and writes an array into `file`. `end` closes it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._begun = False

    def write(self, lines: bytes) -> None:
        """Write whole lines, each a record."""
        records = lines[:-1].replace(b"\n", b",\n")  # a newline in a record is written as \n
        self._file.write((b",\n" if self._begun else b"[") + records)
        self._begun = True

    def flush(self) -> None:
        self._file.flush()

    def end(self) -> None:
        """Close the array, which may be empty."""
        self._file.write(b"]\n" if self._begun else b"[]\n")
        self._file.flush()
