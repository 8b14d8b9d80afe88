"""The local runner: cells one after another in this process, what they share prepared once, failures recorded."""

import time
from collections.abc import Callable
from pathlib import Path

from unnorm.foundation import progress
from unnorm.foundation.errors import DiskError, Interrupted, UnnormError
from unnorm.study import ledger as ledger_module
from unnorm.study.after.stages import Stage, Stages
from unnorm.study.cell import CellSettings, run_cell, write_state
from unnorm.study.plan import Plan, Planned, plan_study
from unnorm.study.record import conclude, write_study
from unnorm.study.results import write_results
from unnorm.study.spec import StudyFile
from unnorm.study.view import StudyView, read_study
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
    plan = plan_study(spec, ledger, bench)
    stages = Stages(spec, plan.cells, ledger, quiet=quiet)
    ledger_module.check_writable(ledger)
    folder = ledger / spec.name
    write_study(folder, spec, source, plan, stages.entries)
    try:
        if plan.search:
            say(f"learning-rate search: {_counts(plan.search, retry_failed)}")
            _run_cells(plan.search, folder, bench, retry_failed, quiet, say)
            plan = plan_study(spec, ledger, bench)
            stages = Stages(spec, plan.cells, ledger, quiet=quiet)
            write_study(folder, spec, source, plan, stages.entries)
            _say_choices(plan, say)
        say(_counts(plan.cells, retry_failed))
        _run_cells(plan.cells, folder, bench, retry_failed, quiet, say)
        for stage in stages:
            _run_stage(stage, say)
    finally:
        conclude(folder)
    return read_study(folder)


def _run_cells(
    planned: list[Planned], folder: Path, bench: Workbench, retry_failed: bool, quiet: bool, say: Say
) -> None:
    started, todo = time.monotonic(), [cell for cell in planned if _is_open(cell, retry_failed)]
    for number, cell in enumerate(todo):
        left = _time_left(time.monotonic() - started, number, len(todo))
        with progress.scope(f"cell {number + 1}/{len(todo)} {_name(cell.settings)}{left}: "):
            _run_one(cell, bench, quiet, say)
        write_results(read_study(folder, logs=False))


def _counts(planned: list[Planned], retry_failed: bool) -> str:
    todo = sum(_is_open(cell, retry_failed) for cell in planned)
    return f"{len(planned)} cells: {len(planned) - todo} finished before, {todo} to run"


def _say_choices(plan: Plan, say: Say) -> None:
    for choice in plan.choices:
        edge = ", at the edge of what was tried" if choice.at_edge else ""
        say(f"{' / '.join(choice.slot)}: learning rate {choice.learning_rate:g}{edge}")
    for settings in plan.pending:
        say(f"{_name(settings)}: FAILED: no try of its learning rate came to an end")


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


def _run_stage(stage: Stage, say: Say) -> None:
    if any(ledger_module.state_of(cell.folder)[0] != "done" for cell in stage.cells) or stage.is_done():
        return
    try:
        stage.run()
    except (DiskError, Interrupted):
        raise
    except Exception as error:  # the cells are done and stay so; the stage is tried again by the next run
        say(f"{_name(stage.cells[0].settings)}: {stage.name} FAILED: {type(error).__name__}: {error}")


def _is_open(cell: Planned, retry_failed: bool) -> bool:
    state, _ = ledger_module.state_of(cell.folder)
    return state in ("waiting", "running") or (state == "failed" and retry_failed)


def _name(settings: CellSettings) -> str:
    parts = (settings.model_name, settings.dataset_name, settings.arm.id, settings.strategy, f"seed {settings.seed}")
    return " / ".join(parts)


def _time_left(elapsed: float, done: int, total: int) -> str:
    if not done:
        return ""
    return f", about {elapsed / done * (total - done) / 60:.0f} min left"
