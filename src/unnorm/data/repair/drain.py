"""A record larger than the limit: passed on in pieces, never held, until it ends."""

import re
from collections.abc import Callable, Iterator

from unnorm.data.repair.damage import Rejected
from unnorm.data.repair.stream import Window

KIND = "record over the limit"
_PIECE = 1 << 20
_OVERLAP = 1 << 14  # a record's beginning may lie across the end of what is held

_OUTSIDE = re.compile(rb'[^"{}\[\]]*+(["{}\[\]])')
_INSIDE = re.compile(rb'[^"\\\x00-\x1f]*+(?:\\[^\x00-\x1f][^"\\\x00-\x1f]*+)*+')
NextStart = Callable[[bytes, int], int | None]


def until_closed(window: Window, next_start: NextStart) -> Iterator[Rejected]:
    """Pass on the record at the start of `window`, in order so far, up to its last bracket.

    A control character in a string says that it is not in order after all; then it goes on to the next record.
    """
    depth, inside, at = 0, False, 0
    while True:
        text = window.text
        while at < len(text):
            if inside:
                match = _INSIDE.match(text, at)
                assert match
                at = match.end()
                if text[at : at + 1] < b" " and at < len(text):
                    yield from _pass_on(window, at)
                    yield from until_next(window, next_start)
                    return
                if text[at : at + 1] != b'"':
                    break  # the text ends, or its last byte is a backslash whose fellow is not there yet
                inside, at = False, at + 1
                continue
            mark = _OUTSIDE.match(text, at)
            if mark is None:
                at = len(text)
                break
            at = mark.end()
            if mark[1] == b'"':
                inside = True
            elif mark[1] in b"{[":
                depth += 1
            else:
                depth -= 1
                if depth == 0:
                    yield from _pass_on(window, at)
                    return
        if window.whole:
            yield from _pass_on(window, len(text))
            return
        yield from _pass_on(window, at)
        at = 0
        window.ensure(len(window.text) + _PIECE)


def until_next(window: Window, next_start: NextStart) -> Iterator[Rejected]:
    """Pass on the broken record at the start of `window`, up to where the next one starts."""
    begin = 1
    while True:
        found = next_start(window.text, begin)
        if found is not None or window.whole:
            yield from _pass_on(window, len(window.text) if found is None else found)
            return
        yield from _pass_on(window, max(0, len(window.text) - _OVERLAP))
        begin = 0
        window.ensure(len(window.text) + _PIECE)


def pieces(offset: int, kind: str, raw: bytes) -> Iterator[Rejected]:
    """`raw` as one rejected piece, or as several of a megabyte, none of which ends within a character."""
    at = 0
    while at < len(raw):
        end = min(at + _PIECE, len(raw))
        while end < len(raw) and end > at + _PIECE - 4 and raw[end] & 0xC0 == 0x80:
            end -= 1
        yield Rejected(offset + at, kind, raw[at:end])
        at = end


def _pass_on(window: Window, count: int) -> Iterator[Rejected]:
    base, raw = window.base, window.text[:count]
    window.drop(count)
    yield from pieces(base, KIND, raw)
