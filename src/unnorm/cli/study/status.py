"""`unnorm study status`."""

from unnorm.cli.output import JsonOption, emit_json, emit_table
from unnorm.cli.study.options import LEDGER, Ledger, StudyFile, cell_name, view_of


def status(study: StudyFile, ledger: Ledger = LEDGER, json: JsonOption = False) -> None:
    """Show the state of every cell, and why failed ones failed."""
    view = view_of(study, ledger, logs=True)
    records = [
        {
            "model": cell.model,
            "dataset": cell.dataset,
            "arm": cell.arm,
            "strategy": cell.strategy,
            "seed": cell.seed,
            "state": cell.state,
            "step": cell.steps[-1]["step"] if cell.steps else 0,
            "loss": cell.steps[-1]["loss"] if cell.steps else None,
            "error": cell.error,
        }
        for cell in view.cells
    ]
    if json:
        emit_json({"study": view.name, "cells": records})
        return
    rows = [
        [
            cell_name(r),
            str(r["state"]),
            str(r["step"] or ""),
            f"{r['loss']:.4f}" if r["loss"] is not None else "",
            str(r["error"] or ""),
        ]
        for r in records
    ]
    done = sum(cell.done for cell in view.cells)
    columns = ["cell", "state", "step", "train loss", "error"]
    emit_table(f"{view.name}: {done} of {len(rows)} cells done", columns, rows, align_right_from=9)
