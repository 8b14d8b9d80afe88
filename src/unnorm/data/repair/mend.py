"""One broken record, read for what it must have been. Where that cannot be told, it says so and does not guess.

Single slips are what it knows: a mark missing, doubled or wrong, a string broken in one place. Several of them in one
record are fine as long as each can be told from its surroundings.
"""

import re
from dataclasses import dataclass, field

import orjson

from unnorm.data.repair.content import Note, clean
from unnorm.data.repair.grammar import NUMBER
from unnorm.data.repair.strings import AFTER_ITEM, AFTER_MEMBER, CannotTellError, Strings


@dataclass
class Mended:
    """`record`: its text without white space; `end`: where it ended; `cut`: its own end is missing."""

    record: bytes
    end: int
    notes: list[Note]
    cut: bool


_ATOM_ENDS = rb"(?=[\s,}\]:\x00]|\Z)"
_ATOM = re.compile(rb"(?:" + NUMBER + rb"|true|false|null)" + _ATOM_ENDS)
_PYTHON = re.compile(rb"(None|True|False)" + _ATOM_ENDS)
_NOT_FINITE = re.compile(rb"(?:-?Infinity|-?inf|NaN|nan)" + _ATOM_ENDS)
_PYTHON_AS_JSON = {b"None": b"null", b"True": b"true", b"False": b"false"}
_BARE_KEY = re.compile(rb'([A-Za-z_][^"\\\n:,{}\[\]\']*)("?)\s*:')
_KEY = re.compile(rb'\s*"(?:[^"\\]|\\.)*+"\s*:', re.DOTALL)
_GARBAGE = re.compile(rb'[^\s"\'{}\[\],:]{1,8}(?=[\s,}\]])')
_GAP_TO_END = re.compile(rb"[\s,\[\]]*\Z")
_MARK_FOLLOWS = re.compile(rb"\s*[,}\]]")
_GOES_ON = re.compile(rb'\s*,\s*(["{])')
_ENDS_HERE = re.compile(rb"\s*(?:\Z|[\[{])")

_FIRST_IS_SINGLE = re.compile(rb"\s*'")

