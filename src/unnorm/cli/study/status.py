"""`unnorm study status`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unnorm.cli.output import JsonOption, emit_json, print_table, table_of
from unnorm.cli.study.options import LEDGER, Ledger, StudyFile, cell_name, view_of

if TYPE_CHECKING:
    from unnorm.study.status import CellStatus, StartStatus, Status
    from unnorm.study.view import StudyView

_COLUMNS = ("cell", "state", "step", "train loss", "who", "why")
_START_COLUMNS = ("recovered start", "state", "tokens", "loss", "gap", "who", "why")


def status(
    study: StudyFile,
    ledger: Ledger = LEDGER,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")] = False,
    json: JsonOption = False,
) -> None:
    """Show the state of every cell and recovered start, who runs it, and why failed ones failed. Reads only."""
    from unnorm.foundation.errors import SettingsError
    from unnorm.study.status import LOOK_SECONDS, status_of, status_of_starts

    if watch and json:
        raise SettingsError("--watch is for people; call status --json as often as you like instead.")
    if watch and not sys.stdout.isatty():
        raise SettingsError("--watch redraws a terminal, and this is none: call status as often as you like instead.")
    if watch:
        _watch(study, ledger, LOOK_SECONDS)
        return
    view = view_of(study, ledger, logs=False)
    if json:
        starts, cells = status_of_starts(view), status_of(view)
        found = {"starts": [start.to_dict() for start in starts], "cells": [cell.to_dict() for cell in cells]}
        emit_json({"study": view.name, **found})
        return
    for table in _tables(view):
        print_table(table)


def _watch(study: Path, ledger: Path, seconds: float) -> None:
    import time

    from rich.console import Console, Group
    from rich.live import Live

    with Live(console=Console(), auto_refresh=False) as live:
        try:
            while True:
                live.update(Group(*_tables(view_of(study, ledger, logs=False))), refresh=True)
                time.sleep(seconds)
        except KeyboardInterrupt:
            return


def _tables(view: "StudyView") -> list[Any]:
    """Starts, where there are any, and cells."""
    from unnorm.study.status import status_of, status_of_starts

    starts = status_of_starts(view)
    return [*([_table_of_starts(view.name, starts)] if starts else []), _table(view.name, status_of(view))]


def _table(name: str, cells: "list[CellStatus]") -> Any:
    rows = [
        [
            cell_name(cell.to_dict()) + (f", rate {cell.tried_rate:g}" if cell.tried_rate is not None else ""),
            cell.state,
            str(cell.step or ""),
            f"{cell.loss:.4f}" if cell.loss is not None else "",
            _whose(cell),
            "; ".join(_reasons(cell)),
        ]
        for cell in cells
    ]
    done = sum(cell.state == "done" for cell in cells)
    return table_of(f"{name}: {done} of {len(rows)} cells done", _COLUMNS, rows, align_right_from=8)


def _table_of_starts(name: str, starts: "list[StartStatus]") -> Any:
    rows = [
        [
            f"{start.model} / {', '.join(start.arms)}",
            start.state,
            f"{start.train_tokens:,} of {start.tokens:,}",
            f"{start.loss:.4f}" if start.loss is not None else "",
            f"{start.gap:+.1%}" if start.gap is not None else "",
            _whose(start),
            "; ".join(_failed(start)),
        ]
        for start in starts
    ]
    done = sum(start.state == "done" for start in starts)
    return table_of(f"{name}: {done} of {len(rows)} recovered starts done", _START_COLUMNS, rows, align_right_from=8)


def _whose(task: "Status") -> str:
    return f"{task.host} {task.pid}{f' ({task.engine})' if task.engine else ''}" if task.host else ""


def _failed(task: "Status") -> list[str]:
    return [": ".join(part for part in (task.failure, task.error) if part)] if task.failure or task.error else []


def _reasons(cell: "CellStatus") -> list[str]:
    reasons = _failed(cell)
    for name, stage in cell.stages.items():
        if stage["state"] != "done":
            why = f": {stage['failure']}: {stage['error']}" if stage["error"] else ""
            reasons.append(f"{name} {stage['state']}{why}")
    return reasons
