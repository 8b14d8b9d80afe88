"""The stages after training, and what a study has to do for each: answers and scores, then verdicts, then times."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unnorm.study.after import completions, judge, latency, tasks
from unnorm.study.after.pairs import Pair, pairs_of
from unnorm.study.after.stage import Stage
from unnorm.study.engines.interface import Wants
from unnorm.study.lease import Lease, TaskFolder
from unnorm.study.plan import Planned, name_of
from unnorm.study.spec import After
from unnorm.study.tasks import Task

STAGES: tuple[Stage, ...] = (completions.STAGE, tasks.STAGE, judge.STAGE, latency.STAGE)


def stage_tasks(
    cells: Sequence[Planned], reference: str, after: After, ids: Mapping[str, str], *, quiet: bool
) -> Iterator[tuple[Task, Sequence[Planned]]]:
    """The task of every stage of every cell or pair, and the cells that it is about. ids: of the cells' tasks, by the
    cells' hashes."""
    wanted = [stage for stage in STAGES if getattr(after, stage.name) is not None]
    pairs = pairs_of(list(cells), reference)
    made: dict[tuple[str, str], str] = {}  # (stage, cell) -> id of its task
    for stage in wanted:
        for subject in pairs if stage.of_pairs else cells:
            about = [subject.arm, subject.against] if isinstance(subject, Pair) else [subject]
            needs = [ids[cell.cell] for cell in about]
            needs += [made[name, cell.cell] for name in stage.needs for cell in about]
            task = _task(stage, subject, after, tuple(needs), quiet)
            if isinstance(subject, Planned):
                made[stage.name, subject.cell] = task.id
            yield task, about


def pair_entries(pairs: Sequence[Pair], after: After) -> list[dict[str, Any]]:
    """For study.json: each pair, and which part of its folder is this study's."""
    return [
        {
            **pair.place._asdict(),
            "against": pair.against.settings.arm.id,
            "folder": pair.folder.name,
            "judge": judge.STAGE.folder(pair, after) if after.completions and after.judge else None,
            "latency": f"{latency.STAGE.folder(pair, after)}.json" if after.latency else None,
        }
        for pair in pairs
    ]


def _task(stage: Stage, subject: Planned | Pair, after: After, needs: tuple[str, ...], quiet: bool) -> Task:
    folder = stage.folder(subject, after)
    key = stage.key(subject, after) if stage.key else folder
    if isinstance(subject, Pair):
        name = f"{name_of(subject.arm.settings)} against {subject.against.settings.arm.id}"
    else:
        name = name_of(subject.settings)

    def work(lease: Lease) -> str:
        return stage.run(subject, after, Path(lease.attempt), quiet)

    at, wants = TaskFolder(subject.folder, folder), Wants(alone=stage.alone)
    return Task(f"{stage.name} of {name}", at, key, work, needs, wants=wants)
