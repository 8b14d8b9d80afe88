"""One broken record, read for what it must have been. Where that cannot be told, it says so and does not guess.

Single slips are what it knows: a mark missing, doubled or wrong, a string broken in one place. Several of them in one
record are fine as long as each can be told from its surroundings.
"""

import re
from dataclasses import dataclass, field

import orjson

from unnorm.data.repair import overrun
from unnorm.data.repair.content import Note, clean
from unnorm.data.repair.grammar import NUMBER
from unnorm.data.repair.knowledge import Knowledge


class CannotTellError(Exception):
    """What the record was cannot be told; the message is the kind of damage."""


@dataclass
class Mended:
    """`record`: its text without white space; `end`: where it ended; `cut`: its own end is missing."""

    record: bytes
    end: int
    notes: list[Note]
    cut: bool


_SPACE = re.compile(rb"[ \t\r\n]*+")
_JUNK = re.compile(rb"(?:[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xef\xbb\xbf)++")
_TO_QUOTE = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_TO_SINGLE = re.compile(rb"[^'\\]*+(?:\\.[^'\\]*+)*+", re.DOTALL)
_ATOM_ENDS = rb"(?=[\s,}\]:\x00]|\Z)"
_ATOM = re.compile(rb"(?:" + NUMBER + rb"|true|false|null)" + _ATOM_ENDS)
_PYTHON = re.compile(rb"(None|True|False)" + _ATOM_ENDS)
_NOT_FINITE = re.compile(rb"(?:-?Infinity|-?inf|NaN|nan)" + _ATOM_ENDS)
_PYTHON_AS_JSON = {b"None": b"null", b"True": b"true", b"False": b"false"}
_BARE_KEY = re.compile(rb'([A-Za-z_][^"\\\n:,{}\[\]\']*)("?)\s*:')
_KEY = re.compile(rb'\s*"(?:[^"\\]|\\.)*+"\s*:', re.DOTALL)
_KEY_LIKE = re.compile(rb'"[^"\\\n]{0,64}"?\s*:')
_GARBAGE = re.compile(rb'[^\s"\'{}\[\],:]{1,8}(?=[\s,}\]])')
_GAP_TO_END = re.compile(rb"[\s,\[\]]*\Z")
_GOES_ON = re.compile(rb'\s*,\s*(["{])')
_ENDS_HERE = re.compile(rb"\s*(?:\Z|[\[{])")

_AFTER_KEY = re.compile(rb"\s*:")
_VALUE_FOLLOWS = re.compile(rb'\s*["\-0-9{\[tfn]')
_AFTER_MEMBER = re.compile(
    rb'\s*(?:[}\]]|,\s*(?:["\',}]|\Z|[A-Za-z_]\w*"?\s*:|\{)|"(?:[^"\\]|\\.)*+"\s*:|\{\s*"|\Z)', re.DOTALL
)
_AFTER_ITEM = re.compile(rb'\s*(?:[}\],]|\Z)|\s+["{\[]')
_SURELY_AFTER_MEMBER = re.compile(rb'\s*(?:\}\s*(?:[,}\]]|\Z)|,\s*"[^"\\\n]{1,100}"\s*:)')
_SURELY_AFTER_ITEM = re.compile(rb'\s*(?:\]\s*(?:[,}\]]|\Z)|,\s*")')

_OBJECT, _ARRAY = 0x7B, 0x5B
_CLOSER = {_OBJECT: b"}", _ARRAY: b"]"}
_OPENER = {0x7D: _OBJECT, 0x5D: _ARRAY}


@dataclass
class _Frame:
    opener: int
    expected: str  # `first` or `next` (a key or an item), `value`, `after`
    path: str  # of the object or array
    count: int = 0
    value_path: str = ""  # of the value of the last key, or of an array's items


