"""What arms score on tasks, and how far that is from the reference's score: paired by question, over seeds.

All tables have it from here.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from unnorm.evaluation.lm_eval import read_scores
from unnorm.evaluation.paired_tasks import Questions, by_metric, difference_of, metrics_by_task, shown_metric
from unnorm.study.audit import doubt_of
from unnorm.study.compare import matched_between
from unnorm.study.view import TASK_SCORES, CellView, StudyView

_SHOWN_OVER_REACH = 1.43
"""(Normal quantile of 97.5 % + of 80 %) / that of 97.5 %."""


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
        for task, metrics in metrics_by_task(known).items():
            metric = shown_metric(metrics)
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


def _scores(study: StudyView, cell: CellView) -> dict[tuple[str, str], dict[str, float]]:
    """(task, metric) -> question -> number; empty where the cell's scores are not there."""
    path = cell.folder / study.tasks / TASK_SCORES if cell.folder and study.tasks else None
    return by_metric(read_scores(path)) if path is not None and path.is_file() else {}


def _shared(several: list[Questions]) -> list[str]:
    """The questions that are in all of them, in the first one's order."""
    return [question for question in several[0] if all(question in each for each in several)] if several else []
