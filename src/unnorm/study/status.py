"""How every start and cell of a study stands now, for `study status`: read, never written."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from unnorm.study.attempt import working_folder
from unnorm.study.lease import TaskFolder
from unnorm.study.ledger import Standing, stages_of, standing_of
from unnorm.study.view import CellView, StartView, StudyView
from unnorm.tuning.run_log import RunLog

LOOK_SECONDS = 2.5


class CellStatus(NamedTuple):
    """One cell: names; `ledger.STATES`; of a try of the search its learning rate; the last step's number and loss; who
    has it, by which engine if not this kind of machine's own process, and by which claim (generation); why it failed;
    how its stages stand, stage -> (state, failure, error)."""

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
    engine: str | None = None
    generation: int | None = None
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
    engine: str | None = None
    generation: int | None = None
    failure: str | None = None
    error: str | None = None


def status_of_starts(view: StudyView) -> list[StartStatus]:
    """The recovered starts that the study's cells begin from, in the plan's order."""
    return [_start_status(start) for start in view.starts]


def _start_status(start: StartView) -> StartStatus:
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
        **_standing(standing_of(start.folder)),
    )


def status_of(view: StudyView) -> list[CellStatus]:
    """The tries of the search, then the cells, in the plan's order; a pair's stages stand at its arm."""
    pairs = {pair.place: pair.folder for pair in view.pairs}
    return [_status(cell, pairs.get(cell.place)) for cell in [*view.search, *view.cells]]


def _status(cell: CellView, pair: Path | None) -> CellStatus:
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
        **_standing(standing),
        stages={name: (s.state, s.failure, s.error) for name, s in stages.items()},
    )


def _standing(standing: Standing) -> dict[str, Any]:
    """State, owner and failure."""
    owner = standing.entry.content if standing.state == "running" and standing.entry else {}
    return {
        "state": standing.state,
        "host": owner.get("host"),
        "pid": owner.get("pid"),
        "engine": owner.get("engine"),
        "generation": standing.entry.number if standing.entry and owner else None,
        "failure": standing.failure,
        "error": standing.error,
    }
