"""How every start and cell of a study stands now, for `study status`: read, never written."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unnorm.foundation import atomic
from unnorm.study.attempt import working_folder
from unnorm.study.lease import TaskFolder
from unnorm.study.ledger import Standing, stages_of, standing_of
from unnorm.study.view import STUDY, CellView, StartView, StudyView
from unnorm.tuning.run_log import RunLog

LOOK_SECONDS = 2.5


@dataclass(frozen=True, kw_only=True)
class Status:
    """state: as of `ledger.Standing`; the last step's number and loss, which is what it minimized; who has it, by which
    engine if not this kind of machine's own process, and by which claim (generation); why it failed."""

    state: str
    step: int = 0
    loss: float | None = None
    host: str | None = None
    pid: int | None = None
    engine: str | None = None
    generation: int | None = None
    failure: str | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class CellStatus(Status):
    """One cell. tried_rate: of a try of the search, its learning rate; stages: how its stages stand, stage -> state,
    failure and error."""

    model: str
    dataset: str
    arm: str
    strategy: str
    seed: int
    cell: str
    tried_rate: float | None = None
    stages: dict[str, dict[str, str | None]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StartStatus(Status):
    """One recovered start: its base, the arms that begin from it, what it learns from; the held-out gap where it was
    last measured."""

    key: str
    model: str
    arms: list[str]
    data: list[str]
    tokens: int
    train: str
    train_tokens: int = 0
    gap: float | None = None


def status_of_starts(view: StudyView) -> list[StartStatus]:
    """The recovered starts that the study's cells begin from, in the plan's order."""
    return [_start_status(start) for start in view.starts]


def _start_status(start: StartView) -> StartStatus:
    last = _last(start.folder, "steps")
    return StartStatus(
        **{name: getattr(start, name) for name in ("key", "model", "arms", "data", "tokens", "train")},
        step=last.get("step", 0),
        train_tokens=last.get("train_tokens", 0),
        loss=last.get("loss"),
        gap=_last(start.folder, "evaluations").get("gap"),
        **_standing(standing_of(start.folder)),
    )


def status_of(view: StudyView) -> list[CellStatus]:
    """The tries of the search, then the cells, in the plan's order; a pair's stages stand at its arm."""
    pairs = {pair.place: pair.folder for pair in view.pairs}
    named = named_stages(view)
    return [_status(cell, pairs.get(cell.place), named) for cell in [*view.search, *view.cells]]


def named_stages(view: StudyView) -> dict[Path, set[str]]:
    """The stages after training that the study itself asks for, by the folder of their cell or pair."""
    content = atomic.read_json(view.folder / STUDY)
    entries = [entry for key in ("cells", "pairs") for entry in content.get(key, [])]
    names = {Path(e["folder"]).name: {Path(at).name for at in e.get("stages", {}).values()} for e in entries}
    folders = [*(cell.folder for cell in view.cells), *(pair.folder for pair in view.pairs)]
    return {folder: names.get(folder.name, set()) for folder in folders if folder is not None}


def _status(cell: CellView, pair: Path | None, named: Mapping[Path, Collection[str]]) -> CellStatus:
    """named: the stages that the study asks for, by folder."""
    place = {**cell.place._asdict(), "cell": cell.cell}
    if cell.folder is None:
        return CellStatus(**place, state=cell.state, error=cell.error)
    last = _last(cell.folder, "steps")
    stages = stages_after(cell, pair, named)
    return CellStatus(
        **place,
        tried_rate=cell.tried_rate,
        step=last.get("step", 0),
        loss=last.get("loss"),
        **_standing(standing_of(cell.folder)),
        stages={name: {"state": s.state, "failure": s.failure, "error": s.error} for name, s in stages.items()},
    )


def stages_after(cell: CellView, pair: Path | None, named: Mapping[Path, Collection[str]]) -> dict[str, Standing]:
    """How the stages of a cell and of its pair's folder stand, of those that the study asks for."""
    folders = [folder for folder in (cell.folder, pair) if folder is not None]
    return {name: s for folder in folders for name, s in stages_of(folder, named.get(folder, ())).items()}


def _last(folder: Path, log: str) -> dict[str, Any]:
    """The last record of a log, in the attempt that is at work or in the end."""
    return RunLog(working_folder(TaskFolder(folder)) / f"{log}.jsonl").last() or {}


def _standing(standing: Standing) -> dict[str, Any]:
    """State, owner and failure."""
    owner = standing.entry.content if standing.state == "running" and standing.entry else {}
    return {
        **{name: owner.get(name) for name in ("host", "pid", "engine")},
        "state": standing.state,
        "generation": standing.entry.number if standing.entry and owner else None,
        "failure": standing.failure,
        "error": standing.error,
    }
