"""The text of a file, piece by piece: gunzipped, UTF-16 turned into UTF-8. Damage to either layer ends in a note.

Offsets are counted in what this yields: the decompressed text, in UTF-8.
"""

import codecs
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from unnorm.data.repair import recognise
from unnorm.data.repair.damage import Damage

_PIECE = 1 << 20
_GZIP = b"\x1f\x8b"


class Stream:
    """Reads `path`. `notes` are the damages found in the layers, complete once `read` has returned nothing.

    advance: told the number of bytes read from the file. Raises `DataError` where the file is no JSON, but something
    that is known.
    """

    def __init__(self, path: Path, advance: Callable[[int], None] = lambda count: None) -> None:
        recognise.check_place(path)
        self.notes: list[Damage] = []
        self.given = 0
        pieces = _read(path, advance)
        first = next(pieces, b"")
        pieces = _chain(first, pieces)
        if first.startswith(_GZIP):
            pieces = self._gunzip(pieces)
            first = next(pieces, b"")
            pieces = _chain(first, pieces)
        encoding = _utf_16(first)
        if encoding:
            pieces = self._to_utf_8(pieces, encoding)
            first = next(pieces, b"")
            pieces = _chain(first, pieces)
        recognise.check_head(path, first)
        self._pieces = pieces

    def read(self) -> bytes:
        """The next piece of about a megabyte; nothing at the end."""
        for piece in self._pieces:
            if piece:
                self.given += len(piece)
                return piece
        return b""

    def _note(self, offset: int, length: int, kind: str, action: str) -> None:
        self.notes.append(Damage(offset, length, kind, action))

    def _gunzip(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Members one after the other. What comes before a fault is kept; after one, nothing can be told any more."""
        member, offset = zlib.decompressobj(31), 0
        for piece in pieces:
            while piece:
                if member.eof:
                    piece = piece.lstrip(b"\0")  # some writers pad
                    if not piece:
                        break
                    if not _GZIP.startswith(piece[:2]):
                        self._note(offset, 0, "bytes after gzip", "ignored")
                        return
                    member = zlib.decompressobj(31)
                before = member.copy()
                try:
                    text = member.decompress(piece, _PIECE)
                except zlib.error:
                    text = _up_to_the_fault(before, piece)
                    offset += len(text)
                    yield text
                    self._note(offset, 0, "corrupt gzip", "ignored")
                    return
                offset += len(text)
                yield text
                piece = member.unused_data if member.eof else member.unconsumed_tail
        while not member.eof:
            text = member.decompress(b"", _PIECE)
            if not text:
                self._note(offset, 0, "truncated gzip", "ignored")
                return
            offset += len(text)
            yield text

    def _to_utf_8(self, pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
        """Lone surrogates and a last odd byte go through as they are: as UTF-8 they are damage, and found later."""
        decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
        given = 0
        for piece in pieces:
            text = decoder.decode(piece).encode("utf-8", "surrogatepass")
            given += len(text)
            yield text
        rest = decoder.getstate()[0]
        self._note(0, given + len(rest), "utf-16", "decoded")
        yield rest


def _read(path: Path, advance: Callable[[int], None]) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            advance(len(piece))
            yield piece


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _up_to_the_fault(member: "zlib._Decompress", piece: bytes) -> bytes:
    """What `member` gives of `piece` before it fails, byte by byte."""
    text = []
    try:
        for position in range(len(piece)):
            text.append(member.decompress(piece[position : position + 1]))
    except zlib.error:
        pass
    return b"".join(text)


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
