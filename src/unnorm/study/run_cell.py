"""A cell as a task, and one cell run by itself.

OUT/cell.json   the resolved configuration and its hash, written when training begins
OUT/starts/KEY/ the start of an arm that recovers, made before it (`make_start.py`)
OUT/lease/      who has it and what became of it;  OUT/events.jsonl  the same for people;  OUT/attempt-N/  work in hand
and what `fine_tune` makes, in OUT once it is done.
"""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from unnorm.foundation import atomic, ranks
from unnorm.foundation.errors import ArtefactError, RunError
from unnorm.foundation.precision import line_of
from unnorm.foundation.processes import is_main
from unnorm.foundation.progress import Say
from unnorm.study import events, threads
from unnorm.study.cell import CellSettings, cell_of, settled, start_of
from unnorm.study.fine_tune import fine_tune
from unnorm.study.hooks import Hooks
from unnorm.study.lease import Lease, TaskFolder
from unnorm.study.make_start import check_made, make_start, start_task
from unnorm.study.plan import Planned
from unnorm.study.recovered_start import STARTS, plan_start
from unnorm.study.spread import check_launch
from unnorm.study.tasks import Task, claim_task, holder, is_open, reopen, run_task
from unnorm.study.workbench import Workbench
from unnorm.tuning.compiled_blocks import COMPILED

_ENTRIES = "lease"


def cell_task(
    planned: Planned, bench: Workbench, hooks: Hooks, *, name: str, tell: Say, start: Task | None = None
) -> Task:
    """The task of running a cell. hooks: its `say` hears every stage; tell: hears only what went wrong.

    start: the task of making the start that the cell begins from. Where that failed the cell fails with it.
    """
    folder = planned.folder

    def work(lease: Lease) -> str:
        if start is not None:
            check_made(start.at.path)
        about = {"cell": planned.cell, "settings": planned.resolved}
        own = hooks.of_lease(lease, name, tell, folder / "cell.json", about)
        attempt, at = ranks.of_main(lease.attempt), start.at.path if start else None
        result = fine_tune(planned.settings, planned.cell, attempt, bench, own, at)
        return f"{result['start_eval_loss']:.4f} → {result['eval_loss']:.4f} in {result['wall_seconds']:.0f} s"

    needs = (start.id,) if start is not None else ()
    return Task(name, TaskFolder(folder), planned.cell, work, needs, despite=True)


def run_cell(
    settings: CellSettings,
    out: Path,
    *,
    bench: Workbench | None = None,
    quiet: bool = False,
    say: Say = lambda text: None,
    report_to: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Run the cell in the folder `out`, or go on with it, or hand back its result if it is done.

    Returns the numbers of result.json. bench: what the cell may share with others. say: called with a line for people
    at each stage. report_to: transformers' names of trackers. Raises `UnnormError`; what was finished stays, and the
    folder tells. Raises `Interrupted` when asked to stop, `RunError` while another process runs the cell.
    """
    ranks.join()
    check_launch(settings.training.devices)
    bench = bench or Workbench(quiet=quiet)
    out = Path(out)
    _check_no_other(out)
    say(line_of(settings.training.precision))
    settings = ranks.of_main(settled(settings, bench))
    if settings.training.compile:
        say(COMPILED)
    cell, resolved = cell_of(settings, bench)
    say(f"computing on {threads.settle(bench.base(settings.model).hash, bench.base(settings.model).model).describe()}")
    _check_place(out, cell, resolved)
    existed = out.exists()
    hooks = Hooks(say=say, warn=say, report_to=report_to, quiet=quiet)
    wanted = start_of(settings)
    begins = plan_start(wanted, bench, out) if wanted else None
    start = start_task(begins, bench, hooks, tell=say) if begins else None
    planned = Planned(settings, cell, resolved, out, begins)
    task = cell_task(planned, bench, hooks, name=str(out), tell=say, start=start)
    if is_main():
        reopen(task)
    task_is_open = ranks.of_main(is_open(task))
    if not task_is_open:
        say(f"{out} is finished already; nothing to do")
        return atomic.read_json(out / "result.json")  # type: ignore[no-any-return]
    if start is not None and is_main():
        reopen(start)
    start_is_open = ranks.of_main(start is not None and is_open(start))
    if not is_main():  # it does what the main process has claimed, in the folder that is told
        if wanted is not None and start_is_open:
            make_start(wanted, ranks.of_main(Path()), bench, Hooks(quiet=True))
            ranks.of_all(None)
        return fine_tune(settings, cell, ranks.of_main(Path()), bench, hooks, start.at.path if start else None)
    try:
        if start is not None and start_is_open:
            _run(start, say)
            ranks.of_all(None)  # it is in its place
        _run(task, say)
    except Exception:
        _forget_if_not_begun(out, existed)
        raise
    return atomic.read_json(out / "result.json")  # type: ignore[no-any-return]


def _run(task: Task, say: Say) -> None:
    folder = task.at.path
    lease = claim_task(task, say)
    if lease is None:
        raise RunError(f"{folder} {_why_not(task)}.")
    run_task(task, lease)


def _why_not(task: Task) -> str:
    if (claim := holder(task)) is None:
        return f"killed the last two processes that ran it. See {task.at.path / events.NAME}"
    who = f"{claim.content.get('host')} (pid {claim.content.get('pid')})"
    return f"is being run by another process: {who}. If that is gone for good, delete {task.at.log}"


def _check_no_other(out: Path) -> None:
    """An `ArtefactError` if the folder holds something that is no run."""
    if (out / "cell.json").is_file() or not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not _is_run(out)):
        raise ArtefactError(f"{out} is not empty and holds no run. Give another --out.")


def _check_place(out: Path, cell: str, resolved: dict[str, Any]) -> None:
    """An `ArtefactError` if the folder is another run's."""
    state = out / "cell.json"
    if not state.is_file():
        return
    found = atomic.read_json(state)
    if found["cell"] != cell:
        different = [key for key in resolved if found["settings"].get(key) != resolved[key]]
        raise ArtefactError(
            f"{out} holds another run: it differs in {', '.join(different) or 'its version'}. "
            "Give another --out, or delete the folder."
        )


def _is_run(out: Path) -> bool:
    return (out / _ENTRIES).is_dir() or any((out / STARTS).glob("*/start.json"))


def _forget_if_not_begun(out: Path, existed: bool) -> None:
    """Leave no trace of a run that was refused before it began, so that the mended command can have the folder."""
    if (out / "cell.json").is_file():
        return
    task = TaskFolder(out)
    for path in (task.log, *(path for _, path in task.attempts())):
        shutil.rmtree(path, ignore_errors=True)
    (out / events.NAME).unlink(missing_ok=True)
    for start in (out / STARTS).glob("*"):
        if not (start / "start.json").is_file():
            shutil.rmtree(start, ignore_errors=True)
    with suppress(OSError):  # there is none, or one that was begun is in it
        (out / STARTS).rmdir()
    if not existed:
        with suppress(OSError):  # something that is not ours is in it
            out.rmdir()
