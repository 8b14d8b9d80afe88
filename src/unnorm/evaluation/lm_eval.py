"""Tasks of EleutherAI's lm-evaluation-harness on a model in memory, swapped or not (extra `lm-eval`)."""

import io
import math
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from unnorm.evaluation.lm_eval_tasks import quiet_harness
from unnorm.foundation import atomic
from unnorm.foundation.errors import DataError, first_line
from unnorm.foundation.hashing import hash_json
from unnorm.foundation.parquet import parquet_bytes, read_columns
from unnorm.foundation.seeds import seed_everything
from unnorm.surgery.passes import in_eval


class TaskScore(NamedTuple):
    """One question's number. question: digest of its place in the data, what it says and how it was asked; the same
    for two models that were asked the same. value: in the metric's unit, 1 or 0 where it is an accuracy."""

    task: str
    metric: str
    question: str
    value: float


_NO_FILTER = "none"
RESAMPLES = 100_000  # the harness's own default


class Answered(NamedTuple):
    """metrics: task -> metric -> value, as the harness reports them, and its version of the task. scores: one number a
    question, of every metric that is the mean of its questions' numbers."""

    metrics: dict[str, dict[str, Any]]
    scores: list[TaskScore]


def answer(
    model: Any,
    tokenizer: Any,
    tasks: Mapping[str, Any],
    *,
    limit: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    resamples: int = 0,
) -> Answered:
    """What a model scores on tasks that `load_tasks` made. The model is left in its mode.

    limit: the first examples of each task. seed: of the examples shown before a question, and of what is drawn.
    resamples: for the harness's own standard errors, which it leaves out at 0. Raises `DataError` if the harness cannot
    run the tasks.
    """
    from lm_eval import evaluate
    from lm_eval.models.huggingface import HFLM

    for task in tasks.values():
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(seed)
    seed_everything(seed)
    try:  # it draws bars of its own, and prints remarks where results belong
        with in_eval(model), quiet_harness(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            found = evaluate(
                lm=_without_bars(HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)),
                task_dict={"tasks": dict(tasks), "groups": {}, "group_map": {}},
                limit=limit,
                bootstrap_iters=resamples,
            )
    except (RuntimeError, MemoryError):  # torch's: out of memory, or a model that breaks
        raise
    except Exception as error:  # each task raises its own kinds
        raise DataError(f"the harness cannot run {', '.join(tasks)}: {first_line(error)}") from error
    versions, reported = found["versions"], found["results"]
    metrics = {
        task: {**{name: value for name, value in of.items() if name != "alias"}, "version": versions.get(task)}
        for task, of in reported.items()
    }
    scores = [each for task in reported for each in _scores(task, reported[task], found["samples"][task])]
    return Answered(metrics, scores)


def _without_bars(lm: Any) -> Any:
    for kind in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
        setattr(lm, kind, partial(getattr(lm, kind), disable_tqdm=True))
    return lm


def _scores(task: str, reported: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> list[TaskScore]:
    """The numbers of each question whose mean is what the harness reports: not those that a perplexity is made of."""
    found: dict[str, list[TaskScore]] = {}
    means: dict[str, Any] = {}
    for sample in samples:
        question = hash_json([sample["doc_id"], sample["doc_hash"], sample["prompt_hash"]])
        for name in sample["metrics"]:
            metric = name if sample["filter"] == _NO_FILTER else f"{name},{sample['filter']}"
            means[metric] = reported.get(f"{name},{sample['filter']}")
            value = sample[name]
            number = float(value) if isinstance(value, Real) or hasattr(value, "__float__") else math.nan
            found.setdefault(metric, []).append(TaskScore(task, metric, question, number))
    return [each for metric, scores in found.items() if _is_mean(means[metric], scores) for each in scores]


def _is_mean(reported: Any, scores: Sequence[TaskScore]) -> bool:
    mean = sum(each.value for each in scores) / len(scores)
    return isinstance(reported, Real) and math.isclose(reported, mean, rel_tol=1e-6, abs_tol=1e-9)


def write_scores(path: Path, scores: Sequence[TaskScore]) -> None:
    """Write a Parquet file, one row a score, in their order."""
    import pyarrow as pa

    columns = dict(zip(TaskScore._fields, zip(*scores, strict=True), strict=True)) if scores else {}
    kinds = [(name, pa.float64() if name == "value" else pa.string()) for name in TaskScore._fields]
    table = pa.table({name: pa.array(columns.get(name, ()), kind) for name, kind in kinds}, schema=pa.schema(kinds))
    atomic.write_bytes(path, parquet_bytes(table))


def read_scores(path: Path) -> list[TaskScore]:
    """Read what `write_scores` wrote. A file that is none is an `ArtefactError`."""
    advice = "cannot be read as scores of tasks. Delete the folder it stands in and its lease, and run again."
    columns = read_columns(path, TaskScore._fields, advice)
    return [TaskScore(*row) for row in zip(*(column.to_pylist() for column in columns), strict=True)]
