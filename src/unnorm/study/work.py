"""What a study's runners do: its cells, then the stages after them. The same list in one process or in several."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from unnorm.study.after import complete_cell, completions_key, has_completions
from unnorm.study.cell import CellSettings
from unnorm.study.fine_tune import Hooks
from unnorm.study.lease import TaskFolder
from unnorm.study.ledger import standing_of
from unnorm.study.plan import Planned
from unnorm.study.run_cell import cell_task
from unnorm.study.spec import After
from unnorm.study.tasks import Say, Task, Timing, run_tasks
from unnorm.study.workbench import Workbench

COMPLETIONS_STAGE = "completions"


class Work(NamedTuple):
    """Cells, the stages wanted after them, and what changes no result: transformers' names of trackers, silence."""

    planned: list[Planned]
    after: After = After()
    report_to: tuple[str, ...] = ()
    quiet: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for another process."""
        cells = [
            {**cell._asdict(), "settings": cell.settings.model_dump(mode="json"), "folder": str(cell.folder)}
            for cell in self.planned
        ]
        return {**self._asdict(), "planned": cells, "after": self.after.model_dump(mode="json")}


def work_from(content: dict[str, Any]) -> Work:
    """What `Work.to_dict` told."""
    planned = [
        Planned(CellSettings.model_validate(cell["settings"]), cell["cell"], cell["resolved"], Path(cell["folder"]))
        for cell in content["planned"]
    ]
    return Work(planned, After.model_validate(content["after"]), tuple(content["report_to"]), content["quiet"])


def cell_tasks(work: Work, bench: Workbench, say: Say) -> list[Task]:
    """The cells, in the plan's order."""
    hooks = Hooks(report_to=work.report_to, quiet=work.quiet)
    return [
        cell_task(c.settings, c.cell, c.resolved, c.folder, bench, hooks, name=name_of(c.settings), tell=say)
        for c in work.planned
    ]


def stage_tasks(work: Work) -> list[Task]:
    """The stages after training of the cells that are done."""
    wanted = work.after.completions
    if wanted is None:
        return []
    tasks = []
    for planned in work.planned:
        if standing_of(planned.folder).state == "done":
            tasks.append(_completions_task(planned, completions_key(planned.settings, planned.cell, wanted), work))
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
    run_tasks(cell_tasks(work, bench, say), say=say, ended=ended, timing=timing)
    run_tasks(stage_tasks(work), say=say, ended=ended, timing=timing)


def folders_of(work: Work) -> list[TaskFolder]:
    """Where the leases of all tasks are, whether there are any yet or not."""
    return [TaskFolder(cell.folder, stage) for stage in ("", COMPLETIONS_STAGE) for cell in work.planned]


def name_of(settings: CellSettings) -> str:
    parts = (settings.model_name, settings.dataset_name, settings.arm.id, settings.strategy, f"seed {settings.seed}")
    return " / ".join(parts)


def _completions_task(planned: Planned, key: str, work: Work) -> Task:
    wanted = work.after.completions
    assert wanted is not None
    return Task(
        f"completions of {name_of(planned.settings)}",
        TaskFolder(planned.folder, COMPLETIONS_STAGE),
        key,
        lambda lease: complete_cell(planned.settings, planned.folder, wanted, lease.attempt, key),
        lambda: has_completions(planned.folder, key),
    )
