"""A plain text file as rows: its paragraphs, or its lines where no empty line parts any."""

import re
from collections.abc import Iterator

from unnorm.foundation.errors import DataError

TEXT = ".txt"
_EMPTY_LINES = re.compile(r"\n[^\S\n]*\n")


def text_rows(name: str, content: bytes) -> Iterator[dict[str, str]]:
    """A row with `text` for each text in `content`, UTF-8, called `name` in messages. Raises `DataError`."""
    try:
        whole = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8 ({error.reason} at byte {error.start}). Save the file as UTF-8.") from error
    whole = "\n".join(whole.splitlines()).strip()
    texts = _EMPTY_LINES.split(whole) if _EMPTY_LINES.search(whole) else whole.split("\n")
    yield from ({"text": text.strip()} for text in texts if text.strip())
