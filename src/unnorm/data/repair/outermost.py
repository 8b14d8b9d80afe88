"""Which objects in a broken text are records, and which stand inside one, when nothing is known of the file yet.

An object is followed to its neighbours: what stands before the first and after the last of a row of objects tells
whether the row is inside another record.
"""

import re

import orjson

from unnorm.data.repair.grammar import Walk
from unnorm.data.repair.knowledge import Knowledge

_OPENS = re.compile(rb"\{(?=[ \t\r\n]*\")")
_HEAD = re.compile(rb'\{[ \t\r\n]*("(?:[^"\\]|\\.)*+")', re.DOTALL)
_GAP = re.compile(rb"[ \t\r\n]*,?[ \t\r\n]*(?=\{)")
_INSIDE_BEFORE = re.compile(rb"[:\\\w'][ \t\r\n]*\[?[ \t\r\n]*\Z")
_INSIDE_AFTER = re.compile(rb"[ \t\r\n]*(?:\][ \t\r\n]*(?:\}|,[ \t\r\n]*\")|\}|,[ \t\r\n]*\")")
_ROW = 64  # objects followed
_TRIES = 32
REACH = 1 << 20
"""Bytes looked ahead at most."""


def rows(text: bytes, begin: int, knowledge: Knowledge) -> list[list[tuple[int, int]]]:
    """Rows of whole neighbouring objects after `begin` that stand in no other object, as spans; the nearest few.

    Objects that begin as one that does stand in another are left out: their own surroundings may be what is broken.
    """
    found: list[tuple[str, list[tuple[int, int]]]] = []
    inner: set[str] = set()
    tries, at = 0, begin
    while tries < _TRIES and (match := _OPENS.search(text, at, begin + REACH)):
        start = match.start()
        spans = _follow(text, start)
        if not spans:
            tries += 1
            at = start + 1
            continue
        at = end = spans[-1][1]
        first = orjson.loads(text[spans[0][0] : spans[0][1]])
        head = next(iter(first))
        if (len(spans) < _ROW and _INSIDE_AFTER.match(text, end)) or _INSIDE_BEFORE.search(
            text[max(0, start - 64) : start]
        ):
            inner.add(head)
            tries += 1
        elif knowledge.is_inner(head) or not knowledge.trusts(first, cut=False):
            tries += 1
        else:
            found.append((head, spans))
            if sum(len(row) for _, row in found) >= _ROW:
                break
    return [row for head, row in found if head not in inner]


def next_row(text: bytes, begin: int, knowledge: Knowledge) -> int | None:
    """Where the first of such rows starts."""
    found = rows(text, begin, knowledge)
    return found[0][0][0] if found else None


def sniff(text: bytes, begin: int, knowledge: Knowledge) -> None:
    """Learn from the rows ahead; of objects that begin differently, only those that take most room."""
    ahead = [orjson.loads(text[start:end]) for row in rows(text, begin, knowledge) for start, end in row]
    room: dict[str, int] = {}
    for record in ahead:
        if record:
            head = next(iter(record))
            room[head] = room.get(head, 0) + len(orjson.dumps(record))
    if room:
        largest = max(room, key=lambda head: room[head])
        knowledge.learn([record for record in ahead if record and next(iter(record)) == largest], counted=False)


def _follow(text: bytes, start: int) -> list[tuple[int, int]]:
    """Spans of the object at `start` and of whole objects after it that begin alike, one beside the other."""
    spans: list[tuple[int, int]] = []
    first = _HEAD.match(text, start)
    while len(spans) < _ROW:
        walk, head = Walk(start), _HEAD.match(text, start)
        if not first or not head or head[1] != first[1] or walk.go(text) != "ended":
            break
        try:
            orjson.loads(text[start : walk.position])
        except orjson.JSONDecodeError:
            break
        spans.append((start, walk.position))
        gap = _GAP.match(text, walk.position)
        if gap is None:
            break
        start = gap.end()
    return spans
