"""Strings of a broken record, read to where they must have ended: a quote may be missing, doubled, or not escaped.

A string is taken as it stands if what comes after it may come after a string. If not, one slip after the other is
tried, and the first is taken with which what follows makes sense.
"""

import re
from dataclasses import dataclass, field

from unnorm.data.repair import overrun
from unnorm.data.repair.content import Note, clean
from unnorm.data.repair.knowledge import Knowledge


class CannotTellError(Exception):
    """What the record was cannot be told; the message is the kind of damage."""


_SPACE = re.compile(rb"[ \t\r\n]*+")
_JUNK = re.compile(rb"(?:[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xef\xbb\xbf)++")
_TO_QUOTE = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_TO_SINGLE = re.compile(rb"[^'\\]*+(?:\\.[^'\\]*+)*+", re.DOTALL)
_KEY_LIKE = re.compile(rb'"[^"\\\n]{0,64}"?\s*:')

_GAP = rb"(?:[\s\x00-\x1f\x7f]|\xef\xbb\xbf)*+"  # control characters and byte order marks are removed later
AFTER_MEMBER = re.compile(
    _GAP + rb"(?:[}\]]|," + _GAP + rb"(?:[\"',}{]|\Z|[A-Za-z_]\w*\"?\s*:)"
    rb'|"(?:[^"\\]|\\.)*+"\s*:|\{\s*"|\Z)',
    re.DOTALL,
)
AFTER_ITEM = re.compile(_GAP + rb'(?:[}\],]|\Z)|\s+["{\[\-0-9tfn]')
_AFTER_KEY = re.compile(_GAP + rb":")
_KEY_AND_VALUE = re.compile(rb"\s*:\s*[\"'\-0-9{\[tfnNIT]")
_AFTER_SINGLE = re.compile(rb"\s*(?:[,:}\]]|\Z)")
_SURELY_AFTER_MEMBER = re.compile(rb'\s*(?:\}\s*(?:[,}\]]|\Z)|,\s*"[^"\\\n]{1,100}"\s*:)')
_SURELY_AFTER_ITEM = re.compile(rb'\s*(?:\]\s*(?:[,}\]]|\Z)|,\s*")')
_VALUE_FOLLOWS = re.compile(rb'\s*["\-0-9{\[tfn]')


