"""The ledger: a study's state on disk, and the only truth about it.

    LEDGER/cells/NAME-HASH/   one folder a cell, shared by every study that has this cell
    LEDGER/STUDY/             what belongs to one study: its file as it was run, results, report

A cell's state is one file that is replaced by a rename, so it is whole at any moment; nothing depends on a process
staying alive.
"""

import re
from pathlib import Path
from typing import Any

from unnorm.foundation import atomic
from unnorm.foundation.errors import ArtefactError, DataError, DiskError
from unnorm.study.cell import CellSettings

FORMAT = 1


def cell_folder(ledger: Path, settings: CellSettings, cell: str) -> Path:
    """Where the cell lies: its hash decides, the prefix is for people."""
    parts = (settings.model_name, settings.dataset_name, settings.arm.id, settings.strategy, f"s{settings.seed}")
    prefix = "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", part)[-40:] for part in parts)
    return ledger / "cells" / f"{prefix}-{cell}"


def state_of(folder: Path) -> tuple[str, str | None]:
    """(state, error) of a cell: `waiting`, `running`, `done` or `failed`."""
    path = folder / "cell.json"
    if not path.is_file():
        return "waiting", None
    content = _read(path)
    state = content.get("state")
    if state not in ("running", "done", "failed"):
        raise ArtefactError(f"{path} holds no state that this unnorm knows: {state!r}. Delete the folder {folder}.")
    if state == "done" and not (folder / "result.json").is_file():
        raise ArtefactError(f"{folder} says it is done but holds no result.json. Delete the folder and run again.")
    return state, content.get("error")


def result_of(folder: Path) -> dict[str, Any]:
    """The numbers of a cell that is done."""
    return _read(folder / "result.json")


def check_writable(ledger: Path) -> None:
    """Refuse a ledger that cannot be written, before anything is computed."""
    try:
        atomic.write_json(ledger / "format.json", {"format": FORMAT})
    except OSError as error:
        raise DiskError(f"cannot write the ledger {ledger}: {error.strerror}. Choose another --ledger.") from error


def check_format(ledger: Path) -> None:
    """Refuse a ledger of a newer version."""
    path = ledger / "format.json"
    if path.is_file():
        found = _read(path).get("format")
        if not isinstance(found, int) or found > FORMAT:
            raise ArtefactError(
                f"{ledger} has format {found}; this unnorm reads up to {FORMAT}. Install a newer unnorm."
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = atomic.read_json(path)
    except DataError as error:
        raise ArtefactError(str(error)) from error
    if not isinstance(content, dict):
        raise ArtefactError(f"{path} is damaged. Delete the folder it stands in and run again.")
    return content
