"""The text of a file, piece by piece: gunzipped, UTF-16 turned into UTF-8. Damage to either layer ends in a note.

Offsets are counted in what this yields: the decompressed text, in UTF-8. Of gzip, which says only at its end whether a
text is right, all checksums are looked at before.
"""

import bisect
import codecs
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from unnorm.data.repair import gzip_members, recognise
from unnorm.data.repair.damage import Damage

_PIECE = 1 << 20
_Found = gzip_members.MemberText | gzip_members.MemberEnd


class _Piece(NamedTuple):
    """fault: why no checksum speaks for it."""

    text: bytes
    fault: str = ""


class Doubts:
    """Stretches of a text that no checksum speaks for, and why, added from its beginning to its end."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []
        self._faults: list[str] = []

    def add(self, begin: int, end: int, fault: str) -> None:
        """Nothing vouches for the text from `begin` to `end`."""
        if self._ends and self._ends[-1] == begin and self._faults[-1] == fault:
            self._ends[-1] = end
            return
        self._begins.append(begin)
        self._ends.append(end)
        self._faults.append(fault)

    def failed(self, begin: int, end: int) -> str:
        """Why what stands between must not be trusted; nothing, if it may be, or may as far as a file goes that is cut
        off: what is there of that is most likely right."""
        for i in self._between(begin, end):
            if self._faults[i] != gzip_members.CUT:
                return self._faults[i]
        return ""

    def count(self, begin: int, end: int) -> int:
        """How many bytes of what stands between are in doubt."""
        return sum(min(end, self._ends[i]) - max(begin, self._begins[i]) for i in self._between(begin, end))

    def _between(self, begin: int, end: int) -> range:
        return range(bisect.bisect_right(self._ends, begin), bisect.bisect_left(self._begins, end))


class Stream:
    """Reads `path`. `notes` are the damages found in the layers, complete once `read` has returned nothing.

    doubts: the stretches of what was read so far that no checksum speaks for. advance: told the number of bytes read
    from the file. Raises `DataError` where the file is no JSON, but something that is known.
    """

    def __init__(self, path: Path, advance: Callable[[int], None] = lambda count: None) -> None:
        recognise.check_place(path)
        self.notes: list[Damage] = []
        self.doubts = Doubts()
        self.given = 0
        with open(path, "rb") as file:
            packed = file.read(len(gzip_members.MAGIC)) == gzip_members.MAGIC
        pieces: Iterator[_Piece]
        if packed:  # it is read twice, so each reading counts for half
            ends = _members(path, lambda count: advance(count - count // 2))
            faults = {end.member: end.fault for end in ends if isinstance(end, gzip_members.MemberEnd)}
            pieces = self._gunzip(_members(path, lambda count: advance(count // 2)), faults)
        else:
            pieces = _read(path, advance)
        first = next(pieces, _Piece(b""))
        pieces = chain([first], pieces)
        encoding = _utf_16(first.text)
        if encoding:
            pieces = self._to_utf_8(pieces, encoding)
            first = next(pieces, _Piece(b""))
            pieces = chain([first], pieces)
        recognise.check_head(path, first.text)
        self._pieces = pieces

    def read(self) -> bytes:
        """The next piece of about a megabyte; nothing at the end."""
        for text, fault in self._pieces:
            if text:
                if fault:
                    self.doubts.add(self.given, self.given + len(text), fault)
                self.given += len(text)
                return text
        return b""

    def _note(self, offset: int, length: int, kind: str, action: str) -> None:
        self.notes.append(Damage(offset, length, kind, action))

    def _gunzip(self, members: Iterator[_Found], faults: dict[int, str]) -> Iterator[_Piece]:
        """Members one after the other. What comes before a fault is given; after one, nothing can be told any more."""
        begin, member = 0, 0
        for found in members:
            if found.member > member:
                begin, member = self.given, found.member
            if isinstance(found, gzip_members.MemberText):
                if found.text:
                    yield _Piece(found.text, faults.get(member, ""))
            elif found.fault == gzip_members.CUT:
                self._note(begin, self.given - begin, found.fault, "unverified")
            elif found.fault and found.fault != gzip_members.FAILED:  # which is said of each record that it concerns
                self._note(self.given, 0, found.fault, "ignored")

    def _to_utf_8(self, pieces: Iterator[_Piece], encoding: str) -> Iterator[_Piece]:
        """Lone surrogates and a last odd byte go through as they are: as UTF-8 they are damage, and found later."""
        decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
        given, fault = 0, ""
        for piece, fault in pieces:
            text = decoder.decode(piece).encode("utf-8", "surrogatepass")
            given += len(text)
            yield _Piece(text, fault)
        rest = decoder.getstate()[0]
        self._note(0, given + len(rest), "utf-16", "decoded")
        yield _Piece(rest, fault)  # as the piece that it ends


def _read(path: Path, advance: Callable[[int], None]) -> Iterator[_Piece]:
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            advance(len(piece))
            yield _Piece(piece)


def _members(path: Path, advance: Callable[[int], None]) -> Iterator[_Found]:
    with open(path, "rb") as file:
        at = 0
        for found in gzip_members.members(file):
            advance(file.tell() - at)
            at = file.tell()
            yield found


def _utf_16(head: bytes) -> str | None:
    """The encoding, if `head` starts as UTF-16 does: with its mark, or with an ASCII character beside a NUL."""
    if head.startswith(codecs.BOM_UTF16_LE) or (
        head[1:2] == b"\0" and head[:1] in b'{["\r\n\t ' and head[3:4] == b"\0"
    ):
        return "utf-16-le"
    if head.startswith(codecs.BOM_UTF16_BE) or (
        head[:1] == b"\0" and head[1:2] in b'{["\r\n\t ' and head[2:3] == b"\0"
    ):
        return "utf-16-be"
    return None


class Window:
    """The stretch of a stream that is held: `text`; `base`, the offset of its first byte; `whole`, whether the stream
    ends with it."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.text = b""
        self.base = 0
        self.whole = False

    def ensure(self, length: int) -> None:
        """Hold at least `length` bytes, unless the stream ends sooner."""
        pieces, held = [self.text], len(self.text)
        while held < length and not self.whole:
            pieces.append(self._stream.read())
            held += len(pieces[-1])
            self.whole = not pieces[-1]
        self.text = b"".join(pieces)

    def drop(self, count: int) -> None:
        """Let go of the first `count` bytes."""
        self.text = self.text[count:]
        self.base += count
