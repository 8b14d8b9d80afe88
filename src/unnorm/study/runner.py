"""The local runner: cells one after another in this process, what they share prepared once, failures recorded."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unnorm.artefacts.manifest import library_versions
from unnorm.evaluation.questions import read_questions
from unnorm.foundation import atomic, progress
from unnorm.foundation.errors import DiskError, Interrupted, UnnormError
from unnorm.study import ledger as ledger_module
from unnorm.study.after import complete_cell
from unnorm.study.audit import audit
from unnorm.study.cell import CellSettings, run_cell, write_state
from unnorm.study.plan import Planned, plan_cells
from unnorm.study.results import write_results
from unnorm.study.spec import Completions, StudyFile
from unnorm.study.view import STUDY, StudyView, read_study
from unnorm.study.workbench import Workbench

Say = Callable[[str], None]


def run_study(
    spec: StudyFile,
    source: str,
    ledger: Path,
    *,
    retry_failed: bool = False,
    quiet: bool = False,
    say: Say = lambda text: None,
) -> StudyView:
    """Run every cell of the study that is not done, and the stages after it. Returns the study as it then stands.

    source: the study file's text, kept beside the results. A cell that fails is recorded with its error and does not
    stop the others; it is run again only with `retry_failed`. `Interrupted` and a full disk end the run, and the same
    call goes on from there.
    """
    ledger = Path(ledger)
    ledger_module.check_format(ledger)
    bench = Workbench(quiet=quiet)
    planned = plan_cells(spec, ledger, bench)
    if spec.after.completions:
        read_questions(spec.after.completions.prompts)  # a mistake in it shows now, not after hours of training
    ledger_module.check_writable(ledger)
    folder = ledger / spec.name
    _write_study(folder, spec, source, planned)
    started, fresh = time.monotonic(), 0
    todo = [cell for cell in planned if _is_open(cell, retry_failed)]
    say(f"{len(planned)} cells: {len(planned) - len(todo)} finished before, {len(todo)} to run")
    try:
        for cell in planned:
            if cell in todo:
                left = _time_left(time.monotonic() - started, fresh, len(todo))
                with progress.scope(f"cell {fresh + 1}/{len(todo)} {_name(cell.settings)}{left}: "):
                    _run_one(cell, bench, quiet, say)
                fresh += 1
                write_results(read_study(folder, logs=False))
            if spec.after.completions and ledger_module.state_of(cell.folder)[0] == "done":
                _complete(cell, spec.after.completions, say)
    finally:
        _finish(folder, planned)
    return read_study(folder)


def _run_one(cell: Planned, bench: Workbench, quiet: bool, say: Say) -> None:
    name = _name(cell.settings)
    try:
        result = run_cell(cell.settings, cell.folder, bench=bench, quiet=quiet)
    except (DiskError, Interrupted):
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        write_state(cell.folder, cell.cell, cell.resolved, "failed", text)
        say(f"{name}: FAILED: {error if isinstance(error, UnnormError) else text}")
    else:
        say(f"{name}: {result['start_eval_loss']:.4f} → {result['eval_loss']:.4f} in {result['wall_seconds']:.0f} s")


def _complete(cell: Planned, wanted: Completions, say: Say) -> None:
    try:
        complete_cell(cell.settings, cell.cell, cell.folder, wanted)
    except (DiskError, Interrupted):
        raise
    except Exception as error:  # the cell itself is done and stays so; the stage is tried again by the next run
        say(f"{_name(cell.settings)}: completions FAILED: {type(error).__name__}: {error}")


def _is_open(cell: Planned, retry_failed: bool) -> bool:
    state, _ = ledger_module.state_of(cell.folder)
    return state in ("waiting", "running") or (state == "failed" and retry_failed)


def _finish(folder: Path, planned: list[Planned]) -> None:
    study = read_study(folder, logs=False)
    done = [entry for entry, cell in zip(_entries(planned), study.cells, strict=True) if cell.done]
    atomic.write_json(folder / "audit.json", audit(done, study.arms, {cell.cell: cell.folder for cell in planned}))
    write_results(study)


def _write_study(folder: Path, spec: StudyFile, source: str, planned: list[Planned]) -> None:
    content = {
        "format": ledger_module.FORMAT,
        "name": spec.name,
        "source": source,
        "arms": [arm.id for arm in spec.resolved_arms()],
        "strategies": list(spec.strategies),
        "models": list(dict.fromkeys(cell.settings.model_name for cell in planned)),
        "datasets": list(dict.fromkeys(cell.settings.dataset_name for cell in planned)),
        "seeds": list(spec.seeds),
        "cells": _entries(planned),
        "versions": library_versions(),
    }
    atomic.write_json(folder / STUDY, content)


def _entries(planned: list[Planned]) -> list[dict[str, Any]]:
    return [
        {
            "cell": cell.cell,
            "folder": cell.folder.name,
            "model": cell.settings.model_name,
            "dataset": cell.settings.dataset_name,
            "arm": cell.settings.arm.id,
            "strategy": cell.settings.strategy,
            "seed": cell.settings.seed,
        }
        for cell in planned
    ]


def _name(settings: CellSettings) -> str:
    parts = (settings.model_name, settings.dataset_name, settings.arm.id, settings.strategy, f"seed {settings.seed}")
    return " / ".join(parts)


def _time_left(elapsed: float, done: int, total: int) -> str:
    if not done:
        return ""
    return f", about {elapsed / done * (total - done) / 60:.0f} min left"
