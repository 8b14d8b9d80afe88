"""The members of a gzip file, one after the other, and of each whether its text is the one that was packed (RFC 1952).

A changed bit mostly gives another text and no error until the checksum at a member's end. So only there is it known
whether any of it can be trusted.
"""

import os
import zlib
from collections.abc import Generator, Iterator
from typing import BinaryIO, NamedTuple

MAGIC = b"\x1f\x8b"

FAILED = "failed checksum"
CORRUPT = "corrupt gzip"
CUT = "truncated gzip"
AFTER = "bytes after gzip"

_PIECE = 1 << 20
_PACKED = 1 << 16  # bytes that are read at once; a file may be of many small members
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


def members(file: BinaryIO) -> Iterator[MemberText | MemberEnd]:
    """The text of each member in pieces of a megabyte at most, followed by its end. Memory does not grow.

    file: at its beginning, and seekable.
    """
    number = 0
    while number == 0 or _past_padding(file):
        begins = file.read(len(MAGIC))
        file.seek(-len(begins), os.SEEK_CUR)
        if number and not MAGIC.startswith(begins):
            yield MemberEnd(number, AFTER)
            return
        fault = yield from _member(file, number)
        yield MemberEnd(number, fault)
        if fault in (CORRUPT, CUT):
            return
        number += 1


def _past_padding(file: BinaryIO) -> bool:
    """Go past the NULs that some writers pad with; False if nothing follows."""
    while (byte := file.read(1)) == b"\0":
        pass
    file.seek(-len(byte), os.SEEK_CUR)
    return bool(byte)


def _member(file: BinaryIO, number: int) -> Generator[MemberText, None, str]:
    """The text of the member that begins here; returns its fault."""
    fault = _past_header(file)
    if fault:
        return fault
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    check = length = 0
    while not inflate.eof:
        piece = inflate.unconsumed_tail or file.read(_PACKED)
        before = inflate.copy()
        try:
            text = inflate.decompress(piece, _PIECE)
        except zlib.error:
            yield MemberText(number, _up_to_the_fault(before, piece))
            return CORRUPT
        if not text and not piece:
            return CUT
        check, length = zlib.crc32(text, check), length + len(text)
        yield MemberText(number, text)
    file.seek(-len(inflate.unused_data), os.SEEK_CUR)
    trailer = file.read(8)
    if len(trailer) < 8:
        return CUT
    right = check.to_bytes(4, "little") + (length & 0xFFFFFFFF).to_bytes(4, "little")
    return "" if trailer == right else FAILED


def _past_header(file: BinaryIO) -> str:
    """Past a member's header; the fault, if it is none. One that is cut off shows as text that is."""
    head = file.read(10)
    if len(head) < 10:
        return CUT
    flags = head[3]
    if head[:3] != MAGIC + b"\x08" or flags >= 32:
        return CORRUPT
    if flags & _EXTRA:
        file.read(int.from_bytes(file.read(2), "little"))
    for text in (_NAME, _COMMENT):
        while flags & text and file.read(1) not in (b"", b"\0"):
            pass
    if flags & _HEADER_CHECK:
        file.read(2)
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
