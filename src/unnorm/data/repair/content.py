"""What stands between the quotes of a broken string, made valid JSON: nothing is added but escapes and U+FFFD."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_HEX = rb"[0-9a-fA-F]"
_ITEM = re.compile(
    rb"(?P<plain>(?:[\x20\x21\x23-\x5b\x5d-\x7f]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]"
    rb"|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}"
    rb"|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2}"
    rb"|\\u[dD][89abAB]" + _HEX + rb"{2}\\u[dD][c-fC-F]" + _HEX + rb"{2}"
    rb'|\\(?:["\\/bfnrt]|u(?![dD][89a-fA-F])' + _HEX + rb"{4}))++)"
    rb"|(?P<surrogate>\\u[dD][89a-fA-F]" + _HEX + rb"{2})"
    rb"|(?P<escape>\\(?:x" + _HEX + rb"{2}|')?)"
    rb"|(?P<control>[\x00-\x1f])"
    rb'|(?P<quote>")'
    rb"|(?P<bytes>[\x80-\xff])"
)
_ESCAPES = {0x08: b"\\b", 0x09: b"\\t", 0x0A: b"\\n", 0x0C: b"\\f", 0x0D: b"\\r"}
_KINDS = {
    "surrogate": "lone surrogate",
    "escape": "invalid escape",
    "control": "control character in a string",
    "bytes": "invalid utf-8",
}
_REPLACEMENT = "\ufffd".encode()


@dataclass(slots=True)
class Note:
    """A damage while its record is being mended: `offset` in the text at hand."""

    offset: int
    length: int
    kind: str
    action: str


def clean(raw: bytes, offset: int, notes: list[Note], *, python: bool = False) -> bytes:
    """`raw`, which stands at `offset`, as the content of a JSON string; what was done goes to `notes`.

    python: between single quotes, so that Python's escapes mean what they mean there.
    """
    parts = []
    lines: dict[str, Note] = {}  # one note a string for what is only written differently
    for kind, begin, found in _items(raw):
        part = found
        if kind in ("surrogate", "bytes"):
            part = _REPLACEMENT
            last = notes[-1] if notes else None
            if last and last.kind == _KINDS[kind] and last.offset + last.length == offset + begin:
                last.length += len(found)
                part = b""
            else:
                notes.append(Note(offset + begin, len(found), _KINDS[kind], "replaced"))
        elif kind == "quote":
            part = b'\\"'
        elif kind != "plain":
            part = _escape(found, python) if kind == "escape" else _control(found[0])
            if not (python and kind == "escape"):
                line = lines.setdefault(kind, Note(offset + begin, 0, _KINDS[kind], "mended"))
                line.length = offset + begin + len(found) - line.offset
        parts.append(part)
    notes += lines.values()
    return b"".join(parts)


def _items(raw: bytes) -> Iterator[tuple[str, int, bytes]]:
    for match in _ITEM.finditer(raw):
        assert match.lastgroup
        yield match.lastgroup, match.start(), match[0]


def _control(code: int) -> bytes:
    return _ESCAPES.get(code) or b"\\u%04x" % code


def _escape(found: bytes, python: bool) -> bytes:
    """A backslash that means nothing in JSON: in front of a single quote it goes, else it is taken literally."""
    if found == b"\\'":
        return b"'"
    if python and found[1:2] == b"x" and len(found) == 4:
        return b"\\u00" + found[2:]
    return b"\\\\" + found[1:]
