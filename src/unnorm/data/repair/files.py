"""A damaged file in, three out: the records, the report, and what was rejected. They appear together or not at all."""

import base64
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from unnorm.data.repair.damage import LOSING, Account, Damage, Kept, Rejected
from unnorm.data.repair.engine import Repair
from unnorm.data.repair.stream import Stream
from unnorm.foundation import atomic
from unnorm.foundation.errors import DataError, SettingsError
from unnorm.foundation.progress import Bar

MAX_RECORD = 64 << 20
"""Bytes; a longer record is rejected."""

_LINES = (".jsonl", ".ndjson")
WRITTEN = (*_LINES, ".json", ".parquet")
"""What the name of a file of records may end in; one that ends in nothing gets lines."""


@dataclass(frozen=True)
class Repaired:
    """What a repair did. `columns`: column -> type -> records; `table`: column -> type in Parquet, or None."""

    out: Path
    report: Path
    rejected: Path
    account: Account
    columns: dict[str, dict[str, int]]
    table: dict[str, str] | None

    @property
    def drifting(self) -> dict[str, dict[str, int]]:
        """The columns that have values of several types, null and the two sorts of numbers not told apart."""
        drifting = {}
        for name, types in self.columns.items():
            kinds = {"number" if kind == "integer" else kind for kind in types} - {"null"}
            if len(kinds) > 1:
                drifting[name] = types
        return drifting


class JsonArray:
    """Takes what a file of lines would be written; writes an array into `file`, record n in line n. `end` closes it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._begun = False

    def write(self, lines: bytes) -> None:
        """Write whole lines, each a record."""
        records = lines[:-1].replace(b"\n", b",\n")  # a newline in a record is written as \n
        self._file.write((b",\n" if self._begun else b"[") + records)
        self._begun = True

    def flush(self) -> None:
        self._file.flush()

    def end(self) -> None:
        """Close the array, which may be empty."""
        self._file.write(b"]\n" if self._begun else b"[]\n")
        self._file.flush()


def repair_file(
    source: Path,
    out: Path | None = None,
    *,
    max_record: int = MAX_RECORD,
    keep_unverified: bool = False,
    quiet: bool = False,
) -> Repaired:
    """Write the records of `source` to `out`, the damages to `OUT.report.jsonl`, what is lost to `OUT.rejected.jsonl`.

    source: JSON in any state: an array, lines, several of either; plain or gzip; UTF-8 or UTF-16. out: JSONL, or what
    its name ends in: `WRITTEN`; by default `NAME.repaired.jsonl` beside `source`. max_record: bytes. keep_unverified:
    keep the records of a gzip member whose checksum fails, and mark each in the report, rather than reject them.
    Memory does not grow with the file. Raises `DataError` where there is no record, or `source` is something else than
    JSON; `SettingsError` where `out` is in the way, or ends in what is not written; `DiskError`.
    """
    source = Path(source)
    out = Path(out) if out is not None else default_out(source)
    report, rejected = (out.with_name(f"{out.name}.{what}.jsonl") for what in ("report", "rejected"))
    _check_out(source, out, report)
    total = source.stat().st_size if source.is_file() else None
    table = None
    with Bar(f"repairing {source.name}", total, quiet=quiet) as bar:
        repair = _repair(source, max_record, bar, keep_unverified)
        with atomic.files(report, rejected, out) as (report_file, rejected_file, out_file):
            if out.suffix.lower() == ".parquet":
                with tempfile.TemporaryFile(dir=out.parent) as lines:
                    _write(repair, lines, report_file, rejected_file)
                    _check_found(repair, source)
                    bar.advance(0, "writing the table")
                    from unnorm.data.repair.table import write_parquet

                    table = write_parquet(lines, out_file)
            else:
                lines_file = JsonArray(out_file) if out.suffix.lower() == ".json" else out_file
                _write(repair, lines_file, report_file, rejected_file)
                if isinstance(lines_file, JsonArray):
                    lines_file.end()
                _check_found(repair, source)
    columns = {name: dict(types) for name, types in repair.knowledge.columns.items()}
    return Repaired(out, report, rejected, repair.account, columns, table)


def repaired_records(
    source: Path,
    *,
    keep_unverified: bool = False,
    begun: Callable[[Account], None] = lambda account: None,
) -> Iterator[dict[str, Any]]:
    """The records of `source` as `repair_file` would write them, one by one; for loaders. Raises `DataError`.

    begun: is given the account at the start; it grows as records are taken, and is whole when all are.
    """
    repair = _repair(Path(source), MAX_RECORD, None, keep_unverified)
    begun(repair.account)
    for event in repair.events():
        if isinstance(event, Kept):
            for line in event.lines.splitlines():
                yield _parse(line, source)
    _check_found(repair, Path(source))


def default_out(source: Path) -> Path:
    """Where the records of `source` go if nothing else is said: beside it."""
    stem = source.name.removesuffix(".gz")
    return source.with_name(Path(stem).stem + ".repaired.jsonl")


def _repair(source: Path, max_record: int, bar: Bar | None, keep_unverified: bool) -> Repair:
    stream = Stream(source, bar.advance if bar else lambda count: None)
    suffix = Path(source.name.removesuffix(".gz")).suffix
    expects = "lines" if suffix in _LINES else "array" if suffix == ".json" else ""
    return Repair(stream, max_record, expects, keep_unverified=keep_unverified)


def _write(repair: Repair, out: BinaryIO | JsonArray, report: BinaryIO, rejected: BinaryIO) -> None:
    for event in repair.events():
        if isinstance(event, Kept):
            out.write(event.lines)
        elif isinstance(event, Rejected):
            entry = {"offset": event.offset, "length": len(event.raw), "kind": event.kind, **_raw(event.raw)}
            rejected.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
        else:
            report.write(orjson.dumps(_entry(event), option=orjson.OPT_APPEND_NEWLINE))
    out.flush()


def _entry(damage: Damage) -> dict[str, Any]:
    entry = {
        "offset": damage.offset,
        "length": damage.length,
        "kind": damage.kind,
        "action": damage.action,
        "record": damage.record,
    }
    return entry | (_raw(damage.raw) if damage.action in LOSING and damage.raw else {})


def _raw(raw: bytes) -> dict[str, str]:
    """The bytes as text, or in base64 where they are no UTF-8."""
    try:
        return {"text": raw.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def _parse(line: bytes, source: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = orjson.loads(line)
    except orjson.JSONDecodeError:  # numbers and nesting beyond orjson's limits
        try:
            record = json.loads(line)
        except RecursionError as error:
            raise DataError(
                f"{source}: a record is nested too deeply to be read. Take it out; unnorm data repair can copy it."
            ) from error
    return record


def _check_out(source: Path, out: Path, report: Path) -> None:
    if out.suffix and out.suffix.lower() not in WRITTEN:
        raise SettingsError(
            f"{out}: records are not written as {out.suffix}. Name a file that ends in one of {', '.join(WRITTEN)}."
        )
    if out.exists() and source.exists() and out.samefile(source):
        raise SettingsError(f"{out} is the damaged file itself. Name another place for the repaired records.")
    if out.is_dir():
        raise SettingsError(f"{out} is a folder. Name a file for the repaired records.")
    if out.exists() and not report.exists():
        raise SettingsError(f"{out} is there already, and no repair made it. Name another place, or move it away.")


def _check_found(repair: Repair, source: Path) -> None:
    assert repair.account.adds_up, repair.account
    if repair.record_starts == 0:
        raise DataError(
            f"{source} holds no JSON record: there is not one object in it. "
            "Look at its beginning: it may be a table, a list of plain values, or another kind of file."
        )
