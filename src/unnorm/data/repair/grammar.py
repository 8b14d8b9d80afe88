"""JSON's grammar over bytes, as far as repair needs it: tokens, and a walk through one record that says where it ends.

The walk is strict and keeps no values: a record that it ends without an error is healthy but for what the grammar does
not see (bytes that are no UTF-8, lone surrogates). Every pattern is possessive, so none backtracks.
"""

import re
from dataclasses import dataclass, field

WS = rb"[ \t\r\n]*+"
STRING = rb'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+"'
NUMBER = rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+"
SCALAR = rb"(?:" + STRING + rb"|" + NUMBER + rb"|true|false|null)"

_MEMBER = re.compile(WS + STRING + WS + rb":" + WS + rb"(?:" + SCALAR + WS + rb"([,}])|([{\[]))")
_ELEMENT = re.compile(WS + rb"(?:" + SCALAR + WS + rb"([,\]])|([{\[]))")
_AFTER = re.compile(WS + rb"([,}\]])")
_CLOSES = re.compile(WS + rb"([}\]])")

# The same, cut off by the end of the text at any place.
_OPEN_STRING = (
    rb'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+(?:\\(?:u[0-9a-fA-F]{0,3})?)?+'
)
_OPEN_VALUE = rb"(?:" + SCALAR + WS + rb"|" + _OPEN_STRING + rb"|[-0-9.eE+]++|[a-z]{1,4})?+\Z"
_CUT_MEMBER = re.compile(
    WS + rb"(?:" + STRING + WS + rb"(?::" + WS + _OPEN_VALUE + rb"|\Z)|(?:" + _OPEN_STRING + rb")?+\Z)"
)
_CUT_ELEMENT = re.compile(WS + _OPEN_VALUE)
_CUT_AFTER = re.compile(WS + rb"\Z")

_CLOSER = {0x7B: 0x7D, 0x5B: 0x5D}


@dataclass
class Walk:
    """A walk through the record that starts at `position` of a text; goes on where it was, when there is more text.

    `state` is `open` (the text ended first), `ended` (`position` is after the record) or `broken` (at `position`).
    """

    position: int
    state: str = "open"
    _stack: bytearray = field(default_factory=bytearray)
    _expected: str = "value"

    def go(self, text: bytes, record_head: re.Pattern[bytes] | None = None) -> str:
        """Walk as far as `text` allows; the state. An object inside that begins as `record_head` breaks the record."""
        stack, at, expected = self._stack, self.position, self._expected
        cut: re.Pattern[bytes] | None
        if not stack:
            assert text[at] == 0x7B
            stack.append(0x7B)
            at, expected = at + 1, "first"
        while True:
            in_object = stack[-1] == 0x7B
            if expected == "first":
                match = _CLOSES.match(text, at)
                if match:
                    expected = "after"
            if expected == "after":
                match = _AFTER.match(text, at)
                if match is None:
                    cut = _CUT_AFTER
                    break
                opener, mark = None, match[1]
            else:
                match = (_MEMBER if in_object else _ELEMENT).match(text, at)
                if match is None:
                    cut = _CUT_MEMBER if in_object else _CUT_ELEMENT
                    break
                mark, opener = match.groups()
            if opener is not None:
                if opener == b"{" and record_head is not None and record_head.match(text, match.end() - 1):
                    at, cut = match.end() - 1, None
                    break
                stack += opener
                at, expected = match.end(), "first"
            elif mark == b",":
                at, expected = match.end(), "value"
            elif mark[0] == _CLOSER[stack[-1]]:
                stack.pop()
                at, expected = match.end(), "after"
                if not stack:
                    self.position, self.state = at, "ended"
                    return self.state
            else:
                cut = None
                break
        self.position, self._expected = at, expected
        self.state = "open" if cut is not None and cut.match(text, at) else "broken"
        return self.state
