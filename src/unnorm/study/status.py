"""How every cell of a study stands now, for `study status`: read, never written."""

import time
from pathlib import Path
from typing import NamedTuple

from unnorm.foundation.processes import this_process
from unnorm.study.attempt import working_folder
from unnorm.study.lease import BEAT_SECONDS, TaskFolder, Watch, heartbeat_file
from unnorm.study.ledger import Standing, stages_of, standing_of
from unnorm.study.view import StudyView
from unnorm.tuning.run_log import RunLog

LOOK_SECONDS = BEAT_SECONDS / 2


class CellStatus(NamedTuple):
    """One cell: names; `ledger.STATES`; the last step's number and loss; who has it, by which claim (generation), and
    seconds since its heartbeat where that can be told; why it failed; how its stages stand, stage -> (state, failure,
    error)."""

    model: str
    dataset: str
    arm: str
    strategy: str
    seed: int
    cell: str
    state: str
    step: int
    loss: float | None
    host: str | None
    pid: int | None
    generation: int | None
    heartbeat_seconds: float | None
    failure: str | None
    error: str | None
    stages: dict[str, tuple[str, str | None, str | None]]


def status_of(view: StudyView, watch: Watch) -> list[CellStatus]:
    """The cells in the plan's order. watch: what this observer has seen of heartbeats, if it looks repeatedly."""
    found = []
    for cell in view.cells:
        assert cell.folder is not None
        task = TaskFolder(cell.folder)
        standing = standing_of(cell.folder)
        last = RunLog(working_folder(task) / "steps.jsonl").last() or {}
        owner = standing.entry.content if standing.state == "running" and standing.entry else {}
        silent = _silence(task, standing, watch)
        dead = silent is not None and silent >= watch.dead_after
        found.append(
            CellStatus(
                *(cell.model, cell.dataset, cell.arm, cell.strategy, cell.seed, cell.cell),
                state="interrupted" if dead else standing.state,
                step=last.get("step", 0),
                loss=last.get("loss"),
                host=owner.get("host"),
                pid=owner.get("pid"),
                generation=standing.entry.number if standing.entry and owner else None,
                heartbeat_seconds=silent,
                failure="interrupted" if dead else standing.failure,
                error=standing.error,
                stages={name: (s.state, s.failure, s.error) for name, s in stages_of(cell.folder).items()},
            )
        )
    return found


def _silence(task: TaskFolder, standing: Standing, watch: Watch) -> float | None:
    """Seconds since the owner's heart beat. On this machine by the file's time; of another's, as long as watched."""
    if standing.state != "running" or standing.entry is None or standing.entry.kind != "claimed":
        return None
    watch.is_dead(task, standing.entry)
    if standing.entry.content.get("place") != this_process()["place"]:
        return watch.silent_for(task)
    return _age(heartbeat_file(task, standing.entry))


def _age(path: Path) -> float | None:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return None
