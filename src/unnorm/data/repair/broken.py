"""A damaged record: where it ends, what it was, and whether that can be trusted."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import orjson

from unnorm.data.repair import last_resort, outermost
from unnorm.data.repair.content import Note
from unnorm.data.repair.knowledge import Knowledge
from unnorm.data.repair.mend import Mended, Mender
from unnorm.data.repair.stream import Window
from unnorm.data.repair.strings import CannotTellError

STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)

_REACH = 64 << 10  # bytes; how far the next record is looked for at first
_SNIFF = 16  # healthy records that must have been seen, or the text ahead is asked
_TRAILING = re.compile(rb"[\s,]*+(?:\n[ \t]*\][\s,\[\]]*+)?\Z")

_TRUNCATED = "truncated record"
_PYTHON = re.compile(rb"\{\s*'")

_HARMLESS = {
    "lone surrogate",
    "invalid escape",
    "control character in a string",
    "control character",
    "invalid utf-8",
    "byte order mark",
    "not a number",
    "python literal",
    "single quotes",
}
"""Kinds that leave no doubt about which fields a record has."""


@dataclass
class Found:
    """The record, as a line without its newline; `end` in the window's text; `value`: parsed, None if orjson cannot.

    teaches: its keys and types are beyond doubt, so that other records may be judged by it.
    """

    record: bytes
    end: int
    notes: list[Note] = field(default_factory=list)
    value: dict[str, Any] | None = None
    teaches: bool = False

    @property
    def healthy(self) -> bool:
        """Whether nothing was wrong with it after all (numbers too large for orjson, deep nesting)."""
        return not self.notes


@dataclass
class Given:
    """The record is given up: its bytes up to `end` are lost, for the reason `kind`."""

    end: int
    kind: str
    over_the_limit: bool = False


def read(
    window: Window, at: int, end: int | None, knowledge: Knowledge, max_record: int, *, opened: bool
) -> Found | Given:
    """The damaged record at `at`; `end`, where it is known to end; `opened`, whether its `{` is there."""
    if knowledge.seen < _SNIFF and window.base + at >= knowledge.sniffed_to:
        knowledge.sniffed_to = window.base + at + outermost.REACH // 2
        window.ensure(at + outermost.REACH)
        outermost.sniff(window.text, at + 1, knowledge)
    if _PYTHON.match(window.text, at):  # what looks like another record may stand in its strings
        window.ensure(at + _REACH)
        found = _mend(window.text, at, len(window.text), knowledge, opened=opened)
        if isinstance(found, Found):
            return found
    reach = _REACH
    while True:
        window.ensure(at + reach)
        text = window.text
        limit = end if end is not None else _next_start(text, at + 1, min(len(text), at + reach), knowledge)
        bound = limit if limit is not None else min(len(text), at + reach)
        found = _mend(text, at, bound, knowledge, opened=opened)
        sure = limit is not None or (window.whole and bound == len(text))
        if sure or (isinstance(found, Found) and found.end < bound - reach // 4):
            break
        if bound - at > max_record:
            return Given(at, "", over_the_limit=True)
        reach *= 2
    if isinstance(found, Found):
        return found
    nearer = outermost.next_row(text[:bound], at + 1, knowledge) if end is None else None
    if nearer is not None:
        bound = nearer
        found = _mend(text, at, bound, knowledge, opened=opened)
        if isinstance(found, Found):
            return found
    tail = _TRAILING.search(text, max(at + 1, bound - 4096), bound)
    assert tail
    stop = max(at + 1, tail.start())
    record = last_resort.guess(text[at:stop]) if opened and found != _TRUNCATED else None
    if record is not None and knowledge.seen:
        value = orjson.loads(record)
        if knowledge.trusts(value, cut=True):
            return Found(record, stop, [Note(at, stop - at, found, "mended")], value)
    at_the_end = found == _TRUNCATED and window.whole and bound == len(text)
    if text[at:stop] == b"{" and not at_the_end:
        return Given(stop, "doubled brace")
    return Given(stop, "truncated file" if at_the_end else found)


def _next_start(text: bytes, begin: int, end: int, knowledge: Knowledge) -> int | None:
    look: Callable[[bytes, int, int], int | None] = knowledge.next_start
    found = look(text, begin, end)
    if found is None and not knowledge.sure_of_starts:
        return outermost.next_row(text[:end], begin, knowledge)
    return found


def _mend(text: bytes, at: int, limit: int, knowledge: Knowledge, *, opened: bool) -> Found | str:
    """The record, or the kind of damage that leaves it untold."""
    mender = Mender(text, at, limit, knowledge)
    try:
        mended = mender.mend(opened=opened)
    except CannotTellError as error:
        return str(error)
    return _trusted(mended, knowledge)


def _trusted(mended: Mended, knowledge: Knowledge) -> Found | str:
    found = Found(mended.record, mended.end, mended.notes)
    if found.healthy:
        return found
    try:
        record = orjson.loads(mended.record)
    except orjson.JSONDecodeError:
        return "invalid after mending"
    found.value = record
    if {note.kind for note in mended.notes} <= _HARMLESS:
        found.teaches = True
        return found
    if not knowledge.trusts(record, cut=mended.cut):
        return _TRUNCATED if mended.cut else "unlike other records"
    return found


def decode_twice(quoted: bytes) -> list[bytes]:
    """The records in a JSON string that holds a record, or a list of records, as lines; none if it does not."""
    try:
        inside = orjson.loads(quoted).encode()
        content = orjson.loads(inside)
        compact = msgspec.json.format(inside, indent=-1)
        if isinstance(content, dict):
            return [compact]
        if isinstance(content, list) and content and all(isinstance(item, dict) for item in content):
            return [bytes(item) for item in msgspec.json.decode(compact, type=list[msgspec.Raw])]
    except (orjson.JSONDecodeError, msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        pass
    return []
