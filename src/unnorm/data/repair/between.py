"""What stands between records: commas, brackets and white space, and whether they are as they should be there.

None of it can harm a record, so all of it counts as separators; what is wrong is only reported.
"""

import re
from dataclasses import dataclass

from unnorm.data.repair.damage import Damage

_BOM = b"\xef\xbb\xbf"
_MARK = re.compile(rb"[,\[\]]|\xef\xbb\xbf")
_RUN = re.compile(rb"(?:[\s,\[\]]|\xef\xbb\xbf)*+")


@dataclass
class Between:
    """Follows the marks between records. `expects`: `lines` or `array`, by the file's name, or nothing."""

    expects: str = ""
    in_array: bool = False
    _comma: bool = False
    _value: bool = False  # something stood since the last `[` or comma, or at all
    _arrays: int = 0
    _records: int = 0
    _told: bool = False
    _gave_up: bool = False  # what stood last was given up, and where it ended is not certain
    _guessed: bool = False  # in an array by its commas alone

    def skip(self, text: bytes, begin: int, base: int) -> tuple[int, list[Damage]]:
        """Past all separators from `begin`; where they end, and what is wrong with them."""
        match = _RUN.match(text, begin)
        assert match
        damages: list[Damage] = []

        def report(at: int, length: int, kind: str) -> None:
            damages.append(Damage(base + at, length, kind, "ignored"))

        for mark in _MARK.finditer(text, begin, match.end()):
            at, what = mark.start(), mark[0]
            if what == b"[":
                if self.in_array:
                    report(at, 1, "doubled bracket")
                elif self._arrays or self._records:
                    report(at, 1, "several arrays")
                elif self.expects == "lines":
                    report(at, 1, "array in place of lines")
                self.in_array, self._comma, self._value = True, False, False
                self._arrays += 1
            elif what == b"]":
                if not self.in_array:
                    report(at, 1, "doubled bracket")
                elif self._comma:
                    report(at, 1, "trailing comma")
                self.in_array = self._comma = self._guessed = False
            elif what == _BOM:
                report(at, 3, "byte order mark")
            else:
                if self._comma or (self.in_array and not self._value):
                    report(at, 1, "doubled comma")
                elif not self.in_array:
                    report(at, 1, "comma outside an array")
                    self.in_array = self._guessed = True
                self._comma, self._value = True, False
        return match.end(), damages

    def record(self, gap: bytes, at: int) -> list[Damage]:
        """A record starts at offset `at`, after `gap`; what is wrong with that."""
        damages = []
        if self._guessed and self._value and b"\n" in gap:
            self.in_array = self._guessed = False  # lines after all
        if self._gave_up:
            self._gave_up = False
        elif self._records and self.in_array and self._value:
            damages.append(Damage(at, 0, "missing comma", "ignored"))
        elif self._records and not self.in_array and b"\n" not in gap and b"[" not in gap and not self._comma:
            damages.append(Damage(at, 0, "fused records", "ignored"))
        if not self._told and not self.in_array:
            if self._arrays:
                damages.append(Damage(at, 0, "lines after an array", "ignored"))
                self._told = True
            elif self.expects == "array" and self._records:
                damages.append(Damage(at, 0, "lines in place of an array", "ignored"))
                self._told = True
        self._records += 1
        self._value, self._comma = True, False
        return damages

    def passed(self, count: int) -> None:
        """`count` further records went by, each with the separators that belong there."""
        self._records += count
        self._value, self._comma = True, False

    def give_up(self) -> None:
        """What stood here was given up."""
        self._gave_up = True

    def end(self, at: int) -> list[Damage]:
        """The text ends at offset `at`."""
        return [Damage(at, 0, "missing bracket", "ignored")] if self.in_array and not self._guessed else []
