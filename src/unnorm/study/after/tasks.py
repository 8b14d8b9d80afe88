"""What a cell's model scores on tasks of lm-evaluation-harness, question by question."""

from pathlib import Path
from typing import Any

import torch

from unnorm.evaluation.lm_eval import TaskScore, answer, read_scores, write_scores
from unnorm.evaluation.lm_eval_tasks import digest_folder, harness_version, load_tasks
from unnorm.foundation import atomic
from unnorm.foundation.hashing import hash_json
from unnorm.foundation.progress import Bar
from unnorm.study.after.stage import Stage, load_model
from unnorm.study.plan import Planned
from unnorm.study.sections import TasksStage
from unnorm.study.spec import StudyFile
from unnorm.study.task_differences import task_rows
from unnorm.study.view import TASK_SCORES
from unnorm.surgery.base import load_tokenizer
from unnorm.surgery.finite import check_finite

_RESULTS = "results.json"


def tasks_stage(wanted: TasksStage) -> str:
    """The name of the stage, and of its folder in a cell's: it is about these tasks under this version of the harness.

    A folder of tasks counts by what is in it, not by where it lies.
    """
    files = digest_folder(wanted.folder_path) if wanted.folder_path else None
    return f"tasks-{hash_json([wanted.model_dump(exclude={'folder'}), files, harness_version()])}"


def answer_tasks(cell: Planned, wanted: TasksStage, out: Path, *, quiet: bool = False) -> str:
    """Write the scores into the folder `out`, and go on from the tasks that are in it already. A line for people.

    OUT/scores.parquet    one number a question (`task_scores`)
    OUT/results.json      harness (its version), answered (names), metrics: task -> metric -> value, as it reports them
    """
    results: dict[str, Any] = {"harness": harness_version(), "answered": [], "metrics": {}}
    if (out / _RESULTS).is_file():
        results = atomic.read_json(out / _RESULTS)
    scores: list[TaskScore] = read_scores(out / TASK_SCORES) if results["answered"] else []
    scores = [score for score in scores if score.task in results["metrics"]]  # others were cut off before they counted
    tokenizer = load_tokenizer(str(cell.folder / "model"))
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    model = load_model(cell, merged=True).to(device)
    check_finite(model)
    left = [name for name in wanted.names if name not in results["answered"]]
    with Bar("tasks", len(left), quiet=quiet) as bar:
        for name in left:
            loaded = load_tasks([name], wanted.folder_path)
            tasks = {task: made for task, made in loaded.items() if task not in results["metrics"]}
            if tasks:  # else all of them belong to a group before it
                found = answer(
                    model, tokenizer, tasks, limit=wanted.limit, batch_size=wanted.batch_size, seed=wanted.seed
                )
                scores += found.scores
                results["metrics"] |= found.metrics
            results["answered"].append(name)
            write_scores(out / TASK_SCORES, scores)
            atomic.write_json(out / _RESULTS, results)
            bar.advance()
    questions = {(score.task, score.question) for score in scores}
    return f"{len(results['metrics'])} tasks, {len(questions):,} questions"


def _check(spec: StudyFile) -> None:
    wanted = spec.after.tasks
    assert wanted is not None
    with spec.blamed("after", "tasks"):
        harness_version()
    if wanted.folder_path is not None:
        with spec.blamed("after", "tasks", "folder"):
            digest_folder(wanted.folder_path)
    for number, name in enumerate(wanted.names):
        with spec.blamed("after", "tasks", "names", number):
            load_tasks([name], wanted.folder_path)


STAGE = Stage(
    "tasks",
    of_pairs=False,
    folder=lambda cell, after: tasks_stage(after.tasks),
    run=lambda cell, after, out, quiet: answer_tasks(cell, after.tasks, out / tasks_stage(after.tasks), quiet=quiet),
    rows=task_rows,
    check=_check,
)
