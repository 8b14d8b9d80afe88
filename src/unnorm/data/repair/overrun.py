"""A string whose closing quote is missing runs on into what comes after it. Where did it end?

What comes after it is known in part: brackets, a comma, white space, and they must fit what is open. If they do, the
string ended in front of them.
"""

import re

_RUN = re.compile(rb"[\s{}\[\],]*\Z")
_GAP = re.compile(rb"[\s,\[\]]*\Z")
_KEY = re.compile(rb'"(?:[^"\\]|\\.)*+"\s*:', re.DOTALL)
_ITEM = re.compile(rb'"(?:[^"\\]|\\.)*+"\s*[,\]]', re.DOTALL)
_REACH = 512

_CLOSER = {0x7B: 0x7D, 0x5B: 0x5D}


def into_next_string(text: bytes, begin: int, quote: int, limit: int, stack: bytes) -> int | None:
    """Where the string with content from `begin` ended, if the quote at `quote` opens the next key or item; or None."""
    for cut in _cuts(text, begin, quote):
        expected, rest = _after(text[cut:quote], stack)
        pattern = {"key": _KEY, "item": _ITEM}.get(expected)
        if pattern and not rest and pattern.match(text, quote, limit):
            return _formatting(text, begin, cut)
    return None


def into_the_end(text: bytes, begin: int, limit: int, stack: bytes) -> int | None:
    """The same where there is no quote up to `limit`: the record must end there, all that is open closed."""
    for cut in _cuts(text, begin, limit):
        expected, rest = _after(text[cut:limit], stack)
        if expected == "end" and _GAP.match(rest):
            return _formatting(text, begin, cut)
    return None


def _cuts(text: bytes, begin: int, end: int) -> list[int]:
    """Places before brackets and commas in the run of them that ends at `end`, first to last."""
    first = max(begin, end - _REACH)
    run = _RUN.search(text[first:end])
    assert run
    return [first + i for i in range(run.start(), end - first) if text[first + i] in b"{}[],"]


def _after(run: bytes, stack: bytes) -> tuple[str, bytes]:
    """What is expected after `run` where `stack` is open and a value has just ended, and what of `run` is left."""
    open_, expected = bytearray(stack), "after"
    for position, mark in enumerate(run):
        if mark in b" \t\r\n\v\f":
            continue
        if expected == "after" and mark == _CLOSER[open_[-1]]:
            open_.pop()
            if not open_:
                return "end", run[position + 1 :]
        elif expected == "after" and mark == 0x2C:
            expected = "key" if open_[-1] == 0x7B else "item"
        elif expected == "item" and mark in b"{[":
            open_.append(mark)
            expected = "key" if mark == 0x7B else "item"
        else:
            return "nothing", b""
    return expected, b""


def _formatting(text: bytes, begin: int, cut: int) -> int:
    """`cut`, moved to before the line break that stands in front of it, if one does: strings hold none."""
    at = cut
    while at > begin and text[at - 1] in b" \t\r\n":
        at -= 1
    return at if b"\n" in text[at:cut] else cut
