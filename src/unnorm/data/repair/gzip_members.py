"""The members of a gzip file, one after the other, and of each whether its text is the one that was packed (RFC 1952).

A changed bit mostly gives another text and no error until the checksum at a member's end. So only there is it known
whether any of it can be trusted.
"""

import zlib
from collections.abc import Generator, Iterable, Iterator
from typing import NamedTuple

MAGIC = b"\x1f\x8b"

FAILED = "failed checksum"
CORRUPT = "corrupt gzip"
CUT = "truncated gzip"
AFTER = "bytes after gzip"

_PIECE = 1 << 20
_EXTRA, _NAME, _COMMENT, _HEADER_CHECK = 4, 8, 16, 2


class MemberText(NamedTuple):
    """A piece of the text of a member."""

    member: int
    text: bytes


class MemberEnd(NamedTuple):
    """A member's end. fault: nothing, if its checksum and length are right, or `FAILED`, `CORRUPT` or `CUT`. After the
    last two nothing can be told any more. `AFTER`, and the number of no member: what follows is not gzip."""

    member: int
    fault: str


def members(pieces: Iterable[bytes]) -> Iterator[MemberText | MemberEnd]:
    """The text of each member in pieces of a megabyte at most, followed by its end. Memory does not grow."""
    source = _Source(iter(pieces))
    number = 0
    while number == 0 or source.past_padding():
        if number and not MAGIC.startswith(source.peek(len(MAGIC))):
            yield MemberEnd(number, AFTER)
            return
        fault = yield from _member(source, number)
        yield MemberEnd(number, fault)
        if fault in (CORRUPT, CUT):
            return
        number += 1


def faults(pieces: Iterable[bytes]) -> dict[int, str]:
    """The fault of each member that has one."""
    ends = (found for found in members(pieces) if isinstance(found, MemberEnd))
    return {end.member: end.fault for end in ends if end.fault and end.fault != AFTER}


class _Source:
    """Bytes that are taken piece by piece."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = b""
        self._at = 0

    def take(self) -> bytes:
        """The next bytes, however many; none at the end."""
        rest = self._held[self._at :] or next(self._pieces, b"")
        self.put(b"")
        return rest

    def put(self, text: bytes) -> None:
        """What was taken too much: it comes next."""
        self._held, self._at = text, 0

    def exactly(self, count: int) -> bytes:
        """The next `count` bytes; fewer at the end."""
        found = self.peek(count)
        self._at += len(found)
        return found

    def peek(self, count: int) -> bytes:
        """What `exactly` would give."""
        while len(self._held) - self._at < count and (piece := next(self._pieces, b"")):
            self.put(self._held[self._at :] + piece)
        return self._held[self._at : self._at + count]

    def past_nul(self) -> bool:
        """Go past the next NUL; False if there is none."""
        while piece := self.take():
            _, nul, rest = piece.partition(b"\0")
            self.put(rest)
            if nul:
                return True
        return False

    def past_padding(self) -> bool:
        """Go past the NULs that some writers pad with; False if nothing follows."""
        while self.peek(1) == b"\0":
            self.put(self.take().lstrip(b"\0"))
        return bool(self.peek(1))


def _member(source: _Source, number: int) -> Generator[MemberText, None, str]:
    """The text of the member that begins here; returns its fault."""
    fault = _header(source)
    if fault:
        return fault
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    check = length = 0
    while not inflate.eof:
        piece = source.take()
        before = inflate.copy()
        try:
            text = inflate.decompress(piece, _PIECE)
        except zlib.error:
            yield MemberText(number, _up_to_the_fault(before, piece))
            return CORRUPT
        if not text and not piece:
            return CUT
        source.put(inflate.unused_data if inflate.eof else inflate.unconsumed_tail)
        check, length = zlib.crc32(text, check), length + len(text)
        yield MemberText(number, text)
    trailer = source.exactly(8)
    if len(trailer) < 8:
        return CUT
    right = check.to_bytes(4, "little") + (length & 0xFFFFFFFF).to_bytes(4, "little")
    return "" if trailer == right else FAILED


def _header(source: _Source) -> str:
    """Past a member's header; the fault, if it is none."""
    head = source.exactly(10)
    if len(head) < 10:
        return CUT
    flags = head[3]
    if head[:3] != MAGIC + b"\x08" or flags >= 32:
        return CORRUPT
    if flags & _EXTRA:
        size = source.exactly(2)
        if len(source.exactly(int.from_bytes(size, "little"))) < int.from_bytes(size, "little"):
            return CUT
    for text in (_NAME, _COMMENT):
        if flags & text and not source.past_nul():
            return CUT
    if flags & _HEADER_CHECK and len(source.exactly(2)) < 2:
        return CUT
    return ""


def _up_to_the_fault(inflate: "zlib._Decompress", piece: bytes) -> bytes:
    """What `inflate` gives of `piece` before it fails, byte by byte."""
    text = []
    try:
        for position in range(len(piece)):
            text.append(inflate.decompress(piece[position : position + 1]))
    except zlib.error:
        pass
    return b"".join(text)
