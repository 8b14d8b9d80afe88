"""Rows written in several layouts, and single faults put into one of them at a random place of its grammar."""

import json
import random
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)

Row = dict[str, Any]


def pretty(rows: list[Row], indent: int = 4) -> tuple[bytes, list[bytes], bytes, bytes]:
    """(opening, texts of the rows, what stands between two, closing) of an array over several lines."""
    whole = [json.dumps(row, indent=indent, ensure_ascii=False).replace("\n", "\n" + " " * indent) for row in rows]
    return b"[\n" + b" " * indent, [text.encode() for text in whole], b",\n" + b" " * indent, b"\n]"


def compact(rows: list[Row]) -> tuple[bytes, list[bytes], bytes, bytes]:
    return b"[", [json.dumps(row, separators=(",", ":")).encode() for row in rows], b",", b"]"


def spaced(rows: list[Row]) -> tuple[bytes, list[bytes], bytes, bytes]:
    return b"[", [json.dumps(row).encode() for row in rows], b", ", b"]"


def lines(rows: list[Row]) -> tuple[bytes, list[bytes], bytes, bytes]:
    return b"", [json.dumps(row, ensure_ascii=False).encode() for row in rows], b"\n", b"\n"


LAYOUTS = {"pretty": pretty, "compact": compact, "spaced": spaced, "lines": lines}


def tokens(text: bytes) -> list[tuple[bytes, int, int]]:
    return [(match[0], match.start(), match.end()) for match in TOKEN.finditer(text)]


def _pick(text: bytes, random: random.Random, mark: bytes, skip_last: bool = False) -> tuple[int, int]:
    places = [(start, end) for token, start, end in tokens(text) if token[:1] == mark]
    if skip_last and len(places) > 1:
        places = places[:-1]
    return random.choice(places)


def _cut(text: bytes, start: int, end: int, new: bytes = b"") -> bytes:
    return text[:start] + new + text[end:]


def missing(mark: bytes) -> Callable[[bytes, random.Random], bytes]:
    def fault(text: bytes, random: random.Random) -> bytes:
        start, end = _pick(text, random, mark)
        if mark == b'"':
            start = random.choice((start, end - 1))
        return _cut(text, start, start + 1)

    return fault


def doubled(mark: bytes) -> Callable[[bytes, random.Random], bytes]:
    def fault(text: bytes, random: random.Random) -> bytes:
        start, end = _pick(text, random, mark)
        if mark == b'"':
            start = random.choice((start, end - 1))
        return _cut(text, start, start, mark)

    return fault


def trailing_comma(text: bytes, random: random.Random) -> bytes:
    closers = [start for token, start, _ in tokens(text) if token in (b"}", b"]")]
    start = random.choice(closers)
    return text if text[:start].rstrip()[-1:] in b"{[" else _cut(text, start, start, b",")


def truncated(text: bytes, random: random.Random) -> bytes:
    return text[: random.randrange(2, len(text.rstrip(b"}] \n")))]


def in_a_string(what: bytes) -> Callable[[bytes, random.Random], bytes]:
    def fault(text: bytes, random: random.Random) -> bytes:
        strings = [
            (start, end)
            for (token, start, end), (after, *_) in zip(tokens(text), [*tokens(text)[1:], (b"", 0, 0)], strict=True)
            if token[:1] == b'"' and after != b":" and end - start > 2
        ]
        start, end = random.choice(strings)
        at = random.randrange(start + 1, end - 1)
        while text[at - 1 : at] == b"\\" or text[at] & 0xC0 == 0x80 or re.search(rb"\\u?[0-9a-f]{0,3}\Z", text[:at]):
            at -= 1
        return _cut(text, max(at, start + 1), max(at, start + 1), what)

    return fault


def as_python(text: bytes, random: random.Random) -> bytes:
    return repr(json.loads(text)).encode("utf-8", "surrogatepass")


def encoded_twice(text: bytes, random: random.Random) -> bytes:
    return json.dumps(text.decode()).encode()


FAULTS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "missing comma": missing(b","),
    "missing quote": missing(b'"'),
    "missing colon": missing(b":"),
    "missing closing brace": missing(b"}"),
    "missing opening brace": missing(b"{"),
    "doubled comma": doubled(b","),
    "doubled quote": doubled(b'"'),
    "doubled colon": doubled(b":"),
    "doubled closing brace": doubled(b"}"),
    "doubled opening brace": doubled(b"{"),
    "trailing comma": trailing_comma,
    "truncated": truncated,
    "raw newline": in_a_string(b"\n"),
    "raw tab": in_a_string(b"\t"),
    "NUL": in_a_string(b"\0"),
    "escape character": in_a_string(b"\x1b"),
    "invalid UTF-8": in_a_string(b"\xff\xfe"),
    "cut UTF-8": in_a_string(b"\xe2\x82"),
    "lone surrogate": in_a_string(b"\\ud83d"),
    "python": as_python,
    "encoded twice": encoded_twice,
}
LIST_FAULTS = {
    "missing closing bracket": missing(b"]"),
    "missing opening bracket": missing(b"["),
    "doubled closing bracket": doubled(b"]"),
    "doubled opening bracket": doubled(b"["),
}
EXACT = {
    "missing colon", "missing closing brace", "missing opening brace", "doubled comma", "doubled colon",
    "doubled closing brace", "trailing comma", "encoded twice",
}  # fmt: skip
"""Faults after which the row must come back as it was, wherever in it they are."""

CHANGING = {
    "raw newline", "raw tab", "NUL", "escape character", "invalid UTF-8", "cut UTF-8", "lone surrogate",
}  # fmt: skip
"""Faults that put something into a string, where it stays or is replaced."""


@lru_cache
def real_rows(shared: Path, name: str) -> list[Row]:
    if name == "alpaca":
        return json.loads((shared / "data" / "alpaca" / "alpaca_data.json").read_bytes())
    if name == "sharegpt":
        return json.loads((shared / "data" / "sharegpt" / "sharegpt_real_1k.json").read_bytes())
    return [json.loads(line) for line in (shared / "data" / "mt_bench" / "question.jsonl").read_bytes().splitlines()]


def made_rows(random: random.Random, count: int = 60) -> list[Row]:
    """Rows with nesting, escapes, all of Unicode and text that looks like JSON; the same keys in each."""
    alphabet = ['"', "\\", "/", "\n", "\t", "{", "}", "[", "]", ",", ":", " ", "a", "é", "漢", "😀", "\u2028", "\x7f"]
    looks_like_json = ['{"id": 1, "text": "x"}', '}, {"id": 2', '"], "tags": [', '\\"', "null", "'quoted'"]

    def text() -> str:
        parts = [random.choice(alphabet) for _ in range(random.randrange(0, 30))]
        if random.random() < 0.2:
            parts.append(random.choice(looks_like_json))
        return "".join(parts) + f" {random.randrange(10**9)} words."

    return [
        {
            "id": number,
            "text": text(),
            "tags": [text() for _ in range(random.randrange(1, 4))],
            "turns": [
                {"from": random.choice(("human", "gpt")), "value": text()} for _ in range(random.randrange(1, 4))
            ],
            "score": random.choice((0.5, -1e-7, 3, None, True)),
            "meta": {"lang": "en", "deep": {"x": [[1, 2], [text()]]}},
        }
        for number in range(count)
    ]
