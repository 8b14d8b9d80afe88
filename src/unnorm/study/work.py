"""What a study's runners do: starts and cells, then the stages after them; the same list in one process or several."""

from collections.abc import Callable
from itertools import groupby
from typing import Any, NamedTuple

from unnorm.study.after.completions import completions_key, has_completions
from unnorm.study.after.pairs import pairs_of
from unnorm.study.after.stages import completions_tasks, folders, harness_tasks, judge_tasks, latency_tasks
from unnorm.study.fine_tune import Hooks
from unnorm.study.lease import TaskFolder
from unnorm.study.ledger import standing_of
from unnorm.study.make_start import start_task
from unnorm.study.plan import Planned, name_of, planned_from, starts_of
from unnorm.study.run_cell import cell_task
from unnorm.study.spec import After
from unnorm.study.tasks import Say, Task, Timing, is_open, run_tasks
from unnorm.study.workbench import Workbench


class Work(NamedTuple):
    """Cells, the stages wanted after them, the arm that pairs are made with, and what changes no result: transformers'
    names of trackers, silence."""

    planned: list[Planned]
    reference: str
    after: After = After()
    report_to: tuple[str, ...] = ()
    quiet: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for another process."""
        cells = [cell.to_dict() for cell in self.planned]
        return {**self._asdict(), "planned": cells, "after": self.after.model_dump(mode="json")}


def work_from(content: dict[str, Any]) -> Work:
    """What `Work.to_dict` told."""
    planned = [planned_from(cell) for cell in content["planned"]]
    after, report_to = After.model_validate(content["after"]), tuple(content["report_to"])
    return Work(planned, content["reference"], after, report_to, content["quiet"])


def start_tasks(work: Work, bench: Workbench, say: Say) -> dict[str, Task]:
    """The starts that cells begin from, by their keys, in the plan's order."""
    quiet = work.quiet
    return {
        start.key: start_task(start, bench, quiet=quiet, say=lambda text: None, tell=say)
        for start in starts_of(work.planned)
    }


def cell_tasks(work: Work, bench: Workbench, say: Say) -> list[Task]:
    """The cells, in the plan's order."""
    hooks = Hooks(warn=_once(say), report_to=work.report_to, quiet=work.quiet)
    starts = start_tasks(work, bench, say)
    tasks = []
    for c in work.planned:
        start = starts[c.start.key] if c.start else None
        name = name_of(c.settings)
        tasks.append(
            cell_task(c.settings, c.cell, c.resolved, c.folder, bench, hooks, name=name, tell=say, start=start)
        )
    return tasks


def training_tasks(work: Work, bench: Workbench, say: Say) -> list[Task]:
    """Cells, and before those of a base its starts that an open cell needs."""
    starts, cells = start_tasks(work, bench, say), cell_tasks(work, bench, say)
    needed = [(p, t) for p, t in zip(work.planned, cells, strict=True) if p.start is not None and is_open(t)]
    tasks = []
    for model, theirs in groupby(zip(work.planned, cells, strict=True), key=lambda pair: pair[0].settings.model):
        keys = dict.fromkeys(p.start.key for p, _ in needed if p.start and p.settings.model == model)
        tasks += [starts.pop(key) for key in keys if key in starts]
        tasks += [task for _, task in theirs]
    return tasks


def _once(say: Say) -> Say:
    """Says each line the first time only: cells that share data share its warnings."""
    said: set[str] = set()

    def warn(text: str) -> None:
        if text not in said:
            said.add(text)
            say(text)

    return warn


def stage_tasks(work: Work) -> list[Task]:
    """The stages after training that can be done now: of cells that are done, and of pairs of them."""
    answers, by, timed = work.after.completions, work.after.judge, work.after.latency
    cells = [cell for cell in work.planned if standing_of(cell.folder).state == "done"]
    tasks = completions_tasks(cells, answers) if answers else []
    if work.after.tasks:
        tasks += harness_tasks(cells, work.after.tasks, quiet=work.quiet)
    if answers and by:
        answered = [cell for cell in cells if has_completions(cell, completions_key(cell, answers))]
        tasks += judge_tasks(pairs_of(answered, work.reference), answers, by, quiet=work.quiet)
    if timed:
        tasks += latency_tasks(pairs_of(cells, work.reference), timed, quiet=work.quiet)
    return tasks


def work_through(
    work: Work,
    bench: Workbench,
    *,
    say: Say,
    ended: Callable[[], None] = lambda: None,
    timing: Timing | None = None,
) -> None:
    """Do all of the work that others do not do: cells first, then the stages. `ended` is called after each task."""
    run_tasks(training_tasks(work, bench, say), say=say, ended=ended, timing=timing)
    if work.after.completions:  # answers come before what is judged of them
        run_tasks(stage_tasks(work._replace(after=_answers_alone(work.after))), say=say, ended=ended, timing=timing)
    run_tasks(stage_tasks(work), say=say, ended=ended, timing=timing)


def folders_of(work: Work) -> list[TaskFolder]:
    """Where the leases of all tasks are, whether there are any yet or not."""
    pairs = pairs_of(work.planned, work.reference)
    starts = [TaskFolder(start.folder) for start in starts_of(work.planned)]
    owns = [*starts, *(TaskFolder(cell.folder) for cell in work.planned)]
    return [*owns, *folders(work.planned, pairs, work.after)]


def _answers_alone(after: After) -> After:
    return After(completions=after.completions)
