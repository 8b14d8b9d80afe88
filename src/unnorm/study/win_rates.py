"""How often answers of one arm were preferred to another's, over the seeds of a place: the whole, and each category.

All figures, tables and comparisons have it from here.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from unnorm.evaluation.intervals import rate
from unnorm.evaluation.judges.interface import WHOLE
from unnorm.evaluation.preference.significance import sign_test
from unnorm.evaluation.two_factors import Mean, mean_over
from unnorm.study.view import PairView


class WinRate(NamedTuple):
    """mean: of the arm, ties as half, with its 95 % interval and p. wins, ties, losses: judgements of every seed."""

    questions: int
    wins: int
    ties: int
    losses: int
    mean: Mean

    @property
    def judgements(self) -> int:
        return self.wins + self.ties + self.losses


def win_rates(pairs: Sequence[PairView]) -> dict[str | None, WinRate]:
    """Of judged pairs, one a seed: the whole first, under None, then each category in the judge's order.

    Empty without a verdict. With one pair these are the judge's own numbers. With several they are over the questions
    that were judged in every seed. Seeds and questions are both drawn (`two_factors`); where that interval is narrower
    than the one over questions alone, which knows of outcomes that were not seen, it is widened to it.
    """
    if len(pairs) == 1:
        whole = (pairs[0].judge or {})["parts"][WHOLE]
        found = {None: whole, **whole["categories"]}
        return {name: _of_judge(part) for name, part in found.items() if part["win_rate"]}
    values = [{v["prompt_id"]: v["value"] for v in pair.verdicts if v["value"] is not None} for pair in pairs]
    categories = {v["prompt_id"]: v["category"] for pair in pairs for v in pair.verdicts}
    shared = [prompt for prompt in (values[0] if values else ()) if all(prompt in each for each in values)]
    parts: dict[str | None, list[Any]] = {None: shared}
    for prompt in shared:
        parts.setdefault(categories[prompt], []).append(prompt)
    return {name: _of_values(np.array([[v[p] for p in part] for v in values])) for name, part in parts.items() if part}


def _of_judge(part: dict[str, Any]) -> WinRate:
    mean = Mean(**part["win_rate"], p=part.get("sign_test_p"))
    return WinRate(part["questions"], part["wins"], part["ties"], part["losses"], mean)


def _of_values(values: np.ndarray) -> WinRate:
    """From [seeds, questions], each 1, 0.5 or 0."""
    mean = mean_over(lambda x: x, (values,), null=0.5)
    by_question = values.mean(0)
    alone = rate(by_question, 0)
    assert alone is not None, "there is a question"
    low, high = (alone.low, alone.high) if mean.low is None or mean.high is None else (mean.low, mean.high)
    p = mean.p
    if low == high:  # all the same: nothing was seen to vary, which is no certainty
        p = sign_test(int((by_question > 0.5).sum()), int((by_question < 0.5).sum()))
    wins, ties, losses = (int((values == value).sum()) for value in (1, 0.5, 0))
    return WinRate(
        values.shape[1],
        wins,
        ties,
        losses,
        Mean(mean.value, max(0.0, min(low, alone.low)), min(1.0, max(high, alone.high)), p),
    )
