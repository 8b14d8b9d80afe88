"""The ledger: a study's state on disk, and the only truth about it.

    LEDGER/cells/NAME-HASH/   one folder a cell, shared by every study that has this cell
    LEDGER/starts/HASH/       one folder a recovered start, shared by every cell that begins from it
    LEDGER/STUDY/             what belongs to one study: its file as it was run, results, report

A cell's state is its newest entry (`lease.py`), which is whole at any moment; nothing depends on a process staying
alive.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from unnorm.foundation import atomic
from unnorm.foundation.errors import ArtefactError, DataError, DiskError
from unnorm.study import engines
from unnorm.study.attempt import is_unpublished
from unnorm.study.lease import Entry, TaskFolder, newest

FORMAT = 2
_STATE_OF_KIND = {"released": "interrupted", "lost": "interrupted", "reopened": "waiting", "failed": "failed"}


class Standing(NamedTuple):
    """How a task stands; why it failed, and of which class (`failures.Failure`); its newest entry.

    state: waiting, failed, done; running: it is held, by an owner that is not known to be gone; interrupted: it was
    begun, and is held by nobody.
    """

    state: str
    error: str | None = None
    failure: str | None = None
    entry: Entry | None = None


def cell_folder(ledger: Path, resolved: Mapping[str, Any], cell: str) -> Path:
    """Where the cell of a resolved configuration lies: its hash decides, the prefix is for people."""
    names = (resolved["model"]["name"], resolved["data"]["name"], resolved["arm"]["id"])
    parts = (*names, resolved["strategy"], f"s{resolved['seed']}")
    return ledger / "cells" / folder_name(parts, cell)


def folder_name(parts: Iterable[object], digest: str) -> str:
    """`digest`, after a prefix that people can read."""
    prefix = "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", str(part))[-40:] for part in parts)
    return f"{prefix}-{digest}"


def standing_of(folder: Path) -> Standing:
    """How a cell or a recovered start stands."""
    task = TaskFolder(folder)
    last = newest(task)
    return standing_of_entry(task, last) if last is not None else Standing("waiting")


def stages_of(folder: Path, only: Collection[str] | None = None) -> dict[str, Standing]:
    """How the stages after training stand that were begun in a folder: name -> standing. only: those of these names, as
    other studies, and this one under other settings, have stages there too."""
    found = {}
    for path in sorted(folder.glob("*-lease")):
        task = TaskFolder(folder, path.name.removesuffix("-lease"))
        last = newest(task) if only is None or task.stage in only else None
        if last is not None:
            found[task.stage] = standing_of_entry(task, last)
    return found


def standing_of_entry(task: TaskFolder, last: Entry) -> Standing:
    """How a task stands whose newest entry is `last`."""
    if last.kind == "claimed":
        gone = engines.is_gone(last.content)
        return Standing("interrupted" if gone else "running", None, "interrupted" if gone else None, last)
    if last.kind == "failed":
        return Standing("failed", last.content.get("error"), last.content.get("failure"), last)
    if last.kind != "done":
        state = _STATE_OF_KIND[last.kind]
        return Standing(state, None, state if state == "interrupted" else None, last)
    if is_unpublished(task, last):
        return Standing("running", None, None, last)
    return Standing("done", entry=last)


def result_of(folder: Path) -> dict[str, Any]:
    """The numbers of a cell that is done."""
    return _read_of_done(folder, "result.json")


def settings_of(folder: Path) -> dict[str, Any]:
    """The resolved configuration of a cell that is done, as its hash is made of."""
    return dict(_read_of_done(folder, "cell.json")["settings"])


def _read_of_done(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        raise ArtefactError(f"{folder} says it is done but holds no {name}. Delete the folder and run again.")
    return _read(path)


def check_writable(ledger: Path) -> None:
    """Refuse a ledger that cannot be written, before anything is computed."""
    try:
        atomic.write_json(ledger / "format.json", {"format": FORMAT})
    except OSError as error:
        raise DiskError(f"cannot write the ledger {ledger}: {error.strerror}. Choose another --ledger.") from error


def other_format(found: object) -> str:
    """What is wrong with a format that is not ours, and what to do."""
    newer = isinstance(found, int) and found > FORMAT
    what = "Install a newer unnorm." if newer else "It is from before the first release: give another --ledger."
    return f"has format {found}; this unnorm reads format {FORMAT}. {what}"


def check_format(ledger: Path) -> None:
    """Refuse a ledger of another version."""
    path = ledger / "format.json"
    if path.is_file():
        found = _read(path).get("format")
        if found != FORMAT:
            raise ArtefactError(f"{ledger} {other_format(found)}")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = atomic.read_json(path)
    except DataError as error:
        raise ArtefactError(str(error)) from error
    if not isinstance(content, dict):
        raise ArtefactError(f"{path} is damaged. Delete the folder it stands in and run again.")
    return content