@dataclass
class Mender:
    """Reads the record of `text` at `at`; nothing beyond `limit` belongs to it. Use once: `mend()`."""

    text: bytes
    at: int
    limit: int
    knowledge: Knowledge
    notes: list[Note] = field(default_factory=list)
    _out: list[bytes] = field(default_factory=list)
    _stack: list[_Frame] = field(default_factory=list)
    _cut: bool = False
    _first_key: bytes | None = None
    _colon_gap: int = 0
    _last_comma: int = 0

    def mend(self, *, opened: bool = True) -> Mended:
        """The record; `opened`: its `{` is there. Raises `CannotTellError`."""
        if opened:
            self.at += 1
        else:
            self._note("missing brace", self.at, 0)
        self._push(_OBJECT)
        while self._stack:
            frame = self._stack[-1]
            self._skip()
            mark = self.text[self.at] if self.at < self.limit else -1
            if frame.expected == "after":
                self._after(frame, mark)
            elif frame.opener == _OBJECT and frame.expected != "value":
                self._key(frame, mark)
            else:
                self._value(frame, mark)
        return Mended(b"".join(self._out), self.at, self.notes, self._cut)

    # What may come after a value: a comma, or a bracket that closes.

    def _after(self, frame: _Frame, mark: int) -> None:
        if mark == 0x2C:
            self._last_comma = self.at
            self.at += 1
            frame.expected = "next"
        elif mark in _OPENER:
            self._close(frame, mark)
        elif mark == -1:
            self._end_here()
        elif mark == 0x22 and frame.opener == _OBJECT:
            if not _KEY.match(self.text, self.at, self.limit):
                raise CannotTellError("broken string")
            if len(self._stack) == 1 and frame.count > 1 and self._first_key == self._peek_key():
                self._note("fused records", self.at, 0)
                self._end_here()
            else:
                self._note("missing comma", self.at, 0)
                frame.expected = "next"
        elif mark == _OBJECT and frame.opener == _OBJECT:
            self._object_in_object()
        elif mark in (0x22, _OBJECT, _ARRAY) and frame.opener == _ARRAY:
            self._note("missing comma", self.at, 0)
            frame.expected = "next"
        elif garbage := _GARBAGE.match(self.text, self.at, self.limit):
            self._remove("garbage", len(garbage[0]))
        else:
            raise CannotTellError("misplaced mark")

    def _close(self, frame: _Frame, mark: int) -> None:
        if _OPENER[mark] == frame.opener:
            self.at += 1
            self._pop()
        elif any(other.opener == _OPENER[mark] for other in self._stack) and not self._is_doubled(mark):
            self._note("missing bracket" if frame.opener == _ARRAY else "missing brace", self.at, 0)
            self._pop()
        elif len(self._stack) == 1 and _ENDS_HERE.match(self.text, self.at + 1, self.limit):
            self._end_here()  # the bracket closes the array of records
        else:
            self._remove("doubled brace" if mark == 0x7D else "doubled bracket", 1)

    def _is_doubled(self, mark: int) -> bool:
        """Whether the bracket repeats the one before it and, left out, lets the rest go on as it should."""
        if self._out[-1][-1] != mark:
            return False
        if mark == 0x7D and len(self._stack) == 2 and self._stack[-1].opener == _ARRAY:
            return not _GAP_TO_END.match(self.text, self.at + 1, self.limit)
        following = _GOES_ON.match(self.text, self.at + 1, self.limit)
        return following is not None and (following[1] == b"{") == (self._stack[-1].opener == _ARRAY)

    def _object_in_object(self) -> None:
        """A `{` where a key should be: a `}` is missing in front of it."""
        if len(self._stack) == 1:
            self._end_here()
        elif self._stack[-2].opener == _ARRAY:
            self._note("missing brace", self.at, 0)
            self._pop()
        else:
            raise CannotTellError("misplaced mark")

    def _end_here(self) -> None:
        """The record ends without its closing bracket. One that may have been longer is not told from its start."""
        if len(self._stack) > 1 or self.text[self.at - 1 : self.at].isdigit():
            raise CannotTellError("truncated record")
        if self._stack[0].expected == "next":
            self.at = self._last_comma  # it stands between this record and the next
        if not any(note.kind == "fused records" for note in self.notes):
            self._note("missing brace", self.at, 0)
        self._cut = True
        self._pop()

    # A key and its colon.

    def _key(self, frame: _Frame, mark: int) -> None:
        text, at = self.text, self.at
        if mark == 0x7D:
            if frame.expected == "next":
                self._note_comma("trailing comma")
            self.at += 1
            self._pop()
        elif mark == 0x5D and frame.expected == "next":
            self._note_comma("trailing comma")
            frame.expected = "after"
        elif mark == 0x2C:
            self._remove("doubled comma", 1)
        elif mark == _OBJECT and frame.expected == "first":
            self._remove("doubled brace", 1)
        elif mark == _OBJECT:
            self._object_in_object()
        elif mark == 0x27:
            self._emit_key(frame, self._python_string())
            self._colon()
        elif mark == 0x22:
            self._emit_key(frame, self._key_string())
            self._colon()
        elif mark == -1 and frame.expected == "next":
            self._end_here()
        elif mark == -1:
            raise CannotTellError("truncated record")
        elif bare := _BARE_KEY.match(text, at, self.limit):
            name = bare[1] if bare[2] else bare[1].rstrip()
            self._note("missing quote" if bare[2] else "unquoted key", at, 0 if bare[2] else len(name))
            self.at = bare.end(2)
            self._emit_key(frame, clean(name, at, self.notes))
            self._colon()
        else:
            raise CannotTellError("missing key" if mark == 0x3A else "misplaced mark")

    def _key_string(self) -> bytes:
        text, at = self.text, self.at
        quote = self._closing_quote(at + 1)
        if quote < self.limit and _AFTER_KEY.match(text, quote + 1, self.limit):
            return self._take(at + 1, quote, quote + 1)
        inside = text[at + 1 : quote]
        name, colon, rest = inside.partition(b":")
        if colon and name.strip() and (not rest.strip() or self._is_known(name.rstrip())):
            end = at + 1 + len(name)
            self._note("missing quote", end, 0)
            return self._take(at + 1, end, end)
        doubled = self._doubled_quote(quote, _AFTER_KEY)
        if doubled is not None:
            return doubled
        if quote < self.limit and _VALUE_FOLLOWS.match(text, quote + 1, self.limit) and self._is_known(inside):
            return self._take(at + 1, quote, quote + 1)  # the colon is missing, and _colon says so
        raise CannotTellError("broken key" if quote < self.limit else "truncated record")

    def _is_known(self, key: bytes) -> bool:
        return not self.knowledge.seen or self.knowledge.knows_key(key.decode("utf-8", "replace"))

    def _peek_key(self) -> bytes:
        return self.text[self.at + 1 : self._closing_quote(self.at + 1)]

    def _emit_key(self, frame: _Frame, name: bytes) -> None:
        if len(self._stack) == 1 and not frame.count:
            self._first_key = name
        self._comma(frame)
        self._out.append(b'"' + name + b'":')
        frame.value_path = frame.path + "." + orjson.loads(b'"' + name + b'"')
        frame.expected = "value"

    def _colon(self) -> None:
        self._skip()
        if self.text[self.at : self.at + 1] == b":" and self.at < self.limit:
            self.at += 1
            begin = self.at
            self._skip()
            while self.text[self.at : self.at + 1] == b":" and self.at < self.limit:
                self._remove("doubled colon", 1)
                begin = self.at
                self._skip()
            gap = self.at - begin
            if self.text[self.at : self.at + 1] == b'"':
                self._colon_gap = gap
        else:
            self._note("missing colon", self.at, 0)

    # A value: of a key, or an item of an array.

    def _value(self, frame: _Frame, mark: int) -> None:
        text, at = self.text, self.at
        in_array = frame.opener == _ARRAY
        atom = _ATOM.match(text, at, self.limit)
        if self._bracket_is_amiss(frame, mark):
            return
        if mark == 0x22:
            self._emit(frame, b'"' + self._value_string(in_array) + b'"')
        elif mark in (_OBJECT, _ARRAY):
            if in_array:
                self._comma(frame)
            frame.expected = "after"
            self.at += 1
            self._push(mark)
        elif mark == 0x2C and in_array:
            self._remove("doubled comma", 1)
        elif mark in _OPENER and in_array:
            if frame.expected == "next":
                self._note_comma("trailing comma")
            frame.expected = "after"
        elif mark == 0x27:
            self._emit(frame, b'"' + self._python_string() + b'"')
        elif atom and (_AFTER_ITEM if in_array else _AFTER_MEMBER).match(text, atom.end(), self.limit):
            self.at = atom.end()
            self._emit(frame, atom[0])
        elif python := _PYTHON.match(text, at, self.limit):
            self._note("python literal", at, len(python[0]))
            self.at = python.end()
            self._emit(frame, _PYTHON_AS_JSON[python[1]])
        elif other := _NOT_FINITE.match(text, at, self.limit):
            self._note("not a number", at, len(other[0]), "replaced")
            self.at = other.end()
            self._emit(frame, b"null")
        elif mark == -1:
            raise CannotTellError("truncated record")
        elif mark in b",:}]":
            raise CannotTellError("missing value")
        else:
            self._emit(frame, b'"' + self._value_without_opening_quote(in_array) + b'"')

    def _bracket_is_amiss(self, frame: _Frame, mark: int) -> bool:
        """Put right a bracket that is missing or doubled here, as far as other records tell what stands here."""
        in_array, path = frame.opener == _ARRAY, frame.value_path
        types = self.knowledge.types_at(path)
        if mark == 0x22 and _KEY.match(self.text, self.at, self.limit):
            key = self._peek_key().decode("utf-8", "replace")
            if types == {dict} and self.knowledge.types_at(f"{path}.{key}"):
                self._open(frame, _OBJECT, "missing brace")
                return True
            if in_array and len(self._stack) > 1 and self.knowledge.types_at(f"{self._stack[-2].path}.{key}"):
                self._note("missing bracket", self.at, 0)
                self._pop()
                self._stack[-1].expected = "next"
                return True
        if not in_array and types == {list} and mark in b'{"':
            self._open(frame, _ARRAY, "missing bracket")
            return True
        if in_array and mark == _ARRAY and frame.expected == "first" and types and list not in types:
            self._remove("doubled bracket", 1)
            return True
        return False

    def _open(self, frame: _Frame, opener: int, kind: str) -> None:
        self._note(kind, self.at, 0)
        if frame.opener == _ARRAY:
            self._comma(frame)
        frame.expected = "after"
        self._push(opener)

    def _value_string(self, in_array: bool) -> bytes:
        text, at, limit = self.text, self.at, self.limit
        follow, surely = (
            (_AFTER_ITEM, _SURELY_AFTER_ITEM) if in_array else (_AFTER_MEMBER, _SURELY_AFTER_MEMBER)
        )
        quote = self._closing_quote(at + 1)
        stack = bytes(frame.opener for frame in self._stack)
        if quote >= limit:
            end = overrun.into_the_end(text, at + 1, limit, stack)
            if end is None:
                raise CannotTellError("truncated record")
        elif text[quote + 1 : quote + 2] != b'"' and follow.match(text, quote + 1, limit):
            return self._take(at + 1, quote, quote + 1)
        else:
            end = overrun.into_next_string(text, at + 1, quote, limit, stack)
        if end is not None:
            self._note("missing quote", end, 0)
            return self._take(at + 1, end, end)
        if in_array and text[quote + 1 : quote + 2] == b'"' and quote > at + 1:
            other = self._closing_quote(quote + 2)
            if other < limit and _AFTER_ITEM.match(text, other + 1, limit):
                return self._take(at + 1, quote, quote + 1)  # another item stands right beside it
        doubled = self._doubled_quote(quote, follow)
        if doubled is not None:
            return doubled
        if follow.match(text, quote + 1, limit):
            return self._take(at + 1, quote, quote + 1)
        inner = quote
        while (inner := self._closing_quote(inner + 1)) < limit:
            if surely.match(text, inner + 1, limit):
                if _KEY_LIKE.search(text, at + 1, inner):
                    break
                self._note("unescaped quote", quote, 1)
                return self._take(at + 1, inner, inner + 1)
        raise CannotTellError("broken string")

    def _doubled_quote(self, quote: int, follow: re.Pattern[bytes]) -> bytes | None:
        """The string at hand if one of its quotes is there twice; the first closing one is at `quote`."""
        text, at, limit = self.text, self.at, self.limit
        if quote == at + 1:
            other = self._closing_quote(quote + 1)
            if other >= limit or not follow.match(text, other + 1, limit):
                return None
            self._remove("doubled quote", 1)
            return self._take(quote + 1, other, other + 1)
        if quote + 1 >= limit or text[quote + 1] != 0x22 or not follow.match(text, quote + 2, limit):
            return None
        content = self._take(at + 1, quote, quote + 1)
        self._remove("doubled quote", 1)
        return content

    def _value_without_opening_quote(self, in_array: bool) -> bytes:
        """White space beyond what stands after the colon elsewhere belongs to the text."""
        begin = self.at
        while begin > 0 and self.text[begin - 1] in b" \t":
            begin -= 1
        begin = min(self.at, begin + self._colon_gap)
        quote = self._closing_quote(self.at)
        follow = _SURELY_AFTER_ITEM if in_array else _SURELY_AFTER_MEMBER
        if quote >= self.limit or in_array or not follow.match(self.text, quote + 1, self.limit):
            raise CannotTellError("misplaced mark" if quote < self.limit else "truncated record")
        self._note("missing quote", begin, 0)
        return self._take(begin, quote, quote + 1)

    def _python_string(self) -> bytes:
        begin = self.at + 1
        match = _TO_SINGLE.match(self.text, begin, self.limit)
        assert match
        end = match.end()
        if end >= self.limit or not re.compile(rb"\s*(?:[,:}\]]|\Z)").match(self.text, end + 1, self.limit):
            raise CannotTellError("broken string")
        self._note("single quotes", self.at, end + 1 - self.at)
        self.at = end + 1
        return clean(self.text[begin:end], begin, self.notes, python=True)

    # Small steps.

    def _take(self, begin: int, end: int, after: int) -> bytes:
        """The content between `begin` and `end`, cleaned; reading goes on at `after`."""
        self.at = after
        return clean(self.text[begin:end], begin, self.notes)

    def _closing_quote(self, begin: int) -> int:
        match = _TO_QUOTE.match(self.text, begin, self.limit)
        assert match
        end = match.end()
        return end if self.text[end : end + 1] == b'"' and end < self.limit else self.limit

    def _skip(self) -> None:
        """Past white space, and past control characters and byte order marks, which are removed."""
        while True:
            match = _SPACE.match(self.text, self.at, self.limit)
            assert match
            self.at = match.end()
            junk = _JUNK.match(self.text, self.at, self.limit)
            if junk is None:
                return
            kind = "byte order mark" if junk[0].startswith(b"\xef") else "control character"
            self._remove(kind, len(junk[0]))

    def _comma(self, frame: _Frame) -> None:
        if frame.count:
            self._out.append(b",")
        frame.count += 1

    def _emit(self, frame: _Frame, value: bytes) -> None:
        if frame.opener == _ARRAY:
            self._comma(frame)
        self._out.append(value)
        frame.expected = "after"

    def _push(self, opener: int) -> None:
        path = self._stack[-1].value_path if self._stack else ""
        self._out.append(bytes((opener,)))
        self._stack.append(_Frame(opener, "first", path, value_path=path + "[]"))

    def _pop(self) -> None:
        self._out.append(_CLOSER[self._stack.pop().opener])

    def _note(self, kind: str, offset: int, length: int, action: str = "mended") -> None:
        self.notes.append(Note(offset, length, kind, action))

    def _note_comma(self, kind: str) -> None:
        """The last comma turned out to be one too many."""
        self._note(kind, self._last_comma, 1, "removed")

    def _remove(self, kind: str, length: int) -> None:
        self._note(kind, self.at, length, "removed")
        self.at += length
