"""Running a study: its cells are planned, what is open is done by as many processes as asked for, results written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from unnorm.artefacts.manifest import library_versions
from unnorm.evaluation.questions import read_questions
from unnorm.foundation import atomic
from unnorm.study import ledger as ledger_module
from unnorm.study.audit import audit
from unnorm.study.plan import Planned, plan_cells
from unnorm.study.results import write_results
from unnorm.study.spec import StudyFile
from unnorm.study.tasks import Timing, is_open, reopen
from unnorm.study.view import STUDY, StudyView, read_study
from unnorm.study.work import Work, cell_tasks, stage_tasks, work_through
from unnorm.study.workbench import Workbench
from unnorm.study.workers import run_workers

Say = Callable[[str], None]


def run_study(
    spec: StudyFile,
    source: str,
    ledger: Path,
    *,
    retry_failed: bool = False,
    workers: int = 1,
    report_to: tuple[str, ...] = (),
    quiet: bool = False,
    say: Say = lambda text: None,
    timing: Timing | None = None,
) -> StudyView:
    """Run every cell of the study that is not done, and the stages after it. Returns the study as it then stands.

    source: the study file's text, kept beside the results. A cell or stage that fails is recorded with its error and
    does not stop the others; it is run again only with `retry_failed`. Others may run the same study at the same time,
    here or on another machine that sees the folder: the work is shared. workers: processes; with one, this one works
    itself. report_to: transformers' names of trackers. `Interrupted` and a full disk end the run, and the same call
    goes on from there.
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
    work = Work(planned, spec.after, report_to, quiet)
    try:
        do_work(work, bench, retry_failed=retry_failed, workers=workers, say=say, timing=timing, results=folder)
    finally:
        _finish(folder, planned)
    return read_study(folder)


def do_work(
    work: Work,
    bench: Workbench,
    *,
    retry_failed: bool,
    workers: int,
    say: Say,
    timing: Timing | None,
    results: Path,
) -> None:
    """Do the work, or what others leave of it, in this process or in workers. results: the study's folder."""
    cells = cell_tasks(work, bench, say)
    if retry_failed:
        for task in [*cells, *stage_tasks(work)]:
            reopen(task)
    left = sum(is_open(task) for task in cells)
    say(f"{len(cells)} cells: {len(cells) - left} finished before, {left} to run")

    def ended() -> None:
        write_results(read_study(results, logs=False))

    if workers == 1:
        work_through(work, bench, say=say, ended=ended, timing=timing)
    else:
        bench.let_go()
        run_workers(work, workers, say=say, ended=ended, timing=timing)


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
