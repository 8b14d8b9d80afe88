"""The pass over a text: healthy stretches by the batch, the rest record by record, every byte accounted for.

A batch is cut where records are seen to meet and handed to orjson whole; if it parses, every record in it is healthy,
for a cut in a wrong place leaves brackets or quotes open. What does not parse is quartered a few times and then walked.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import orjson

from unnorm.data.repair import broken, drain, outermost
from unnorm.data.repair.between import Between
from unnorm.data.repair.damage import Account, Damage, Event, Kept, Rejected
from unnorm.data.repair.grammar import WS, Walk
from unnorm.data.repair.gzip_members import AFTER, CORRUPT, CUT
from unnorm.data.repair.knowledge import Knowledge
from unnorm.data.repair.stream import Stream, Window

_BATCH = 128 << 10  # bytes; orjson is fastest while what it makes stays in the cache
_SMALLEST = 2 << 10
_FUTILE = 16  # long walks without an end, one after the other, that are made before no more are
_HEAD = re.compile(rb"(\{" + WS + rb'"(?:[^"\\]|\\.)*+")' + WS + rb":(" + WS + rb")", re.DOTALL)
_KEY = re.compile(rb'"((?:[^"\\]|\\.)*+)"\s*:', re.DOTALL)
_STRAY = re.compile(rb'.[^{"\n]*+', re.DOTALL)

_split = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Repair:
    """One repair of a stream: iterate over `events` once, then read `account` and `knowledge`.

    max_record: bytes; a longer record is rejected unread. expects: `lines` or `array`, where the file's name says so.
    keep_unverified: whether records whose checksum fails are kept, each with its mark in the report.
    """

    def __init__(self, stream: Stream, max_record: int, expects: str = "", *, keep_unverified: bool = False) -> None:
        self.account = Account()
        self.knowledge = Knowledge()
        self.record_starts = 0
        self._stream = stream
        self._window = Window(stream)
        self._max_record = max_record
        self._keep_unverified = keep_unverified
        self._between = Between(expects)
        self._at = 0
        self._gap = b""
        self._gap_is_clean = True
        self._fence = b""
        self._fence_with_comma = b""
        self._gap_length = 0
        self._largest = min(_BATCH, max_record)  # of a batch, so that no record in it is over the limit
        self._size = self._largest
        self._futile = 0
        self._doubtful = ""  # why what comes next may be a part of what was broken before it

    def events(self) -> Iterator[Event]:
        """Records, damages and rejected bytes in the order of the text; a record's own damages follow it."""
        for event in self._events():
            if isinstance(event, Kept):
                self.account.records += event.count
            elif isinstance(event, Damage):
                self.account.count(event)
            yield event

    def _events(self) -> Iterator[Event]:
        window = self._window
        while True:
            window.drop(self._at)
            self._at = 0
            window.ensure(2 * _BATCH)
            if not window.text:
                break
            yield from self._stretch()
        self.account.bytes_in = self._stream.given
        yield from self._between.end(window.base)
        self.account.unread = any(note.kind in (CORRUPT, CUT, AFTER) for note in self._stream.notes)
        yield from self._stream.notes

    def _stretch(self) -> Iterator[Event]:
        """What is held, as long as there is enough of it for a batch."""
        window = self._window
        while self._at < len(window.text) and (window.whole or len(window.text) - self._at >= _BATCH):
            end, damages = self._between.skip(window.text, self._at, window.base)
            yield from damages
            self.account.separators += end - self._at
            self._gap = (self._gap + window.text[self._at : end])[-256:]
            self._gap_is_clean = self._gap_is_clean and not damages
            self._at = end
            if end == len(window.text):
                return
            mark = window.text[end]
            if mark == 0x7B:
                self.record_starts += 1
                wrong = self._between.record(self._gap, window.base + end)
                yield from wrong
                self._gap_is_clean = self._gap_is_clean and not wrong
                self._doubtful = self._doubtful or ("wrong gap" if wrong else "")
                batch = None if self._doubtful else self._batch()
                if batch:
                    yield batch
                else:
                    yield from self._one()
            elif mark == 0x22:
                yield from self._quoted()
            else:
                yield from self._stray()

    # The healthy path.

    def _batch(self) -> Kept | None:
        """The records from here to the last place within reach where two of them meet; None if not all are healthy."""
        while self._fence and self._size >= _SMALLEST:
            text, at = self._window.text, self._at
            cut = text.rfind(self._fence, at, at + self._size) + 1
            if cut <= 0 or self._stream.doubts.failed(self._window.base + at, self._window.base + cut):
                break
            kept = self.account.kept
            batch = self._read_batch(text[at:cut])
            if batch:
                doubtful = self._stream.doubts.count(self._window.base + at, self._window.base + cut)
                self.account.unverified += min(doubtful, self.account.kept - kept)
                self._at = cut
                self._size = min(4 * self._size, self._largest)
                self._gap, self._gap_is_clean = b"", True
                return batch
            self._size = (cut - at) // 4
        self._size = 4 * _SMALLEST
        return None

    def _read_batch(self, raw: bytes) -> Kept | None:
        meetings = raw.count(self._fence)
        joined = raw if not self._fence_with_comma else raw.replace(self._fence, self._fence_with_comma)
        text = b"[" + joined + b"]"
        try:
            records = orjson.loads(text)
            compact = msgspec.json.format(text, indent=-1)
        except (orjson.JSONDecodeError, msgspec.DecodeError, RecursionError):
            return None
        if set(map(type, records)) != {dict}:
            return None
        gaps = meetings * self._gap_length
        if len(records) != meetings + 1:
            if self._fence_with_comma:
                return None  # a comma was put where none belongs
            gaps = len(raw) - sum(len(memoryview(record)) for record in _split(text))
        self.account.kept += len(raw) - gaps
        self.account.separators += gaps
        self._between.passed(len(records) - 1)
        self.knowledge.learn(records)
        return Kept(b"\n".join(_split(compact)) + b"\n", len(records))

    def _learn_fence(self, start: int) -> None:
        """The record at `start` met the one before it as it should: look for more such places."""
        head = _HEAD.match(self._window.text, start)
        if not head or not self._gap or not self._gap_is_clean:
            return
        commas = self._gap.count(b",")
        if commas != self._between.in_array or b"[" in self._gap or b"]" in self._gap:
            return
        self._fence = b"}" + self._gap + head[1]
        self._fence_with_comma = b"" if commas else b"}," + self._gap + head[1]
        self._gap_length = len(self._gap)
        self.knowledge.learn_gap(self._gap, len(head[2]))

    # Record by record.

    def _one(self) -> Iterator[Event]:
        window, walk = self._window, Walk(self._at)
        head = self.knowledge.record_head
        while walk.go(window.text, head) == "open" and not window.whole:
            if len(window.text) - self._at > self._max_record:
                yield from self._over_the_limit(drain.until_closed)
                return
            window.ensure(2 * len(window.text))
        if walk.state == "broken" and self._futile < _FUTILE and head and head.match(window.text, walk.position):
            # Records may hold objects that begin as they do: then all brackets close, and soon.
            window.ensure(self._at + outermost.REACH)
            walk = Walk(self._at)
            walk.go(window.text[: self._at + outermost.REACH])
            self._futile = 0 if walk.state == "ended" else self._futile + 1
        if walk.state != "ended":
            yield from self._broken(None)
            return
        raw = window.text[self._at : walk.position]
        if len(raw) > self._max_record:
            yield from self._reject(walk.position, drain.KIND)
            return
        try:
            record = orjson.loads(raw)
            compact = msgspec.json.format(raw, indent=-1)
        except (orjson.JSONDecodeError, msgspec.DecodeError, RecursionError):
            yield from self._broken(walk.position)
            return
        if fault := self._distrusted(walk.position):
            yield from self._reject(walk.position, fault, sure_of_end=True)
            return
        if self._doubtful and not self._stands_as_a_record(record):
            yield from self._reject(walk.position, "unlike other records")
            return
        self._doubtful = ""
        self._learn_fence(self._at)
        self.knowledge.learn([record])
        self.account.kept += len(raw)
        marks = self._marks(walk.position)
        self._move_to(walk.position)
        yield Kept(compact + b"\n", 1)
        yield from marks

    def _stands_as_a_record(self, record: dict[str, Any]) -> bool:
        """Whether a healthy object that follows damage is a record, and not a part of what was damaged."""
        knowledge, key = self.knowledge, next(iter(record), "")
        if knowledge.is_inner(key) and not (knowledge.seen and knowledge.is_head(key)):
            return False
        if self._doubtful == "wrong gap" or knowledge.is_anchored(self._window.text, self._at):
            return True
        if knowledge.trusts(record, cut=False):
            return True
        return b"," in self._gap and knowledge.is_head(key) and not knowledge.is_inner(key)

    def _broken(self, end: int | None, *, opened: bool = True) -> Iterator[Event]:
        """The record at hand is damaged; it ends at `end`, if that is known."""
        found = broken.read(self._window, self._at, end, self.knowledge, self._max_record, opened=opened)
        if isinstance(found, broken.Found):
            if fault := self._distrusted(found.end):
                yield from self._reject(found.end, fault, sure_of_end=True)
                return
            if self._doubtful and found.value is not None and not self._stands_as_a_record(found.value):
                yield from self._reject(found.end, "unlike other records")
                return
            self._doubtful = ""
            if not self._gap_is_clean:
                self._fence = b""
            if found.value is not None and found.teaches:
                self.knowledge.learn([found.value])
            elif found.value is not None:
                self.knowledge.count([found.value])
            yield from self._keep(found)
        elif found.over_the_limit:
            yield from self._over_the_limit(drain.until_next)
        else:
            yield from self._reject(found.end, found.kind)

    def _keep(self, found: "broken.Found") -> Iterator[Event]:
        base, line = self._window.base, self.account.records
        text = self._window.text
        lost = 0
        damages = []
        for note in found.notes:
            raw = text[note.offset : note.offset + note.length] if note.action in ("removed", "replaced") else b""
            lost += len(raw)
            damages.append(Damage(base + note.offset, note.length, note.kind, note.action, line, raw))
        self.account.kept += found.end - self._at - lost
        self.account.mended_records += not found.healthy
        damages += self._marks(found.end)
        self._move_to(found.end)
        yield Kept(found.record + b"\n", 1)
        yield from damages

    def _distrusted(self, end: int) -> str:
        """Why what stands from here to `end` must not be kept, sound as it may look; nothing, if it may be."""
        base = self._window.base
        return "" if self._keep_unverified else self._stream.doubts.failed(base + self._at, base + end)

    def _marks(self, end: int) -> list[Damage]:
        """What the report says of the record from here to `end`, which is kept, if no checksum speaks for it."""
        begin, end = self._window.base + self._at, self._window.base + end
        self.account.unverified += self._stream.doubts.count(begin, end)
        fault = self._stream.doubts.failed(begin, end)
        return [Damage(begin, end - begin, fault, "unverified", self.account.records)] if fault else []

    def _reject(self, end: int, kind: str, *, sure_of_end: bool = False) -> Iterator[Event]:
        base, raw = self._window.base + self._at, self._window.text[self._at : end]
        self._move_to(end)
        if not sure_of_end:
            self._doubtful = "given up"
            self._between.give_up()
        yield from drain.pieces(base, kind, raw)
        yield Damage(base, len(raw), kind, "rejected")

    def _over_the_limit(self, pass_on: Callable[[Window, drain.NextStart], Iterator[Rejected]]) -> Iterator[Event]:
        window = self._window
        window.drop(self._at)
        self._move_to(0)
        begin = window.base
        yield from pass_on(window, self.knowledge.next_start)
        self._between.give_up()
        yield Damage(begin, window.base - begin, drain.KIND, "rejected")

    def _move_to(self, position: int) -> None:
        self._at = position
        self._gap, self._gap_is_clean = b"", True

    # What is no record.

    def _quoted(self) -> Iterator[Event]:
        """A string where a record should be: the first key of one that lost its `{`, or a record encoded twice."""
        window, at = self._window, self._at
        while not (match := broken.STRING.match(window.text, at)) and not window.whole:
            if len(window.text) - at > self._max_record:
                break
            window.ensure(2 * len(window.text))
        if self._starts_with_key(at):
            self.record_starts += 1
            yield from self._between.record(self._gap, window.base + at)
            yield from self._broken(None, opened=False)
            return
        inside = broken.decode_twice(match[0]) if match and not _KEY.match(window.text, at) else []
        if not match or not inside:
            yield from self._stray()
            return
        self.record_starts += 1
        yield from self._between.record(self._gap, window.base + at)
        if fault := self._distrusted(match.end()):
            yield from self._reject(match.end(), fault, sure_of_end=True)
            return
        self.knowledge.learn([orjson.loads(record) for record in inside])
        line = self.account.records
        self.account.kept += len(match[0])
        self.account.mended_records += len(inside)
        damages = [Damage(window.base + at, len(match[0]), "encoded twice", "decoded", line), *self._marks(match.end())]
        self._move_to(match.end())
        yield Kept(b"".join(record + b"\n" for record in inside), len(inside))
        yield from damages

    def _stray(self) -> Iterator[Event]:
        """Text that belongs to no record: up to the end of the line, or to where a record may begin."""
        text, end = self._window.text, self._at
        while (match := _STRAY.match(text, end)) is not None:
            end = match.end()
            if text[end : end + 1] != b'"' or self._starts_with_key(end):
                break
        raw = text[self._at : end].rstrip(b" \t\r\n,[]") or text[self._at : self._at + 1]
        kind = "doubled brace" if raw == b"}" else "no record" if _is_scalar(raw) else "stray text"
        yield from self._reject(self._at + len(raw), kind)

    def _starts_with_key(self, at: int) -> bool:
        """Whether the first key of a record stands there, without its `{`."""
        key = _KEY.match(self._window.text, at)
        return key is not None and self.knowledge.is_head(key[1].decode("utf-8", "replace"))


def _is_scalar(raw: bytes) -> bool:
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError:
        return False
    return True
