"""Rows of a CSV file, all of whose values are text."""

import csv
import io
from collections.abc import Iterator

from unnorm.foundation.errors import DataError


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
