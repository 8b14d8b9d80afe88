"""json-repair, for a broken record that our own rules cannot tell. It guesses freely, so little of it is believed.

What it makes counts only if every string and number of it stands in the broken text as it is, each string between
quotes, in this order, and if they are all that stands there but for JSON's own marks: then nothing was invented or left
out, and only brackets, commas and colons were put right.
"""

import re
from typing import Any

import orjson

from unnorm.data.repair.grammar import SCALAR

_MARKS = re.compile(rb"[\s{}\[\],:]*")
_END = re.compile(rb"[\s{}\[\],:]*}")
_TOKENS = re.compile(rb"(?:[\s{}\[\],:]|" + SCALAR + rb")++")
_LARGEST = 16 << 10  # bytes; on some texts its time grows with the square of their length


def guess(raw: bytes) -> bytes | None:
    """The record in `raw` as compact JSON, if json-repair finds one that holds all of it and nothing else."""
    if len(raw) > _LARGEST or not _TOKENS.fullmatch(raw):
        return None
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    import json_repair

    try:
        record = json_repair.loads(text, skip_json_loads=True)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not record:
        return None
    try:
        scalars, line = _scalars(record), orjson.dumps(record)
    except orjson.JSONEncodeError:
        return None
    at, marks = 0, b""
    for scalar in scalars:
        found = raw.find(scalar, at)
        if found < 0 or not _MARKS.fullmatch(raw, at, found):
            return None
        marks += raw[at:found]
        at = found + len(scalar)
    marks += raw[at:]
    if not _END.fullmatch(raw, at) or _openers(record) < sum(marks.count(opener) for opener in b"{["):
        return None
    return line


def _openers(value: Any) -> int:
    """How many objects and arrays there are, empty ones too."""
    if isinstance(value, dict):
        return 1 + sum(map(_openers, value.values()))
    return 1 + sum(map(_openers, value)) if isinstance(value, list) else 0


def _scalars(value: Any) -> list[bytes]:
    """Keys and leaves in order, as they are written in JSON."""
    if isinstance(value, dict):
        return [part for key, item in value.items() for part in (*_scalars(key), *_scalars(item))]
    if isinstance(value, list):
        return [part for item in value for part in _scalars(item)]
    return [orjson.dumps(value)]
