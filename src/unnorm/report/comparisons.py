"""What an arm differs by from the reference, paired by seed: all figures, tables and sentences have it from here."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

from scipy import stats

from unnorm.study.view import CellView, StudyView

Metric = Literal["loss", "accuracy"]


class Row(NamedTuple):
    """One arm against another in one place. value: of `loss` the relative difference of the held-out loss at the end
    (eval_loss / that of `against` − 1), of `accuracy` the difference of token accuracies; over seeds. low, high: its
    95 % t interval over seeds, None with one. p, p_holm: None where no test was made. matched: what the audit found,
    None where it has nothing. complete: whether both are done with every seed of the study."""

    model: str
    dataset: str
    strategy: str
    arm: str
    against: str
    metric: Metric
    value: float
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    seeds: tuple[int, ...]
    matched: bool | None
    complete: bool

    @property
    def place(self) -> tuple[str, str, str, str]:
        return self.model, self.dataset, self.strategy, self.arm

    @property
    def sound(self) -> bool:
        """Whether it may be drawn as a result: not found to differ in more than the arm, and whole."""
        return self.matched is not False and self.complete

    @property
    def doubt(self) -> str:
        """Why it may not, in words; empty where it may."""
        words = [] if self.matched is not False else ["not matched"]
        words += [] if self.complete else ["incomplete"]
        return ", ".join(words)


_METRICS: dict[Metric, Callable[[dict[str, float], dict[str, float]], float]] = {
    "loss": lambda one, other: one["eval_loss"] / other["eval_loss"] - 1,
    "accuracy": lambda one, other: one["eval_token_accuracy"] - other["eval_token_accuracy"],
}


def compare_arms(study: StudyView) -> list[Row]:
    """Every arm against the study's reference, wherever both are done with the same seed."""
    return [
        row
        for model in study.models
        for dataset in study.datasets
        for strategy in study.strategies
        for arm in others(study)
        for metric in _METRICS
        if (row := _row(study, model, dataset, strategy, arm, metric)) is not None
    ]


def others(study: StudyView) -> list[str]:
    """The arms that are compared with the reference."""
    return [arm for arm in study.arms if arm != study.reference]


def behind(study: StudyView, row: Row) -> list[tuple[CellView, CellView]]:
    """The finished cells that a row rests on: (the arm's, the reference's), a pair a seed."""
    done = {(c.model, c.dataset, c.strategy, c.arm, c.seed): c for c in study.cells if c.result}
    here = (row.model, row.dataset, row.strategy)
    return [(done[*here, row.arm, seed], done[*here, row.against, seed]) for seed in row.seeds]


def _row(study: StudyView, model: str, dataset: str, strategy: str, arm: str, metric: Metric) -> Row | None:
    here = (model, dataset, strategy)
    cells = [c for c in study.cells if (c.model, c.dataset, c.strategy) == here]
    results = {(c.arm, c.seed): c.result for c in cells if c.result}
    pairs = {
        seed: (one, other)
        for seed in study.seeds
        if (one := results.get((arm, seed))) and (other := results.get((study.reference, seed)))
    }
    if not pairs:
        return None
    values = [_METRICS[metric](one, other) for one, other in pairs.values()]
    mean, low, high = _interval(values)
    planned = {c.seed for c in cells if c.arm == arm}
    found = [
        c["matched"]
        for c in study.audit["comparisons"]
        if (c["model"], c["dataset"], c["strategy"], c["arm"]) == (*here, arm) and c["seed"] in pairs
    ]
    return Row(
        *here, arm, study.reference, metric, mean, low, high, None, None,
        tuple(pairs), all(found) if found else None, set(pairs) >= planned,
    )  # fmt: skip


def _interval(values: list[float]) -> tuple[float, float | None, float | None]:
    """Mean and 95 % t interval."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None, None
    error = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return mean, mean - reach, mean + reach
