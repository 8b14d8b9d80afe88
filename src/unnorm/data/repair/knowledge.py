"""What the healthy records of a file look like, learned as they go by: keys, types, and how a record begins.

Damage is judged by it. Where a broken record ends and the next begins is seen by the next one's beginning; and a mended
record is trusted only if it looks like the others.
"""

import re
import sys
from collections import Counter
from operator import itemgetter
from typing import Any

import orjson

from unnorm.data.repair.grammar import WS

_SHAPES = 1000  # kept in mind at most, of each sort: data may have a new key in every row
_HEADS = 32
_SAMPLE = 256  # records whose insides are looked at

TYPE_NAMES: dict[type, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
    list: "array",
    dict: "object",
}
OTHER_COLUMNS = "(other columns)"

Keys = tuple[str, ...]


class Knowledge:
    """Grows with `learn`. `columns`: column -> type -> rows, over the records counted in, exact up to 1000 columns."""

    def __init__(self) -> None:
        self.seen = 0
        self.columns: dict[str, Counter[str]] = {}
        self._shapes: set[Keys] = set()
        self._heads: set[str] = set()
        self._inner_heads: set[str] = set()
        self._paths: dict[str, set[type]] = {}
        self._inner_keys: set[str] = set()
        self._sampled = 0
        self.sniffed_to = 0  # the offset up to which the text was asked ahead of its turn
        self.colon_gap: int | None = None
        self._indent: bytes | None = None
        self._compile()

    def learn(self, records: list[dict[str, Any]], *, counted: bool = True) -> None:
        """Take note of healthy `records`; `counted`: they are rows of OUT."""
        self.seen += len(records)
        if counted:
            self.count(records)
        changed = False
        for keys in set(map(tuple, records)):
            if keys not in self._shapes and len(self._shapes) < _SHAPES:
                self._shapes.add(keys)
                changed = True
            if keys and keys[0] not in self._heads and len(self._heads) <= _HEADS:
                self._heads.add(keys[0])
                changed = True
        fresh = records if self._sampled < _SAMPLE else records[:1]
        known = len(self._inner_heads)
        for record in fresh[:_SAMPLE]:
            self._sampled += 1
            self._look_inside(record, "", 0)
        if changed or len(self._inner_heads) != known:
            self._compile()

    def learn_gap(self, gap: bytes, colon_gap: int) -> None:
        """Take note of the layout: what stands before a record, and how many bytes between a colon and a value."""
        self.colon_gap = colon_gap
        if b"\n" in gap and (indent := gap[gap.rfind(b"\n") :]) != self._indent and indent.isspace():
            self._indent = indent
            self._compile()

    def trusts(self, record: dict[str, Any], *, cut: bool) -> bool:
        """Whether a mended `record` looks like the healthy ones. `cut`: its end is missing, so it needs all keys."""
        keys = tuple(record)
        if cut and keys not in self._shapes:
            return False
        if self.seen < 4:
            return True
        if len(self._shapes) <= 1 + self.seen // 16 and keys not in self._shapes:
            return False
        return self.seen < 16 or len(self._shapes) == _SHAPES or self._known_inside(record)

    def knows_key(self, key: str) -> bool:
        """Whether a healthy record has this key, at any depth."""
        return key in self.columns or key in self._inner_keys or any(key in shape for shape in self._shapes)

    def types_at(self, path: str) -> set[type]:
        """Types seen at `path` (`.turns[].from`); none while few records are known."""
        return self._paths.get(path, set()) if self.seen >= 4 else set()

    @property
    def record_head(self) -> re.Pattern[bytes] | None:
        """Matches a `{` and the first key of a record, if records can be told from the objects inside them by that."""
        return self._head

    def count(self, records: list[dict[str, Any]]) -> None:
        """Count `records` in `columns`. Called for every record there is, so it leaves the loops to C."""
        alike = len(set(map(tuple, records))) == 1
        for key in records[0] if alike else {key: None for record in records for key in record}:
            values = map(itemgetter(key), records if alike else [record for record in records if key in record])
            column = self.columns.get(key)
            if column is None:
                name = key if len(self.columns) < _SHAPES else OTHER_COLUMNS
                column = self.columns.setdefault(name, Counter())
            for kind, count in Counter(map(type, values)).items():
                column[TYPE_NAMES[kind]] += count

    def next_start(self, text: bytes, begin: int, end: int = sys.maxsize) -> int | None:
        """Where the first record from `begin` on starts, by the looks of it."""
        found = self._start.search(text, begin, end)
        return found.start() if found else None

    def is_anchored(self, text: bytes, start: int) -> bool:
        """Whether a record at `start` begins a line as records do in this file."""
        if text[start - 1 : start] == b"\n":
            return True
        return self._indent is not None and text[max(0, start - len(self._indent)) : start] == self._indent

    @property
    def sure_of_starts(self) -> bool:
        """Whether every record is likely to be found by `next_start`."""
        return len(self._heads) <= _HEADS and (self._head is not None or self._indent is not None)

    def is_head(self, key: str) -> bool:
        """Whether records begin with `key`, as far as is known."""
        return not self.seen or key in self._heads

    def is_inner(self, key: str) -> bool:
        """Whether objects inside records begin with `key`."""
        return key in self._inner_heads

    def _look_inside(self, value: Any, path: str, depth: int) -> None:
        if len(self._paths) < _SHAPES:
            self._paths.setdefault(path, set()).add(type(value))
        if depth > 8:
            return
        if isinstance(value, dict):
            if depth and len(self._inner_heads) < _SHAPES:
                self._inner_heads.update(list(value)[:1])
                self._inner_keys.update(list(value)[:64])
            for key, item in list(value.items())[:64]:
                self._look_inside(item, f"{path}.{key}", depth + 1)
        elif isinstance(value, list):
            for item in value[:64]:
                self._look_inside(item, path + "[]", depth + 1)

    def _known_inside(self, record: dict[str, Any]) -> bool:
        """Whether every value stands where a healthy record has one of its type."""
        if len(self._paths) >= _SHAPES:
            return True
        stack: list[tuple[Any, str, int]] = [(record, "", 0)]
        while stack:
            value, path, depth = stack.pop()
            if type(value) not in self._paths.get(path, ()):
                return False
            if depth > 8:
                continue
            if isinstance(value, dict):
                stack += [(item, f"{path}.{key}", depth + 1) for key, item in list(value.items())[:64]]
            elif isinstance(value, list):
                stack += [(item, path + "[]", depth + 1) for item in value[:64]]
        return True

    def _compile(self) -> None:
        heads = sorted(self._heads - self._inner_heads) if len(self._heads) <= _HEADS else []
        names = b"|".join(re.escape(orjson.dumps(key)[1:-1]) for key in heads if _encodes(key))
        head = rb"\{" + WS + rb"[\"'](?:" + names + rb")[\"']" + WS + rb":"
        self._head = re.compile(head) if names else None
        starts = [rb"(?<=\n)\{(?=" + WS + rb"[\"'])"]
        if self._indent:
            starts.append(rb"(?<=" + re.escape(self._indent) + rb")\{(?=" + WS + rb"[\"'])")
        if names:
            starts.append(head)
        self._start = re.compile(rb"|".join(starts))


def _encodes(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True
