"""The forms in which rows come, each with a name: recognised by their fields, said aloud, never guessed in silence."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal

from unnorm.data.conversation import Conversation
from unnorm.data.formats.form import Format
from unnorm.data.formats.turns import Unusable
from unnorm.data.values import is_blank, kind_of
from unnorm.foundation.errors import DataError
from unnorm.foundation.terminal import shorten

FORMATS: tuple[Format, ...] = tuple(
    resolve_name(f"unnorm.data.formats.{where}")
    for where in (
        "chats:SHAREGPT",
        "chats:MESSAGES",
        "alpaca:ALPACA",
        "multiple_choice:MULTIPLE_CHOICE",
        "pairs:PROMPT_RESPONSE",
        "text:TEXT",
    )
)
"""In the order in which they are tried."""

if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = Literal[*(form.name for form in FORMATS)]

CATEGORY = "category"
_ALIKE = 0.8  # difflib's measure: one letter of five


def recognise(rows: Sequence[Any], name: str) -> Format:
    """The format that most of `rows` (the first ones of a source called `name`) have; the more specific one of two.

    Raises `DataError`, listing what is there and what would be understood, if none of them has any.
    """
    objects = [row for row in rows if isinstance(row, Mapping)]
    own = [next((form for form in FORMATS if form.fits(row)), None) for row in objects]  # the most specific one
    fitting = {form: own.count(form) for form in FORMATS}
    best = max(FORMATS, key=lambda form: fitting[form])  # max keeps the first of equals
    if not fitting[best]:
        known = "; ".join(f"{form.name}: {form.fields}" for form in FORMATS)
        raise DataError(
            f"the format of {name} is not known: its rows {_described(rows, objects)}. Known formats are {known}. "
            "Say which of your columns holds what, as in --map instruction=question,output=reply (in a study "
            "map: {instruction: question, output: reply}); values must be text."
        )
    return best


def _described(rows: Sequence[Any], objects: Sequence[Mapping[str, Any]]) -> str:
    """What rows of no known format are: `have answer (text or null), b (a whole number)`, or no columns at all."""
    if objects:
        kinds: dict[str, list[str]] = {}
        for row in objects:
            for column, value in row.items():
                seen, kind = kinds.setdefault(str(column), []), kind_of(value)
                if kind not in seen:
                    seen.append(kind)
        known = {column for form in FORMATS for column in _fields(form)}
        columns = sorted(kinds, key=lambda column: (column not in known, column))  # what is meant, first
        return "have " + shorten(", ".join(f"{column} ({' or '.join(kinds[column])})" for column in columns), 400)
    first = rows[0]
    begins = f" that begins with {kind_of(first[0])}" if isinstance(first, list) and first else ""
    return f"have no named columns: the first is {kind_of(first)}{begins}"


def _fields(form: Format) -> list[str]:
    return re.findall(r"`(\w+)`", form.fields)


@lru_cache(maxsize=256)
def _misspelt(form: Format, columns: tuple[str, ...]) -> str:
    """Which of a row's `columns` looks like a field that it lacks, as in ` (ouput for output?)`."""
    fields = _fields(form)
    lacking = [field for field in fields if field not in columns]
    for column in columns:
        if column not in fields and (like := difflib.get_close_matches(column[:40], lacking, n=1, cutoff=_ALIKE)):
            return f" ({column[:40]} for {like[0]}?)"
    return ""


def left_out(form: Format, rows: Iterable[Any]) -> tuple[str, ...]:
    """Columns of `rows` with something in them that is not taken from the row that has it."""
    found: set[str] = set()
    for row in rows:
        if isinstance(row, Mapping):
            taken = form.columns(row)
            found |= {
                str(column) for column, value in row.items()
                if column not in taken and column != CATEGORY and not is_blank(value)
            }  # fmt: skip
    return tuple(sorted(found))


def convert(form: Format, row: Any, source: str, number: int) -> Conversation | str:
    """Row `number` of `source` as a conversation, or the reason why it cannot be one.

    Where formats are of one kin, each row is read by the one that it has.
    """
    if not isinstance(row, Mapping):
        return "not an object"
    if not form.has(row):
        kin = [other for other in FORMATS if form.kin and other.kin == form.kin and other.has(row)]
        if not kin:
            return form.amiss(row) or f"not in {form.label} form{_misspelt(form, tuple(map(str, row)))}"
        form = kin[0]
    try:
        conversation = form.convert(row, source, number)
    except Unusable as reason:
        return str(reason)
    category = row.get(CATEGORY)
    if isinstance(conversation, str) or not isinstance(category, str) or not category.strip():
        return conversation
    return replace(conversation, category=category.strip())