@dataclass
class Strings:
    """Reads `text` from `at` on, up to `limit`, and keeps `notes` of what is wrong."""

    text: bytes
    at: int
    limit: int
    knowledge: Knowledge
    notes: list[Note] = field(default_factory=list)
    python: bool = False  # the record is written as Python would
    colon_gap: int | None = None  # white space between a colon and a string in this record

    def key_string(self) -> bytes:
        text, at = self.text, self.at
        quote = self.closing_quote(at + 1)
        if quote < self.limit and _AFTER_KEY.match(text, quote + 1, self.limit):
            return self._take(at + 1, quote, quote + 1)
        inside = text[at + 1 : quote]
        name, colon, rest = inside.partition(b":")
        if colon and name.strip() and (not rest.strip() or self._is_known(name.rstrip())):
            end = at + 1 + len(name)
            self.note("missing quote", end, 0)
            return self._take(at + 1, end, end)
        doubled = self._doubled_quote(quote, _KEY_AND_VALUE)
        if doubled is not None:
            return doubled
        if quote < self.limit and _VALUE_FOLLOWS.match(text, quote + 1, self.limit) and self._is_known(inside):
            return self._take(at + 1, quote, quote + 1)  # the colon is missing, and _colon says so
        ends = quote >= self.limit or not text[quote + 1 : self.limit].strip()
        raise CannotTellError("truncated record" if ends else "broken key")

    def value_string(self, in_array: bool, stack: bytes) -> bytes:
        """The string at hand; `stack`: the brackets that are open around it."""
        text, at, limit = self.text, self.at, self.limit
        follow, surely = (AFTER_ITEM, _SURELY_AFTER_ITEM) if in_array else (AFTER_MEMBER, _SURELY_AFTER_MEMBER)
        quote = self.closing_quote(at + 1)
        if quote >= limit:
            end = overrun.into_the_end(text, at + 1, limit, stack)
            if end is None:
                raise CannotTellError("truncated record")
        elif text[quote + 1 : quote + 2] != b'"' and follow.match(text, quote + 1, limit):
            return self._take(at + 1, quote, quote + 1)
        else:
            end = overrun.into_next_string(text, at + 1, quote, limit, stack)
        if end is not None:
            self.note("missing quote", end, 0)
            return self._take(at + 1, end, end)
        if in_array and text[at : at + 3] == b'"""':
            raise CannotTellError("broken string")
        if in_array and text[quote + 1 : quote + 2] == b'"':
            other = self.closing_quote(quote + 2)
            if other < limit and AFTER_ITEM.match(text, other + 1, limit):
                return self._take(at + 1, quote, quote + 1)  # another item stands right beside it
        doubled = self._doubled_quote(quote, follow)
        if doubled is not None:
            return doubled
        if follow.match(text, quote + 1, limit):
            return self._take(at + 1, quote, quote + 1)
        inner = quote
        while (inner := self.closing_quote(inner + 1)) < limit:
            if surely.match(text, inner + 1, limit):
                if _KEY_LIKE.search(text, at + 1, inner):
                    break
                self.note("unescaped quote", quote, 1)
                return self._take(at + 1, inner, inner + 1)
        raise CannotTellError("broken string")

    def _doubled_quote(self, quote: int, follow: re.Pattern[bytes]) -> bytes | None:
        """The string at hand if one of its quotes is there twice; the first closing one is at `quote`."""
        text, at, limit = self.text, self.at, self.limit
        if quote == at + 1:
            other = self.closing_quote(quote + 1)
            if other >= limit or not follow.match(text, other + 1, limit):
                return None
            self.remove("doubled quote", 1)
            return self._take(quote + 1, other, other + 1)
        if quote + 1 >= limit or text[quote + 1] != 0x22 or not follow.match(text, quote + 2, limit):
            return None
        content = self._take(at + 1, quote, quote + 1)
        self.remove("doubled quote", 1)
        return content

    def value_without_opening_quote(self, in_array: bool) -> bytes:
        """White space beyond what stands after the colon elsewhere belongs to the text."""
        begin = self.at
        while begin > 0 and self.text[begin - 1] in b" \t":
            begin -= 1
        gap = self.knowledge.colon_gap if self.colon_gap is None else self.colon_gap
        begin = self.at if gap is None else min(self.at, begin + gap)
        quote = self.closing_quote(self.at)
        follow = _SURELY_AFTER_ITEM if in_array else _SURELY_AFTER_MEMBER
        if quote >= self.limit or in_array or not follow.match(self.text, quote + 1, self.limit):
            raise CannotTellError("misplaced mark" if quote < self.limit else "truncated record")
        self.note("missing quote", begin, 0)
        return self._take(begin, quote, quote + 1)

    def python_string(self) -> bytes:
        begin = self.at + 1
        match = _TO_SINGLE.match(self.text, min(begin, self.limit), self.limit)
        assert match
        end = match.end()
        if end >= self.limit or not _AFTER_SINGLE.match(self.text, end + 1, self.limit):
            raise CannotTellError("broken string")
        self.note("single quotes", self.at, end + 1 - self.at)
        self.at = end + 1
        return clean(self.text[begin:end], begin, self.notes, python=True)

    def _is_known(self, key: bytes) -> bool:
        return not self.knowledge.seen or self.knowledge.knows_key(key.decode("utf-8", "replace"))

    def closing_quote(self, begin: int) -> int:
        match = _TO_QUOTE.match(self.text, min(begin, self.limit), self.limit)
        assert match
        end = match.end()
        return end if self.text[end : end + 1] == b'"' and end < self.limit else self.limit

    def _take(self, begin: int, end: int, after: int) -> bytes:
        """The content between `begin` and `end`, cleaned; reading goes on at `after`."""
        self.at = after
        return clean(self.text[begin:end], begin, self.notes, python=self.python)

    def skip(self) -> None:
        """Past white space, and past control characters and byte order marks, which are removed."""
        while True:
            match = _SPACE.match(self.text, self.at, self.limit)
            assert match
            self.at = match.end()
            junk = _JUNK.match(self.text, self.at, self.limit)
            if junk is None:
                return
            kind = "byte order mark" if junk[0].startswith(b"\xef") else "control character"
            self.remove(kind, len(junk[0]))

    def note(self, kind: str, offset: int, length: int, action: str = "mended") -> None:
        self.notes.append(Note(offset, length, kind, action))

    def remove(self, kind: str, length: int) -> None:
        self.note(kind, self.at, length, "removed")
        self.at += length
