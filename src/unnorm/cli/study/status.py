"""`unnorm study status`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unnorm.cli.output import JsonOption, emit_json, print_table, table_of
from unnorm.cli.study.options import LEDGER, Ledger, StudyFile, cell_name, view_of

if TYPE_CHECKING:
    from unnorm.study.status import CellStatus

_COLUMNS = ("cell", "state", "step", "train loss", "who", "heartbeat", "why")


def status(
    study: StudyFile,
    ledger: Ledger = LEDGER,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")] = False,
    json: JsonOption = False,
) -> None:
    """Show the state of every cell, who runs it, and why failed ones failed. Reads only."""
    from unnorm.foundation.errors import SettingsError
    from unnorm.study.lease import Watch
    from unnorm.study.status import LOOK_SECONDS, status_of

    if watch and json:
        raise SettingsError("--watch is for people; call status --json as often as you like instead.")
    eyes = Watch(look_every=LOOK_SECONDS)
    view = view_of(study, ledger, logs=False)
    if watch:
        _watch(study, ledger, eyes, LOOK_SECONDS)
        return
    cells = status_of(view, eyes)
    if json:
        emit_json({"study": view.name, "cells": [_record(cell) for cell in cells]})
        return
    print_table(_table(view.name, cells))


def _watch(study: Path, ledger: Path, eyes: Any, seconds: float) -> None:
    import time

    from rich.console import Console
    from rich.live import Live

    from unnorm.study.status import status_of

    with Live(console=Console(), auto_refresh=False) as live:
        try:
            while True:
                view = view_of(study, ledger, logs=False)
                live.update(_table(view.name, status_of(view, eyes)), refresh=True)
                time.sleep(seconds)
        except KeyboardInterrupt:
            return


def _record(cell: "CellStatus") -> dict[str, Any]:
    stages = {
        name: {"state": state, "failure": failure, "error": error}
        for name, (state, failure, error) in cell.stages.items()
    }
    return {**cell._asdict(), "stages": stages}


def _table(name: str, cells: "list[CellStatus]") -> Any:
    rows = [
        [
            cell_name(cell._asdict()) + (f", rate {cell.tried_rate:g}" if cell.tried_rate is not None else ""),
            cell.state,
            str(cell.step or ""),
            f"{cell.loss:.4f}" if cell.loss is not None else "",
            f"{cell.host} {cell.pid}" if cell.host else "",
            f"{cell.heartbeat_seconds:.0f} s ago" if cell.heartbeat_seconds is not None else "",
            "; ".join(_reasons(cell)),
        ]
        for cell in cells
    ]
    done = sum(cell.state == "done" for cell in cells)
    return table_of(f"{name}: {done} of {len(rows)} cells done", _COLUMNS, rows, align_right_from=9)


def _reasons(cell: "CellStatus") -> list[str]:
    reasons = [": ".join(part for part in (cell.failure, cell.error) if part)] if cell.failure or cell.error else []
    for name, (state, failure, error) in cell.stages.items():
        if state != "done":
            reasons.append(f"{name} {state}" + (f": {failure}: {error}" if error else ""))
    return reasons
