"""The stages of one study as work: each cell's answers and scores, then each pair's verdicts, then its times."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from unnorm.evaluation.judges.interface import Judge
from unnorm.study.after.completions import complete, completions_key, has_completions
from unnorm.study.after.judge import judge, judge_stage
from unnorm.study.after.latency import latency_stage, time_pair
from unnorm.study.after.pairs import Pair
from unnorm.study.after.tasks import answer_tasks, tasks_stage
from unnorm.study.lease import Lease, TaskFolder
from unnorm.study.plan import Planned, name_of
from unnorm.study.spec import After, Completions, JudgeStage, LatencyStage, TasksStage
from unnorm.study.tasks import Task

COMPLETIONS_STAGE = "completions"


def completions_tasks(cells: Sequence[Planned], wanted: Completions) -> list[Task]:
    return [_completions(cell, wanted) for cell in cells]


def harness_tasks(cells: Sequence[Planned], wanted: TasksStage, *, quiet: bool) -> list[Task]:
    """One for each cell: all of the tasks of lm-evaluation-harness that the study asks for."""
    stage = tasks_stage(wanted)

    def work(cell: Planned) -> Callable[[Lease], str]:
        return lambda lease: answer_tasks(cell, wanted, lease.attempt / stage, quiet=quiet)

    return [
        Task(f"tasks of {name_of(cell.settings)}", TaskFolder(cell.folder, stage), stage, work(cell)) for cell in cells
    ]


def judge_tasks(pairs: Sequence[Pair], answers: Completions, wanted: JudgeStage, *, quiet: bool) -> list[Task]:
    """The judge is loaded when the first pair needs it, and kept."""

    @cache
    def loaded() -> Judge:
        from unnorm.evaluation.judges.load import load_judge

        return load_judge(wanted.kind, wanted.model, wanted.base_url)

    def work(pair: Pair, stage: str) -> Callable[[Lease], str]:
        return lambda lease: judge(pair, wanted, loaded(), lease.attempt / stage, quiet=quiet)

    return [_of_pair("judge", pair, stage := judge_stage(pair, answers, wanted), work(pair, stage)) for pair in pairs]


def latency_tasks(pairs: Sequence[Pair], wanted: LatencyStage, *, quiet: bool) -> list[Task]:
    def work(pair: Pair) -> Callable[[Lease], str]:
        return lambda lease: time_pair(pair, wanted, lease.attempt, quiet=quiet)

    return [_of_pair("latency", pair, latency_stage(wanted), work(pair)) for pair in pairs]


def folders(cells: Sequence[Planned], pairs: Sequence[Pair], after: After) -> list[TaskFolder]:
    """Where the leases of all stages are, whether there are any yet or not."""
    found = [TaskFolder(cell.folder, COMPLETIONS_STAGE) for cell in cells] if after.completions else []
    if after.tasks:
        stage = tasks_stage(after.tasks)
        found += [TaskFolder(cell.folder, stage) for cell in cells]
    if after.completions and after.judge:
        found += [TaskFolder(pair.folder, judge_stage(pair, after.completions, after.judge)) for pair in pairs]
    if after.latency:
        found += [TaskFolder(pair.folder, latency_stage(after.latency)) for pair in pairs]
    return found


def pair_entries(pairs: Sequence[Pair], after: After) -> list[dict[str, Any]]:
    """For study.json: each pair, and which part of its folder is this study's."""
    answers, by, timed = after.completions, after.judge, after.latency
    return [
        {
            **pair.place._asdict(),
            "against": pair.against.settings.arm.id,
            "folder": pair.folder.name,
            "judge": judge_stage(pair, answers, by) if answers and by else None,
            "latency": f"{latency_stage(timed)}.json" if timed else None,
        }
        for pair in pairs
    ]


def _completions(cell: Planned, wanted: Completions) -> Task:
    key = completions_key(cell, wanted)
    return Task(
        f"completions of {name_of(cell.settings)}",
        TaskFolder(cell.folder, COMPLETIONS_STAGE),
        key,
        lambda lease: complete(cell, wanted, lease.attempt, key),
        lambda: has_completions(cell, key),
    )


def _of_pair(kind: str, pair: Pair, stage: str, work: Callable[[Lease], str]) -> Task:
    name = f"{kind} of {name_of(pair.arm.settings)} against {pair.against.settings.arm.id}"
    return Task(name, TaskFolder(pair.folder, stage), stage, work)
