"""How every start and cell of a study stands now, for `study status`: read, never written."""

import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from unnorm.foundation.processes import this_process
from unnorm.study.attempt import working_folder
from unnorm.study.lease import BEAT_SECONDS, TaskFolder, Watch, heartbeat_file
from unnorm.study.ledger import Standing, stages_of, standing_of, standing_of_start
from unnorm.study.view import CellView, StartView, StudyView
from unnorm.tuning.run_log import RunLog

LOOK_SECONDS = BEAT_SECONDS / 2


class CellStatus(NamedTuple):
    """One cell: names; `ledger.STATES`; of a try of the search its learning rate; the last step's number and loss; who
    has it, by which claim (generation), and seconds since its heartbeat where that can be told; why it failed; how its
    stages stand, stage -> (state, failure, error)."""

    model: str
    dataset: str
    arm: str
    strategy: str
    seed: int
    cell: str
    state: str
    tried_rate: float | None = None
    step: int = 0
    loss: float | None = None
    host: str | None = None
    pid: int | None = None
    generation: int | None = None
    heartbeat_seconds: float | None = None
    failure: str | None = None
    error: str | None = None
    stages: Mapping[str, tuple[str, str | None, str | None]] = MappingProxyType({})


class StartStatus(NamedTuple):
    """One recovered start: its base, the arms that begin from it, what it learns from; loss: what the last step
    minimized, KL or cross-entropy; the held-out gap where it was last measured; the rest as `CellStatus`."""

    key: str
    model: str
    arms: list[str]
    data: list[str]
    tokens: int
    train: str
    state: str
    step: int = 0
    train_tokens: int = 0
    loss: float | None = None
    gap: float | None = None
    host: str | None = None
    pid: int | None = None
    generation: int | None = None
    heartbeat_seconds: float | None = None
    failure: str | None = None
    error: str | None = None


def status_of_starts(view: StudyView, watch: Watch) -> list[StartStatus]:
    """The recovered starts that the study's cells begin from, in the plan's order."""
    return [_start_status(start, watch) for start in view.starts]


def _start_status(start: StartView, watch: Watch) -> StartStatus:
    task = TaskFolder(start.folder)
    files = working_folder(task)
    last = RunLog(files / "steps.jsonl").last() or {}
    measured = RunLog(files / "evaluations.jsonl").last() or {}
    return StartStatus(
        start.key,
        start.model,
        start.arms,
        start.data,
        start.tokens,
        start.train,
        step=last.get("step", 0),
        train_tokens=last.get("train_tokens", 0),
        loss=last.get("loss"),
        gap=measured.get("gap"),
        **_standing(task, standing_of_start(start.folder), watch),
    )


def status_of(view: StudyView, watch: Watch) -> list[CellStatus]:
    """The tries of the search, then the cells, in the plan's order; a pair's stages stand at its arm.

    watch: what this observer has seen of heartbeats, if it looks repeatedly.
    """
    pairs = {pair.place: pair.folder for pair in view.pairs}
    return [_status(cell, pairs.get(cell.place), watch) for cell in [*view.search, *view.cells]]


def _status(cell: CellView, pair: Path | None, watch: Watch) -> CellStatus:
    if cell.folder is None:
        return CellStatus(*cell.place, cell.cell, state=cell.state, error=cell.error)
    task = TaskFolder(cell.folder)
    standing = standing_of(cell.folder)
    last = RunLog(working_folder(task) / "steps.jsonl").last() or {}
    stages = stages_of(cell.folder) | (stages_of(pair) if pair is not None else {})
    return CellStatus(
        *cell.place,
        cell.cell,
        tried_rate=cell.tried_rate,
        step=last.get("step", 0),
        loss=last.get("loss"),
        **_standing(task, standing, watch),
        stages={name: (s.state, s.failure, s.error) for name, s in stages.items()},
    )


def _standing(task: TaskFolder, standing: Standing, watch: Watch) -> dict[str, Any]:
    """State, owner and failure, as an observer sees them who knows how long the owner has been silent."""
    owner = standing.entry.content if standing.state == "running" and standing.entry else {}
    silent = _silence(task, standing, watch)
    dead = silent is not None and silent >= watch.dead_after
    return {
        "state": "interrupted" if dead else standing.state,
        "host": owner.get("host"),
        "pid": owner.get("pid"),
        "generation": standing.entry.number if standing.entry and owner else None,
        "heartbeat_seconds": silent,
        "failure": "interrupted" if dead else standing.failure,
        "error": standing.error,
    }


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
