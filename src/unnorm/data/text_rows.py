"""Rows of files of text: CSV, and plain text as paragraphs or lines."""

import csv
import io
import re
from collections.abc import Iterator

from unnorm.foundation.errors import DataError

TEXT = ".txt"
_EMPTY_LINES = re.compile(r"\n[^\S\n]*\n")


def csv_rows(name: str, content: bytes) -> Iterator[dict[str, str]]:
    """The rows of `content`, a CSV file with a header, called `name` in messages.

    A column without a name, as the index that `to_csv` of pandas writes, is called as pandas calls it: `Unnamed: 0`.
    Raises `DataError`.
    """
    csv.field_size_limit(2**31 - 1)  # a conversation is longer than a spreadsheet's cell
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        columns = [column or f"Unnamed: {place}" for place, column in enumerate(reader.fieldnames or [])]
        if len(set(columns)) < len(columns):
            raise DataError(f"{name}: two columns have the same name. Rename one.")
        reader.fieldnames = columns
        for row in reader:
            if None in row or None in row.values():  # too many fields, or too few
                raise DataError(
                    f"{name}, line {reader.line_num}: not as many fields as the header has. "
                    "Quote texts that hold commas."
                )
            yield row
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{name}: not a CSV file in UTF-8 ({error}). Save it again as one.") from error


def text_rows(name: str, content: bytes) -> Iterator[dict[str, str]]:
    """A row with `text` for each paragraph of `content`, UTF-8, or each line where no empty line parts any.

    It is called `name` in messages. Raises `DataError`.
    """
    try:
        whole = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8 ({error.reason} at byte {error.start}). Save the file as UTF-8.") from error
    # not splitlines, which ends a line at form feeds and the like, as they stand in texts from the web
    whole = whole.replace("\r\n", "\n").replace("\r", "\n").strip()
    texts = _EMPTY_LINES.split(whole) if _EMPTY_LINES.search(whole) else whole.split("\n")
    yield from ({"text": text.strip()} for text in texts if text.strip())
