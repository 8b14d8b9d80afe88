"""The stages after training, and what a study has to do for each: answers and scores, then verdicts, then times."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from unnorm.study.after.stage import Stage
from unnorm.study.engines.interface import Wants
from unnorm.study.lease import Lease, TaskFolder
from unnorm.study.plan import CellPair, Planned, name_of, pairs_of
from unnorm.study.sections import After
from unnorm.study.spec import StudyFile
from unnorm.study.tasks import Task

STAGES: tuple[Stage, ...] = tuple(
    resolve_name(f"unnorm.study.after.{name}:STAGE")
    for name in (
        "completions",
        "tasks",
        "judge",
        "latency",
    )
)
"""In the order in which they are done: a stage comes after those that it needs."""


def stage_tasks(
    cells: Sequence[Planned], reference: str, after: After, ids: Mapping[str, str], *, quiet: bool
) -> Iterator[tuple[Task, Sequence[Planned]]]:
    """The task of every stage of every cell or pair, and the cells that it is about. ids: of the cells' tasks, by the
    cells' hashes."""
    wanted = [stage for stage in STAGES if getattr(after, stage.name, None) is not None]
    pairs = pairs_of(list(cells), reference)
    made: dict[tuple[str, str], str] = {}  # (stage, cell) -> id of its task
    for stage in wanted:
        for subject in pairs if stage.of_pairs else cells:
            about = [subject.arm, subject.against] if isinstance(subject, CellPair) else [subject]
            needs = [ids[cell.cell] for cell in about]
            needs += [made[name, cell.cell] for name in stage.needs for cell in about]
            task = _task(stage, subject, after, tuple(needs), quiet)
            if isinstance(subject, Planned):
                made[stage.name, subject.cell] = task.id
            yield task, about


def folders_of(subject: Planned | CellPair, after: After) -> dict[str, str]:
    """For study.json: what each stage of a cell or a pair is called in its folder, by the stage's name."""
    mine = [stage for stage in STAGES if stage.of_pairs == isinstance(subject, CellPair)]
    return {stage.name: stage.folder(subject, after) for stage in mine if getattr(after, stage.name, None) is not None}


def read_stages(folders: Mapping[str, str], folder: Path, *, logs: bool) -> dict[str, Any]:
    """What the stages that `folders_of` named have left in the folder of a cell or pair."""
    found: dict[str, Any] = {}
    for stage in STAGES:
        if stage.name in folders:
            found |= stage.read(folder, Path(folders[stage.name]).name, logs)
    return found


def check_stages(spec: StudyFile) -> None:
    """A mistake in what comes after training shows now, not after hours of it."""
    for stage in STAGES:
        if getattr(spec.after, stage.name, None) is not None:
            stage.check(spec)


def _task(stage: Stage, subject: Planned | CellPair, after: After, needs: tuple[str, ...], quiet: bool) -> Task:
    folder = stage.folder(subject, after)
    key = stage.key(subject, after) if stage.key else folder
    if isinstance(subject, CellPair):
        name = f"{name_of(subject.arm.settings)} against {subject.against.settings.arm.id}"
    else:
        name = name_of(subject.settings)

    def work(lease: Lease) -> str:
        return stage.run(subject, after, Path(lease.attempt), quiet)

    at, wants = TaskFolder(subject.folder, folder), Wants(alone=stage.alone)
    return Task(f"{stage.name} of {name}", at, key, work, needs, wants=wants)