_DEEP = 32
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
class Mender(Strings):
    """Reads the record of `text` at `at`; nothing beyond `limit` belongs to it. Use once: `mend()`."""

    _out: list[bytes] = field(default_factory=list)
    _stack: list[_Frame] = field(default_factory=list)
    _cut: bool = False
    _first_key: bytes | None = None
    _last_comma: int = 0

    def mend(self, *, opened: bool = True) -> Mended:
        """The record; `opened`: its `{` is there. Raises `CannotTellError`."""
        if opened:
            self.at += 1
            self.python = _FIRST_IS_SINGLE.match(self.text, self.at, self.limit) is not None
        else:
            self.note("missing brace", self.at, 0)
        self._push(_OBJECT)
        while self._stack:
            frame = self._stack[-1]
            self.skip()
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
                self.note("fused records", self.at, 0)
                self._end_here()
            else:
                self.note("missing comma", self.at, 0)
                frame.expected = "next"
        elif mark == _OBJECT and frame.opener == _OBJECT:
            self._object_in_object()
        elif frame.opener == _ARRAY and (
            mark in (0x22, _OBJECT, _ARRAY) or _ATOM.match(self.text, self.at, self.limit)
        ):
            self.note("missing comma", self.at, 0)
            frame.expected = "next"
        elif garbage := _GARBAGE.match(self.text, self.at, self.limit):
            self.remove("garbage", len(garbage[0]))
        else:
            raise CannotTellError("misplaced mark")

    def _close(self, frame: _Frame, mark: int) -> None:
        if _OPENER[mark] == frame.opener:
            self.at += 1
            self._pop()
        elif any(other.opener == _OPENER[mark] for other in self._stack) and not self._is_doubled(mark):
            self.note("missing bracket" if frame.opener == _ARRAY else "missing brace", self.at, 0)
            self._pop()
        elif len(self._stack) == 1 and _ENDS_HERE.match(self.text, self.at + 1, self.limit):
            self._end_here()  # the bracket closes the array of records
        else:
            self.remove("doubled brace" if mark == 0x7D else "doubled bracket", 1)

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
            self.note("missing brace", self.at, 0)
            self._pop()
        else:
            raise CannotTellError("misplaced mark")

    def _end_here(self) -> None:
        """The record ends without its closing bracket. One that may have been longer is not told from its start."""
        if len(self._stack) > 1 or self.text[self.at - 1 : self.at].isdigit():
            raise CannotTellError("truncated record")
        if self._stack[0].expected == "next":
            self.at = self._last_comma  # it stands between this record and the next
        while self.text[self.at - 1] in b" \t\r\n":
            self.at -= 1
        self.notes = [note for note in self.notes if note.offset + note.length <= self.at]  # the rest is not of it
        if not any(note.kind == "fused records" for note in self.notes):
            self.note("missing brace", self.at, 0)
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
            self.remove("doubled comma", 1)
        elif mark == _OBJECT and frame.expected == "first":
            self.remove("doubled brace", 1)
        elif mark == _OBJECT:
            self._object_in_object()
        elif mark == 0x27:
            self._emit_key(frame, self.python_string())
            self._colon()
        elif mark == 0x22:
            self._emit_key(frame, self.key_string())
            self._colon()
        elif mark == -1 and frame.expected == "next":
            self._end_here()
        elif mark == -1:
            raise CannotTellError("truncated record")
        elif bare := _BARE_KEY.match(text, at, self.limit):
            name = bare[1] if bare[2] else bare[1].rstrip()
            self.note("missing quote" if bare[2] else "unquoted key", at, 0 if bare[2] else len(name))
            self.at = bare.end(2)
            self._emit_key(frame, clean(name, at, self.notes))
            self._colon()
        else:
            raise CannotTellError("missing key" if mark == 0x3A else "misplaced mark")

    def _peek_key(self) -> bytes:
        return self.text[self.at + 1 : self.closing_quote(self.at + 1)]

    def _emit_key(self, frame: _Frame, name: bytes) -> None:
        if len(self._stack) == 1 and not frame.count:
            self._first_key = name
        self._comma(frame)
        self._out.append(b'"' + name + b'":')
        frame.value_path = frame.path + "." + orjson.loads(b'"' + name + b'"')
        frame.expected = "value"

    def _colon(self) -> None:
        self.skip()
        if self.text[self.at : self.at + 1] == b":" and self.at < self.limit:
            self.at += 1
            begin = self.at
            self.skip()
            while self.text[self.at : self.at + 1] == b":" and self.at < self.limit:
                self.remove("doubled colon", 1)
                begin = self.at
                self.skip()
            gap = self.at - begin
            if self.text[self.at : self.at + 1] == b'"':
                self.colon_gap = gap
        else:
            self.note("missing colon", self.at, 0)

    # A value: of a key, or an item of an array.

    def _value(self, frame: _Frame, mark: int) -> None:
        text, at = self.text, self.at
        in_array = frame.opener == _ARRAY
        atom = _ATOM.match(text, at, self.limit)
        if self._bracket_is_amiss(frame, mark):
            return
        if mark == 0x22:
            self._emit(frame, b'"' + self.value_string(in_array, bytes(frame.opener for frame in self._stack)) + b'"')
        elif mark in (_OBJECT, _ARRAY):
            if in_array:
                self._comma(frame)
            frame.expected = "after"
            self.at += 1
            self._push(mark)
        elif mark == 0x2C and in_array:
            self.remove("doubled comma", 1)
        elif mark in _OPENER and in_array:
            if frame.expected == "next":
                self._note_comma("trailing comma")
            frame.expected = "after"
        elif mark == 0x27:
            self._emit(frame, b'"' + self.python_string() + b'"')
        elif atom and (AFTER_ITEM if in_array else AFTER_MEMBER).match(text, atom.end(), self.limit):
            self.at = atom.end()
            self._emit(frame, atom[0])
        elif python := _PYTHON.match(text, at, self.limit):
            self.note("python literal", at, len(python[0]))
            self.at = python.end()
            self._emit(frame, _PYTHON_AS_JSON[python[1]])
        elif other := _NOT_FINITE.match(text, at, self.limit):
            self.note("not a number", at, len(other[0]), "replaced")
            self.at = other.end()
            self._emit(frame, b"null")
        elif mark == -1:
            raise CannotTellError("truncated record")
        elif mark in b",:}]":
            raise CannotTellError("missing value")
        else:
            self._emit(frame, self._without_opening_quote(in_array, atom))

    def _without_opening_quote(self, in_array: bool, atom: "re.Match[bytes] | None") -> bytes:
        """A text that lost its opening quote; or else a number after all, with something odd behind it."""
        try:
            return b'"' + self.value_without_opening_quote(in_array) + b'"'
        except CannotTellError:
            if atom is None or not _MARK_FOLLOWS.match(self.text, atom.end(), self.limit):
                raise
            self.at = atom.end()
            return atom[0]

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
                self.note("missing bracket", self.at, 0)
                self._pop()
                self._stack[-1].expected = "next"
                return True
        if not in_array and types == {list} and mark in (0x22, _OBJECT):
            self._open(frame, _ARRAY, "missing bracket")
            return True
        if in_array and mark == _ARRAY and frame.expected == "first" and types and list not in types:
            self.remove("doubled bracket", 1)
            return True
        return False

    def _open(self, frame: _Frame, opener: int, kind: str) -> None:
        self.note(kind, self.at, 0)
        if frame.opener == _ARRAY:
            self._comma(frame)
        frame.expected = "after"
        self._push(opener)

    # Small steps.

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
        if len(self._stack) > _DEEP:
            path = "deep"  # nothing is known of it, and names of such length take their toll
        self._out.append(bytes((opener,)))
        self._stack.append(_Frame(opener, "first", path, value_path=path + "[]"))

    def _pop(self) -> None:
        self._out.append(_CLOSER[self._stack.pop().opener])

    def _note_comma(self, kind: str) -> None:
        """The last comma turned out to be one too many."""
        self.note(kind, self._last_comma, 1, "removed")
