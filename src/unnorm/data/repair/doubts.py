"""Where in a text no checksum speaks for it, and why."""

import bisect

from unnorm.data.repair.gzip_members import CUT


class Doubts:
    """Stretches of a text, added from its beginning to its end."""

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
            if self._faults[i] != CUT:
                return self._faults[i]
        return ""

    def count(self, begin: int, end: int) -> int:
        """How many bytes of what stands between are in doubt."""
        return sum(min(end, self._ends[i]) - max(begin, self._begins[i]) for i in self._between(begin, end))

    def _between(self, begin: int, end: int) -> range:
        return range(bisect.bisect_right(self._ends, begin), bisect.bisect_left(self._begins, end))
