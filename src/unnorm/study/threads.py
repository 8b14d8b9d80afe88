"""The threads that a study's cells compute on: found once for each base, kept with the study, the same in every arm.

    LEDGER/STUDY/threads.json   base's hash -> how many, since when a run of the study has found it

Sums are rounded otherwise on another number of threads, so a cell goes on with the number it began with
(`attempt.json`), and the number is part of the environment that the audit compares.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from unnorm.foundation import atomic, threads
from unnorm.foundation.processes import is_main
from unnorm.foundation.threads import Threads
from unnorm.study import fewer_rows
from unnorm.tuning.threads import threads_for

NAME = "threads.json"

_found: dict[str, Threads] = {}
"""Of this process, as the number of threads itself is."""


def settle(base_hash: str, model: Any) -> Threads:
    """Compute on the threads that pay for a base, from now on. Measured the first time that the base is met."""
    if base_hash not in _found:
        _found[base_hash] = threads_for(model)
    found = threads.decided() or _found[base_hash]
    threads.use(found.number)
    return found


def go_on(folder: Path, base_hash: str, model: Any) -> bool:
    """Compute on as many threads as what is in `folder` began with, or else on those that pay for its base, and
    remember them there. Returns whether that is another number than before."""
    begun, before = fewer_rows.begun(folder), torch.get_num_threads()
    if begin_on(begun, lambda: settle(base_hash, model)) is not None and is_main():
        atomic.write_json(folder / fewer_rows.FILE, {**begun, "threads": torch.get_num_threads()})
    return torch.get_num_threads() != before


def begin_on(begun: Mapping[str, Any], find: Callable[[], Threads]) -> Threads | None:
    """Compute on as many threads as a run began with (`begun["threads"]`), as sums are rounded otherwise on more or
    fewer; or else on those that `find` finds, which are returned."""
    if "threads" in begun:
        threads.use(int(begun["threads"]))
        return None
    found = find()
    threads.use(found.number)
    return found


def recall(folder: Path) -> None:
    """Take over what the study in `folder` has found, where this machine has as many cores."""
    path = folder / NAME
    for base_hash, number in atomic.read_json(path).items() if path.is_file() else ():
        if number <= threads.most():
            _found[base_hash] = Threads(number, "this study began so")


def most_of(folder: Path) -> int:
    """The most threads that a base of the study in `folder` computes on."""
    path = folder / NAME
    return max([1, *map(int, atomic.read_json(path).values() if path.is_file() else ())])


def keep(folder: Path, bases: Mapping[str, str]) -> list[str]:
    """Let later runs of the study in `folder` compute on as many threads as this one. bases: name -> hash of those that
    `settle` has met. Returns a line for each, for people."""
    path = folder / NAME
    known = atomic.read_json(path) if path.is_file() else {}
    atomic.write_json(path, known | {base_hash: _found[base_hash].number for base_hash in bases.values()})
    return [f"{name}: computing on {_found[base_hash].describe()}" for name, base_hash in bases.items()]
