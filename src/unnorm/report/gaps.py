"""The gap to `original`: how much higher an arm's held-out loss ends, paired by seed."""

import math
from typing import NamedTuple

from scipy import stats

from unnorm.study.view import StudyView


class Gap(NamedTuple):
    """mean: eval_loss / eval_loss of `against` − 1, over seeds; low, high: its 95 % t interval, None with one seed."""

    model: str
    dataset: str
    strategy: str
    arm: str
    against: str
    mean: float
    low: float | None
    high: float | None
    seeds: tuple[int, ...]
    loss: float
    against_loss: float


def gaps(study: StudyView) -> list[Gap]:
    """Every arm against the study's reference, wherever both are done with the same seed."""
    done = {(c.model, c.dataset, c.strategy, c.arm, c.seed): c.result["eval_loss"] for c in study.cells if c.result}
    found = []
    for model in study.models:
        for dataset in study.datasets:
            for strategy in study.strategies:
                for arm in others(study):
                    ours = {s: done.get((model, dataset, strategy, arm, s)) for s in study.seeds}
                    theirs = {s: done.get((model, dataset, strategy, study.reference, s)) for s in study.seeds}
                    pairs = {
                        s: (a, b) for s in study.seeds if (a := ours[s]) is not None and (b := theirs[s]) is not None
                    }
                    if pairs:
                        found.append(_gap(model, dataset, strategy, arm, study.reference, pairs))
    return found


def others(study: StudyView) -> list[str]:
    """The arms that are compared with the reference."""
    return [arm for arm in study.arms if arm != study.reference]


def _gap(model: str, dataset: str, strategy: str, arm: str, against: str, pairs: dict[int, tuple[float, float]]) -> Gap:
    values = [one / other - 1 for one, other in pairs.values()]
    mean = sum(values) / len(values)
    low = high = None
    if len(values) > 1:
        error = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
        reach = float(stats.t.ppf(0.975, len(values) - 1)) * error
        low, high = mean - reach, mean + reach
    losses = [sum(pair[i] for pair in pairs.values()) / len(pairs) for i in (0, 1)]
    return Gap(model, dataset, strategy, arm, against, mean, low, high, tuple(pairs), losses[0], losses[1])
