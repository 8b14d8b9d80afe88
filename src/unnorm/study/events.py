"""What happened to a cell, for people: events.jsonl. It is history; the state is the newest entry of the lease."""

import os
import time
from pathlib import Path
from typing import Any

import orjson

from unnorm.foundation import atomic
from unnorm.foundation.processes import this_process
from unnorm.study.lease import Entry, Lease, TaskFolder, entries
from unnorm.tuning.run_log import RunLog

NAME = "events.jsonl"
CELL = "cell"
"""What stands for a stage in the events of the cell itself."""


def record(lease: Lease, event: str, **more: Any) -> None:
    """Append one event: claimed, resumed, taken_over, checkpoint, retried, failed, released, fenced or done."""
    _append(lease.task, event, lease.number, **more)


def record_end(task: TaskFolder, end: Entry) -> None:
    """Append the event of the entry that ended a claim, unless it is there: its writer may have died before that."""
    number = end.content.get("of")
    same = (end.kind, task.stage or CELL, number)
    if not any((e["event"], e["stage"], e["generation"]) == same for e in read_events(task.path)):
        kept = {name: end.content[name] for name in ("failure", "error") if name in end.content}
        _append(task, end.kind, number, **kept)


def read_events(folder: Path) -> list[dict[str, Any]]:
    """All events of a cell: time, event, stage, generation (the claim's number), host, pid, and what belongs to it."""
    return RunLog(folder / NAME).read()


def how_begun(lease: Lease) -> str:
    """`claimed` where nobody was before, `resumed` after a release, `taken_over` after a death, `retried`."""
    before = [entry for entry in entries(lease.task) if entry.number < lease.number]
    kinds = {"claimed": "taken_over", "lost": "taken_over", "released": "resumed", "reopened": "retried"}
    return kinds.get(before[-1].kind, "claimed") if before else "claimed"


def _append(task: TaskFolder, event: str, number: int | None, **more: Any) -> None:
    me = this_process()
    content = {"time": time.time(), "event": event, "stage": task.stage or CELL, "generation": number}
    line = orjson.dumps({**content, "host": me["host"], "pid": me["pid"], **more}) + b"\n"
    path = task.path / NAME
    with atomic.disk_errors(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, line)  # one write: lines of two writers do not mix
        finally:
            os.close(handle)
