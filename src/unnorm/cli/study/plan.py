"""`unnorm study plan`."""

from unnorm.cli.output import JsonOption, emit_json, emit_table, say
from unnorm.cli.study.options import LEDGER, Ledger, StudyFile, cell_name


def plan(study: StudyFile, ledger: Ledger = LEDGER, json: JsonOption = False) -> None:
    """Show every cell: what trains, tokens, steps, time and memory from a measured step, and what is done."""
    from unnorm.study.estimate import estimates
    from unnorm.study.ledger import check_format, state_of
    from unnorm.study.plan import plan_cells
    from unnorm.study.spec import read_spec
    from unnorm.study.workbench import Workbench

    spec, _ = read_spec(study)
    check_format(ledger)
    bench = Workbench(quiet=json)
    planned = plan_cells(spec, ledger, bench)
    say(f"{len(planned)} cells; measuring one training step of each kind")
    found = estimates(planned, bench)
    records = [
        {
            "model": cell.settings.model_name,
            "dataset": cell.settings.dataset_name,
            "arm": cell.settings.arm.id,
            "strategy": cell.settings.strategy,
            "seed": cell.settings.seed,
            "cell": cell.cell,
            "state": state_of(cell.folder)[0],
            "trainable_parameters": estimate.trainable.parameters,
            "total_parameters": estimate.trainable.total_parameters,
            "tokens": estimate.tokens,
            "steps": estimate.steps,
            "estimated_seconds": estimate.seconds,
            "memory_bytes": estimate.memory_bytes,
        }
        for cell, estimate in zip(planned, found, strict=True)
    ]
    left = sum(r["estimated_seconds"] for r in records if r["state"] != "done")  # type: ignore[misc]
    if json:
        emit_json({"study": spec.name, "cells": records, "estimated_seconds_left": left})
        return
    rows = [
        [
            cell_name(r),
            str(r["state"]),
            " + ".join(f"{n:,} {group}" for group, n in r["trainable_parameters"].items()),  # type: ignore[attr-defined]
            f"{r['tokens']:,}",
            f"{r['steps']:,}",
            f"{r['estimated_seconds'] / 60:.1f}",  # type: ignore[operator]
            f"{r['memory_bytes'] / 2**30:.1f}",  # type: ignore[operator]
        ]
        for r in records
    ]
    columns = ["cell", "state", "trains", "tokens", "steps", "minutes", "GiB"]
    emit_table(f"{spec.name}: about {left / 60:.0f} minutes left here", columns, rows, align_right_from=3)
