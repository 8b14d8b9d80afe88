"""Scores of two models on the same questions of tasks, paired: which number a task is judged by, and how far apart the
two are."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from unnorm.evaluation.intervals import rate_interval
from unnorm.evaluation.lm_eval import TaskScore
from unnorm.evaluation.two_factors import mean_over

HIGHER_IS_BETTER = ("acc_norm", "acc", "exact_match")
"""A task has one row: of the first of these metrics that it has, else of its own first one."""
Questions = Mapping[str, float]
"""Digest of a question -> its number."""
Scores = Mapping[tuple[str, str], Questions]
"""(task, metric) -> its questions."""


class PairedTask(NamedTuple):
    """One task, of two models over the `questions` that both answered. first, second: their means, in the metric's
    unit; difference: first − second, with its 95 % interval over questions, None where one cannot be had; is_share:
    whether every number lies between 0 and 1."""

    task: str
    metric: str
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    questions: int
    is_share: bool

    def to_dict(self) -> dict[str, Any]:
        return self._asdict()


def pair_tasks(first: Scores, second: Scores, *, seed: int = 0) -> list[PairedTask]:
    """A row for every (task, metric) with a question that is in both, in the first one's order. seed: of resamples."""
    found = []
    for name, mine in first.items():
        theirs = second.get(name, {})
        shared = [question for question in mine if question in theirs]
        if not shared:
            continue
        a, b = (np.array([[of[question] for question in shared]]) for of in (mine, theirs))
        is_share = bool(((a >= 0) & (a <= 1) & (b >= 0) & (b <= 1)).all())
        difference, low, high = difference_of(a, b, is_share=is_share, seed=seed)
        found.append(PairedTask(*name, float(a.mean()), float(b.mean()), difference, low, high, len(shared), is_share))
    return found


def difference_of(
    a: np.ndarray, b: np.ndarray, *, is_share: bool, seed: int = 0
) -> tuple[float, float | None, float | None]:
    """(mean of `a` − `b`, low, high), both [seeds, n] of the same n questions, with its 95 % interval.

    Seeds and questions are both drawn (`two_factors`). Where all numbers are shares the interval is widened to the one
    over questions alone (`rate_interval`, of (1 + difference) / 2), which knows of outcomes that were not seen: two
    arms that answered four questions alike are not shown to be the same.
    """
    differences = a - b
    mean = mean_over(lambda x: x, (differences,), seed=seed)
    if not is_share:
        return mean.value, mean.low, mean.high
    low, high = (2 * float(bound) - 1 for bound in rate_interval((1 + differences.mean(0)) / 2, seed))
    if mean.low is not None and mean.high is not None:
        low, high = min(low, mean.low), max(high, mean.high)
    return mean.value, max(-1.0, low), min(1.0, high)


def in_tables(scores: Iterable[TaskScore]) -> dict[tuple[str, str], Questions]:
    """(task, metric) -> question -> number, of the metric of each task that tables show."""
    found = by_metric(scores)
    shown = ((task, shown_metric(metrics)) for task, metrics in metrics_by_task([found]).items())
    return {name: found[name] for name in shown}


def by_metric(scores: Iterable[TaskScore]) -> dict[tuple[str, str], dict[str, float]]:
    """(task, metric) -> question -> number."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for score in scores:
        found.setdefault((score.task, score.metric), {})[score.question] = score.value
    return found


def metrics_by_task(known: Iterable[Scores]) -> dict[str, list[str]]:
    """Task -> its metrics, in the order in which they were asked for."""
    found: dict[str, list[str]] = {}
    for scores in known:
        for task, metric in scores:
            if metric not in found.setdefault(task, []):
                found[task].append(metric)
    return found


def shown_metric(metrics: list[str]) -> str:
    """The metric of a task that tables show."""
    return next((name for name in HIGHER_IS_BETTER if name in metrics), metrics[0])
