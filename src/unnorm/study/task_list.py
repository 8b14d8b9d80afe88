"""What a study has to be done: starts and cells, and the stages after them, as one list of tasks.

A process that is to do one of them is told no more than the cells that it is about, and finds it by its id.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from unnorm.foundation.progress import Say
from unnorm.study.after.stages import stage_tasks
from unnorm.study.engines.interface import Wants
from unnorm.study.estimate import memory_needed
from unnorm.study.hooks import Hooks
from unnorm.study.make_start import start_task
from unnorm.study.plan import Planned, name_of, starts_of
from unnorm.study.run_cell import cell_task
from unnorm.study.sections import After
from unnorm.study.tasks import Task, is_open, perform
from unnorm.study.workbench import Workbench


class Work(NamedTuple):
    """Cells, the stages wanted after them, the arm that pairs are made with, and what changes no result: transformers'
    names of trackers, silence."""

    planned: list[Planned]
    reference: str
    after: After = After()
    report_to: tuple[str, ...] = ()
    quiet: bool = False


_PLAIN = TypeAdapter(Work)
"""Makes plain values of it, for another process, and these to what they were."""


def tasks_of(work: Work, bench: Workbench, say: Say) -> list[Task]:
    """All that is to be done, in the order in which it is begun: of each base the starts that an open cell needs, then
    its cells; then the stages. say: hears what went wrong, and each warning about data once."""
    starts = {s.key: start_task(s, bench, Hooks(quiet=work.quiet), tell=say) for s in starts_of(work.planned)}
    hooks = Hooks(warn=_once(say), report_to=work.report_to, quiet=work.quiet)
    cells = [
        cell_task(p, bench, hooks, name=name_of(p.settings), tell=say, start=starts[p.start.key] if p.start else None)
        for p in work.planned
    ]
    needed = {need for cell in cells if cell.needs and is_open(cell) for need in cell.needs}
    tasks: list[Task] = []
    about: list[Sequence[Planned]] = []
    for _, theirs in groupby(zip(work.planned, cells, strict=True), key=lambda pair: pair[0].settings.model):
        of_base = list(theirs)
        for planned, _ in of_base:
            if planned.start is not None and starts[planned.start.key].id in needed:
                needed.discard(starts[planned.start.key].id)
                tasks.append(starts[planned.start.key])
                about.append([planned])
        tasks += [cell for _, cell in of_base]
        about += [[planned] for planned, _ in of_base]
    ids = dict(zip((p.cell for p in work.planned), (cell.id for cell in cells), strict=True))
    for task, subject in stage_tasks(work.planned, work.reference, work.after, ids, quiet=work.quiet):
        tasks.append(task)
        about.append(subject)
    return [_with_wants(work, bench, task, cells) for task, cells in zip(tasks, about, strict=True)]


def do_told(told: Any, task: str, say: Say, by: Mapping[str, Any] = {}) -> None:
    """Do the task that another process has told of. What the next one may share stays in memory."""
    work = _PLAIN.validate_python(told)
    found = next(one for one in tasks_of(work, _bench(work.quiet), say) if one.id == task)
    perform(found, say, by)


@cache
def _bench(quiet: bool) -> Workbench:
    return Workbench(quiet=quiet)


def _with_wants(work: Work, bench: Workbench, task: Task, cells: Sequence[Planned]) -> Task:
    devices = max(getattr(cell.settings.training, "devices", 1) for cell in cells)
    wants = Wants(
        devices if not task.at.stage else 1,
        lambda on_gpu: sum(memory_needed(cell, bench, on_gpu=on_gpu) for cell in cells),
        alone=task.wants.alone,
    )
    return task._replace(wants=wants, told=lambda: _PLAIN.dump_python(work._replace(planned=list(cells)), mode="json"))


def _once(say: Say) -> Say:
    """Says each line the first time only: cells that share data share its warnings."""
    said: set[str] = set()

    def warn(text: str) -> None:
        if text not in said:
            said.add(text)
            say(text)

    return warn
