"""How often answers of one arm were preferred to another's, over the seeds of a place: the whole, and each category.

All figures, tables and comparisons have it from here.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from unnorm.evaluation.intervals import rate_interval
from unnorm.evaluation.judges.interface import WHOLE
from unnorm.evaluation.preference.summary import EXPLORATORY_BELOW, WinRate, counts_of, sign_test
from unnorm.evaluation.two_factors import Mean, mean_over
from unnorm.study.view import PairView


def win_rates(pairs: Sequence[PairView]) -> dict[str | None, WinRate]:
    """Of judged pairs, one a seed: the whole first, under None, then each category in the judge's order.

    Empty without a verdict. With one pair these are the judge's own numbers. With several they are over the questions
    that were judged in every seed. Seeds and questions are both drawn (`two_factors`); where that interval is narrower
    than the one over questions alone, which knows of outcomes that were not seen, it is widened to it.
    """
    if len(pairs) == 1:
        whole = (pairs[0].judge or {})["parts"][WHOLE]
        found = {None: whole, **whole["categories"]}
        return {name: _of_judge(part, name is not None) for name, part in found.items() if part["win_rate"]}
    values = [{v["prompt_id"]: v["value"] for v in pair.verdicts if v["value"] is not None} for pair in pairs]
    categories = {v["prompt_id"]: v["category"] for pair in pairs for v in pair.verdicts}
    shared = [prompt for prompt in (values[0] if values else ()) if all(prompt in each for each in values)]
    parts: dict[str | None, list[Any]] = {None: shared}
    for prompt in shared:
        parts.setdefault(categories[prompt], []).append(prompt)
    tables = {name: np.array([[v[p] for p in part] for v in values]) for name, part in parts.items() if part}
    return {name: _of_values(table, name is not None) for name, table in tables.items()}


def _of_judge(part: dict[str, Any], is_category: bool) -> WinRate:
    mean = Mean(**part["win_rate"], p=part.get("sign_test_p"))
    questions, wins, ties, losses = (part[name] for name in ("questions", "wins", "ties", "losses"))
    return WinRate(questions, wins, ties, losses, mean, is_category and questions < EXPLORATORY_BELOW)


def _of_values(values: np.ndarray, is_category: bool) -> WinRate:
    """From [seeds, questions], each 1, 0.5 or 0."""
    mean = mean_over(lambda x: x, (values,), null=0.5)
    by_question = values.mean(0)
    alone = low, high = [float(bound) for bound in rate_interval(by_question, 0)]
    if mean.low is not None and mean.high is not None:
        low, high = mean.low, mean.high
    p = mean.p
    if low == high:  # all the same: nothing was seen to vary, which is no certainty
        p = sign_test(int((by_question > 0.5).sum()), int((by_question < 0.5).sum()))
    widened = Mean(mean.value, max(0.0, min(low, alone[0])), min(1.0, max(high, alone[1])), p)
    questions = values.shape[1]
    return WinRate(questions, *counts_of(values), widened, is_category and questions < EXPLORATORY_BELOW)
