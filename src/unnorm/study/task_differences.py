"""What arms score on tasks, and how far that is from the reference's score: paired by question, over seeds.

All tables have it from here.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from unnorm.evaluation.intervals import rate_interval
from unnorm.evaluation.lm_eval import TaskScore, read_scores
from unnorm.evaluation.two_factors import mean_over
from unnorm.study.audit import doubt_of
from unnorm.study.compare import matched_between
from unnorm.study.view import TASK_SCORES, CellView, StudyView

HIGHER_IS_BETTER = ("acc_norm", "acc", "exact_match")
"""A task has one row: of the first of these metrics that it has, else of its own first one."""
_SHOWN_OVER_REACH = 1.43
"""(Normal quantile of 97.5 % + of 80 %) / that of 97.5 %."""

Questions = Mapping[str, float]
"""Digest of a question -> its number."""


class TaskRow(NamedTuple):
    """One task of one arm in one place, over the arm's finished seeds.

    value: the mean over questions and seeds, in the metric's unit; is_share: whether every number of it lies between 0
    and 1. difference, low, high: arm minus `against`, over the `paired` seeds and the `questions` that both answered in
    all of them, with its 95 % interval; None for the reference itself and where nothing is paired. detectable: the
    smallest difference that four in five such studies would show, from how wide the interval is; for few seeds rather
    too large. matched, complete: as in `compare.Row`.
    """

    model: str
    dataset: str
    strategy: str
    arm: str
    task: str
    metric: str
    value: float
    is_share: bool
    seeds: tuple[int, ...]
    against: str | None
    difference: float | None
    low: float | None
    high: float | None
    detectable: float | None
    paired: tuple[int, ...]
    questions: int
    matched: bool | None
    complete: bool

    @property
    def doubt(self) -> str:
        """Why it is no result to conclude from, in words; empty where it is one."""
        return doubt_of(self.matched, self.complete)

    def to_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "seeds": list(self.seeds), "paired": list(self.paired)}


@lru_cache(maxsize=2)
def task_rows(study: StudyView, against: str | None = None) -> tuple[TaskRow, ...]:
    """A row a model, data set, strategy, task and arm, in the study's order; none where no tasks were answered.

    against: the arm that the others are compared with, by default the study's reference.
    """
    against = against or study.reference
    scores = {cell.place: found for cell in study.cells if cell.done and (found := _scores(study, cell))}
    rows = []
    for where in study.strata:
        here = [c for c in study.cells if c.place.stratum == where]
        known = [scores[c.place] for c in here if c.place in scores]
        for task, metrics in _metrics(known).items():
            metric = _shown(metrics)
            by_arm = {
                arm: {
                    c.seed: scores[c.place][task, metric]
                    for c in here
                    if c.arm == arm and (task, metric) in scores.get(c.place, {})
                }
                for arm in study.arms
            }
            rows += [
                _row(study, here, (arm, against, task, metric), by_arm[arm], by_arm[against])
                for arm in study.arms
                if by_arm[arm]
            ]
    return tuple(rows)


def _row(
    study: StudyView,
    here: list[CellView],
    named: tuple[str, str, str, str],
    mine: Mapping[int, Questions],
    reference: Mapping[int, Questions],
) -> TaskRow:
    arm, against, task, metric = named
    cells = [cell for cell in here if cell.arm == arm]
    paired = tuple(seed for seed in mine if seed in reference) if arm != against else ()
    both = [
        (cell, other)
        for cell in cells
        for other in here
        if (other.arm, other.seed) == (against, cell.seed) and cell.seed in paired
    ]
    shared = _shared([each for seed in paired for each in (mine[seed], reference[seed])])
    values = [value for questions in mine.values() for value in questions.values()]
    is_share = all(0 <= value <= 1 for of in (mine, reference) for each in of.values() for value in each.values())
    difference = low = high = None
    if paired and shared:
        a, b = (np.array([[of[seed][q] for q in shared] for seed in paired]) for of in (mine, reference))
        difference, low, high = difference_of(a, b, is_share=is_share)
    seeds = tuple(sorted(mine))
    done_of_all = {cell.seed for cell in cells} <= set(seeds if arm == against else paired)
    return TaskRow(
        *(cells[0].model, cells[0].dataset, cells[0].strategy),
        arm=arm,
        task=task,
        metric=metric,
        value=float(np.mean(values)),
        is_share=is_share,
        seeds=seeds,
        against=against if paired else None,
        difference=difference,
        low=low,
        high=high,
        detectable=None if low is None or high is None else _SHOWN_OVER_REACH * (high - low) / 2,
        paired=tuple(sorted(paired)),
        questions=len(shared) if paired else len(_shared(list(mine.values()))),
        matched=matched_between(study, both) if both else None,
        complete=done_of_all,
    )


def difference_of(a: np.ndarray, b: np.ndarray, *, is_share: bool) -> tuple[float, float | None, float | None]:
    """(mean of `a` − `b`, low, high), both [seeds, n] of the same n questions, with its 95 % interval.

    Seeds and questions are both drawn (`two_factors`). Where all numbers are shares the interval is widened to the one
    over questions alone (`rate_interval`, of (1 + difference) / 2), which knows of outcomes that were not seen: two
    arms that answered four questions alike are not shown to be the same.
    """
    differences = a - b
    mean = mean_over(lambda x: x, (differences,))
    if not is_share:
        return mean.value, mean.low, mean.high
    low, high = (2 * float(bound) - 1 for bound in rate_interval((1 + differences.mean(0)) / 2, 0))
    if mean.low is not None and mean.high is not None:
        low, high = min(low, mean.low), max(high, mean.high)
    return mean.value, max(-1.0, low), min(1.0, high)


def in_tables(scores: Iterable[TaskScore]) -> dict[tuple[str, str], Questions]:
    """(task, metric) -> question -> number, of the metric of each task that tables show."""
    found = _by_metric(scores)
    return {
        (task, shown): found[task, shown] for task, metrics in _metrics([found]).items() if (shown := _shown(metrics))
    }


def _by_metric(scores: Iterable[TaskScore]) -> dict[tuple[str, str], dict[str, float]]:
    found: dict[tuple[str, str], dict[str, float]] = {}
    for score in scores:
        found.setdefault((score.task, score.metric), {})[score.question] = score.value
    return found


def _scores(study: StudyView, cell: CellView) -> dict[tuple[str, str], dict[str, float]]:
    """(task, metric) -> question -> number; empty where the cell's scores are not there."""
    path = cell.folder / study.tasks / TASK_SCORES if cell.folder and study.tasks else None
    return _by_metric(read_scores(path)) if path is not None and path.is_file() else {}


def _shown(metrics: list[str]) -> str:
    return next((name for name in HIGHER_IS_BETTER if name in metrics), metrics[0])


def _metrics(known: Iterable[Mapping[tuple[str, str], Questions]]) -> dict[str, list[str]]:
    """Task -> its metrics, in the order in which they were asked for."""
    found: dict[str, list[str]] = {}
    for scores in known:
        for task, metric in scores:
            if metric not in found.setdefault(task, []):
                found[task].append(metric)
    return found


def _shared(several: list[Questions]) -> list[str]:
    """The questions that are in all of them, in the first one's order."""
    return [question for question in several[0] if all(question in each for each in several)] if several else []
