"""Two arms side by side: loss, accuracy, preference and latency, paired over seeds and conversations.

Each comparison says whether the audit found the two matched, and whether all seeds of the study are in it. p-values
are corrected by Holm's method over all comparisons of one metric.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from unnorm.evaluation.intervals import Estimate
from unnorm.evaluation.scores import ConversationSums, read_sums
from unnorm.evaluation.two_factors import Mean, holm, mean_over
from unnorm.foundation.errors import SettingsError
from unnorm.study.audit import differences, doubt_of, facts_of, matched_at
from unnorm.study.view import SCORES, CellView, PairView, StudyView
from unnorm.study.win_rates import win_rates

Metric = Literal["loss", "accuracy", "preference", "latency"]
UNITS: dict[Metric, str] = {
    "loss": "held-out loss, relative: 0.01 is 1 % higher",
    "accuracy": "held-out token accuracy, difference: 0.01 is one percentage point",
    "preference": "win rate of the arm, ties half",
    "latency": "time per output token, relative: 0.01 is 1 % slower",
}


class Row(NamedTuple):
    """One metric of one arm against another, over the seeds in which both are done.

    value, low, high: in the metric's unit (`UNITS`), with its 95 % interval; None where nothing was drawn twice. p:
    that there is no difference; p_holm: corrected. conversations: held-out conversations, or questions judged; 0 where
    only seeds were drawn. matched: what the audit found, in every seed; None where it has nothing. complete: whether
    no seed of the study is missing.

    error, freedom: of the value, where the interval is made of a standard error: of loss and accuracy. detectable: the
    smallest difference that the study could have shown (`Mean.detectable`). margin: the gap that counts as none, of the
    loss alone; equivalent: whether the value is within it (`Mean.within`).
    """

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
    conversations: int
    matched: bool | None
    complete: bool
    error: float | None
    freedom: float | None
    detectable: float | None
    margin: float | None
    equivalent: bool | None

    @property
    def place(self) -> tuple[str, str, str, str]:
        return self.model, self.dataset, self.strategy, self.arm

    @property
    def different(self) -> bool | None:
        """Whether the 95 % interval excludes 0, of loss and accuracy; None where there is no standard error."""
        if self.error is None or self.low is None:
            return None
        return Estimate(self.value, self.low, self.high).leaves_out(0)

    @property
    def doubt(self) -> str:
        """Why it is no result to conclude from, in words; empty where it is one."""
        return doubt_of(self.matched, self.complete)

    def to_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "seeds": list(self.seeds)}


def compare_arms(study: StudyView, arm: str | None = None, against: str | None = None) -> list[Row]:
    """Every arm (or `arm` alone) against the reference (or `against`), for each model, data set and strategy.

    p_holm counts every arm, also where one alone is asked for: which rows are shown does not change what one says.
    A `SettingsError` for an arm that the study does not have.
    """
    against = against or study.reference
    for name in (arm, against):
        if name is not None and name not in study.arms:
            raise SettingsError(f"{study.name} has no arm {name!r}. It has: {', '.join(study.arms)}.")
    if arm == against:
        raise SettingsError(f"{arm!r} against itself is no comparison. Name two arms.")
    arms = [each for each in study.arms if each != against]
    rows = _corrected([row for where in study.strata for each in arms for row in _rows(study, where, each, against)])
    return [row for row in rows if arm in (None, row.arm)]


def _rows(study: StudyView, where: tuple[str, str, str], arm: str, against: str) -> list[Row]:
    wanted = [c.seed for c in study.cells if (c.place.stratum, c.arm) == (where, arm)]
    here = [cell for place, cell in study.done.items() if place.stratum == where]
    cells, others = ({cell.seed: cell for cell in here if cell.arm == each} for each in (arm, against))
    both = [(cells[s], others[s]) for s in study.seeds if s in cells and s in others]
    if not both:
        return []
    of_both = [p for p in study.pairs if (p.place.stratum, p.arm, p.against) == (where, arm, against)]
    pairs = [p for p in of_both if p.seed in cells]
    matched = matched_between(study, both)
    found: list[tuple[Metric, Mean, tuple[int, ...], int]] = [
        *_losses(both),
        *_preference([p for p in pairs if p.judge]),
        *_latency([p for p in pairs if p.latency]),
    ]
    return [
        Row(
            *where,
            arm=arm,
            against=against,
            metric=metric,
            **vars(mean),
            p_holm=None,
            detectable=mean.detectable,
            margin=study.margin if metric == "loss" else None,
            equivalent=mean.within(study.margin) if metric == "loss" else None,
            seeds=seeds,
            conversations=count,
            matched=matched,
            complete=set(wanted) <= set(seeds),
        )
        for metric, mean, seeds, count in found
    ]


def matched_between(study: StudyView, both: Sequence[tuple[CellView, CellView]]) -> bool | None:
    """What the study's audit says of these pairs (one or more); of arms that it does not compare, what it would say."""
    if both[0][1].arm == study.reference:
        return matched_at(study.audit, {one.place for one, _ in both})
    return all(
        not differences(*map(_facts, pair), tuned={cell.place.slot for cell in pair} <= study.tuned)[0] for pair in both
    )


