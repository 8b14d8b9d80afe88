"""What must hold of every repair, whatever went in."""

import base64
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from unnorm.data.repair.damage import LOSING, Damage, Event, Kept, Rejected
from unnorm.data.repair.engine import Repair
from unnorm.data.repair.files import MAX_RECORD
from unnorm.data.repair.stream import Stream

_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(["\\/bfnrt\']))')
_JSON_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(?!x)(x)|(["\\/bfnrt\']))')
_PLAIN = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def run(path: Path, max_record: int = MAX_RECORD, expects: str = "", **options: bool) -> tuple[Repair, list[Event]]:
    repair = Repair(Stream(path), max_record, expects, **options)
    return repair, list(repair.events())


def records(events: list[Event]) -> list[Any]:
    return [json.loads(line) for event in events if isinstance(event, Kept) for line in event.lines.splitlines()]


def check(text: bytes, path: Path, max_record: int = MAX_RECORD) -> tuple[list[Any], list[Event]]:
    """Repair `text` (plain UTF-8, more or less) by way of `path`; the records and all events."""
    path.write_bytes(text)
    repair, events = run(path, max_record)
    account = repair.account
    assert account.adds_up, account
    assert account.bytes_in == len(text)
    assert min(account.kept, account.separators, account.lost) >= 0
    lost = _check_losses(text, events)
    assert lost == account.lost
    lines = [line for event in events if isinstance(event, Kept) for line in event.lines.split(b"\n")[:-1]]
    assert len(lines) == account.records
    assert all(0 <= d.record < account.records for d in events if isinstance(d, Damage) and d.record is not None)
    found = [json.loads(line) for line in lines]
    assert all(isinstance(record, dict) for record in found)
    check_nothing_invented(text, found)
    again = run(path, max_record)
    assert again[1] == events
    return found, events


def _check_losses(text: bytes, events: list[Event]) -> int:
    """Lost bytes are given as they were, each once."""
    pieces = sorted(
        (event.offset, len(event.raw), event.raw)
        for event in events
        if isinstance(event, Rejected) or (isinstance(event, Damage) and event.action in ("removed", "replaced"))
    )
    end = 0
    for offset, length, raw in pieces:
        assert offset >= end, "counted twice"
        assert text[offset : offset + length] == raw
        end = offset + length
    lost = sum(event.length for event in events if isinstance(event, Damage) and event.action in LOSING)
    assert lost == sum(length for _, length, _ in pieces)
    return lost


def check_nothing_invented(text: bytes, found: list[Any]) -> None:
    """Every string of a record stands in the text, as it is or with its escapes (once or twice) undone."""
    haystacks = [_settle(text.decode("utf-8", "replace"))]
    for escapes in (_ESCAPE, _JSON_ESCAPE):  # with Python's \\x.. and without: outside of its literals that is text
        once = _settle(_unescape(haystacks[0], escapes))
        haystacks += [once, _settle(_unescape(once, escapes))]
    for value in {string for record in found for string in _strings(record)}:
        assert any(_settle(value) in haystack for haystack in haystacks), value


def _settle(text: str) -> str:
    """Characters that cannot be told from their replacement made equal to it, runs of it to one."""
    return re.sub(
        "(?:\ufffd|[\ud800-\udfff])+", "\ufffd", text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )


def _unescape(text: str, escapes: re.Pattern[str]) -> str:
    return escapes.sub(lambda m: chr(int(m[1] or m[2], 16)) if m[1] or m[2] else _PLAIN.get(m[3], m[3]), text)


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [part for item in (*value, *value.values()) for part in _strings(item)]
    if isinstance(value, list):
        return [part for item in value for part in _strings(item)]
    return [value] if isinstance(value, str) else []


def survive(expected: list[Any], found: list[Any]) -> None:
    """All of `expected` are among `found`, as often and in this order."""
    there = Counter(json.dumps(record) for record in found)
    for record, count in Counter(json.dumps(record) for record in expected).items():
        assert there[record] >= count, record[:200]
    remaining = iter(found)
    for record in expected:
        assert any(other == record for other in remaining)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def raw_of(entry: dict[str, Any]) -> bytes:
    return entry["text"].encode() if "text" in entry else base64.b64decode(entry["base64"])
