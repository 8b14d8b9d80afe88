"""What a ledger's folder bears, measured: made-up cells in real folders, and the entries that runs really make.

A slow folder is simulated: every call that a file server would have to answer (opening, listing, linking, renaming,
removing, asking for a file's state) sleeps first. Reading and writing what was opened do not. So the figures tell how
the ledger's own calls add up at a given latency, not what a real server does under load.
"""

import builtins
import io
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from unnorm.foundation.progress import Bar
from unnorm.study.attempt import publish
from unnorm.study.lease import TaskFolder, add_entry, newest

CALLS = ("open", "listdir", "scandir", "mkdir", "rmdir", "link", "unlink", "remove", "rename", "replace", "stat",
         "lstat", "chmod", "fsync")  # fmt: skip
"""Of `os`; and `open` of Python itself."""
FILES = ("result.json", "steps.jsonl", "evaluations.jsonl", "held_out.parquet", "model/manifest.json",
         "model/adapter_model.safetensors")  # fmt: skip
"""What a cell's attempt is made of here."""


class Figure(NamedTuple):
    """One operation on a ledger of so many cells. latency: seconds that each call slept; calls: of each operation;
    seconds: median of one operation; timed: how many were."""

    operation: str
    cells: int
    latency: float
    calls: float
    seconds: float
    timed: int


class Calls:
    """How many calls were made while `slow` was open."""

    def __init__(self) -> None:
        self.count = 0


@contextmanager
def slow(latency: float) -> Iterator[Calls]:
    """While open, every call in `CALLS` is counted, and sleeps for `latency` seconds first."""
    calls = Calls()

    def delayed(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            calls.count += 1
            if latency:
                time.sleep(latency)
            return real(*args, **more)

        return call

    places: list[tuple[Any, str]] = [(os, name) for name in CALLS] + [(builtins, "open"), (io, "open")]
    real = [(place, name, getattr(place, name)) for place, name in places]
    try:
        for place, name, function in real:
            setattr(place, name, delayed(function))
        yield calls
    finally:
        for place, name, function in real:
            setattr(place, name, function)


def make_cells(ledger: Path, count: int, *, quiet: bool = False) -> list[TaskFolder]:
    """So many cells, each claimed."""
    tasks = [TaskFolder(ledger / "cells" / f"made-up-{number:08d}") for number in range(count)]
    with Bar(f"making {count:,} cells", count, quiet=quiet) as bar:
        for task in tasks:
            add_entry(task, 1, "claimed", key="made-up")
            bar.advance(1)
    return tasks


def make_attempt(task: TaskFolder) -> None:
    """What a cell's worker leaves before it commits."""
    for name in FILES:
        path = task.attempt(1) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}\n")


def open_tasks(tasks: list[TaskFolder]) -> int:
    """How many are neither done nor failed: what one look over the ledger finds."""
    return sum((last := newest(task)) is None or last.kind not in ("done", "failed") for task in tasks)


def measure(ledger: Path, cells: int, latency: float, samples: int, *, quiet: bool = False) -> list[Figure]:
    """Every operation on a ledger of `cells` cells in the empty folder `ledger`; at most `samples` of each are timed.

    Half of the cells are done when they are looked through.
    """
    tasks = make_cells(ledger, cells, quiet=quiet)
    step = max(1, cells // min(samples, cells))
    chosen = tasks[::step][:samples]
    more = [TaskFolder(ledger / "cells" / f"more-{number:08d}") for number in range(len(chosen))]
    for task in chosen:
        make_attempt(task)
    done = [task for number, task in enumerate(tasks) if number % 2 and task not in set(chosen)]
    for task in done[: max(0, cells // 2 - len(chosen))]:
        add_entry(task, 2, "done", key="made-up", of=1)
    each: dict[str, Callable[[int], Any]] = {
        "claim": lambda number: add_entry(more[number], 1, "claimed", key="made-up"),
        "read the newest": lambda number: newest(chosen[number]),
        "commit": lambda number: add_entry(chosen[number], 2, "done", key="made-up", of=1),
        "publish": lambda number: publish(chosen[number]),
    }
    found = []
    with Bar(f"{cells:,} cells, {latency * 1e3:g} ms", len(each) + 1, quiet=quiet) as bar:
        for name, operation in each.items():
            found.append(_timed(name, operation, len(chosen), cells, latency))
            bar.advance(1, name)
        found.append(_timed("look through all", lambda number: open_tasks(tasks), 1, cells, latency))
        bar.advance(1)
    return found


def _timed(name: str, operation: Callable[[int], Any], count: int, cells: int, latency: float) -> Figure:
    took = []
    with slow(latency) as calls:
        for number in range(count):
            started = time.perf_counter()
            operation(number)
            took.append(time.perf_counter() - started)
    return Figure(name, cells, latency, calls.count / count, statistics.median(took), count)