def _losses(both: Sequence[tuple[CellView, CellView]]) -> list[tuple[Metric, Mean, tuple[int, ...], int]]:
    """Loss and accuracy, from the scores of each conversation; from the cells' results where those are not there."""
    seeds = tuple(one.seed for one, _ in both)
    tables = [[_sums(cell) for cell in pair] for pair in both]
    known = [table for pair in tables for table in pair if table is not None]
    if len(known) < 2 * len(both) or any(not np.array_equal(table.ids, known[0].ids) for table in known):
        return _of_results(both, seeds)
    columns = tuple(
        np.array([getattr(pair[side], name) for pair in tables], dtype=float)
        for name in ("nats", "correct", "tokens")
        for side in (0, 1)
    )
    nats, correct, tokens = columns[:2], columns[2:4], columns[4:]

    count = columns[0].shape[1]
    return [
        ("loss", mean_over(loss_gap, (*nats, *tokens)), seeds, count),
        ("accuracy", mean_over(_difference, (*correct, *tokens)), seeds, count),
    ]


def loss_gap(nats: Any, other_nats: Any, tokens: Any, other_tokens: Any) -> Any:
    """Relative, of one loss to another; each is nats over tokens."""
    return nats / tokens / (other_nats / other_tokens) - 1


def _difference(correct: Any, other_correct: Any, tokens: Any, other_tokens: Any) -> Any:
    return correct / tokens - other_correct / other_tokens


def _of_results(
    both: Sequence[tuple[CellView, CellView]], seeds: tuple[int, ...]
) -> list[tuple[Metric, Mean, tuple[int, ...], int]]:
    """Without the scores of each conversation only seeds are drawn."""

    def column(side: int, key: str) -> np.ndarray:
        return np.array([[pair[side].result[key]] for pair in both])  # type: ignore[index]

    losses, accuracies = ([column(side, key) for side in (0, 1)] for key in ("eval_loss", "eval_token_accuracy"))
    return [
        ("loss", mean_over(lambda a, b: a / b - 1, tuple(losses)), seeds, 0),
        ("accuracy", mean_over(lambda a, b: a - b, tuple(accuracies)), seeds, 0),
    ]


def _preference(pairs: list[PairView]) -> list[tuple[Metric, Mean, tuple[int, ...], int]]:
    seeds = tuple(pair.seed for pair in pairs)
    whole = win_rates(pairs).get(None)
    if whole is None:
        return []
    assert isinstance(whole.win_rate, Mean), "of a study's pairs"
    return [("preference", whole.win_rate, seeds, whole.questions)]


def _latency(pairs: list[PairView]) -> list[tuple[Metric, Mean, tuple[int, ...], int]]:
    """The ratio of decoding times: of one pair with the harness's own interval, of several with their spread."""
    ratios = [_ratio(pair) for pair in pairs]
    if not ratios:
        return []
    seeds = tuple(pair.seed for pair in pairs)
    if len(ratios) == 1:
        only = {key: ratios[0][key] - 1 for key in ("value", "low", "high")}
        return [("latency", Mean(**only, p=None), seeds, 0)]
    logs = np.array([[math.log(ratio["value"])] for ratio in ratios])
    mean = mean_over(lambda x: x, (logs,))
    low, high = (None if bound is None else math.expm1(bound) for bound in (mean.low, mean.high))
    return [("latency", Mean(math.expm1(mean.value), low, high, mean.p), seeds, 0)]


def _ratio(pair: PairView) -> dict[str, float]:
    of_arm = [c for c in pair.latency["comparisons"] if c["model"] == pair.arm]  # type: ignore[index]
    ratio: dict[str, float] = next(c for c in of_arm if c["workload"]["kind"] == "decode")["ratio"]
    return ratio


def _corrected(rows: list[Row]) -> list[Row]:
    result = list(rows)
    for metric in UNITS:
        places = [i for i, row in enumerate(rows) if row.metric == metric and row.p is not None]
        for i, p in zip(places, holm([rows[i].p or 0.0 for i in places]), strict=True):
            result[i] = rows[i]._replace(p_holm=p)
    return result


def _sums(cell: CellView) -> ConversationSums | None:
    path = cell.folder / SCORES if cell.folder else None
    return read_sums(path) if path is not None and path.is_file() else None


def _facts(cell: CellView) -> Any:
    assert cell.folder is not None  # a cell that is done has one
    return facts_of(cell.folder)
