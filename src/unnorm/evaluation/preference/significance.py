"""Could chance alone have done it, and what could these questions have shown at all."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

_LEVEL = 0.05
_POWER = 0.8
_RESAMPLES = 9999
_NUMBERS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Detectable:
    """Win rates above one half, ties as half; their mirror images below are as far. None: no win rate would do.

    significant: the smallest that, if observed with as many ties, has p < 0.05 in the sign test. with_power: the
    smallest true one that has it four times in five.
    """

    significant: float | None
    with_power: float | None


def sign_test(wins: int, losses: int) -> float:
    """p of the exact two-sided sign test; ties say nothing and are left out."""
    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def permutation_test(scores: Sequence[float], seed: int) -> float | None:
    """p of the paired permutation test that the mean score is zero: A and B change places question by question.

    Exact up to 13 questions, else of 9,999 drawn exchanges. None without scores.
    """
    if not scores:
        return None
    half = np.asarray(scores, dtype=np.float64) / 2
    if len(half) == 1 or not half.any():
        return 1.0
    found = stats.permutation_test(
        (half, -half),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=max(1, _NUMBERS_AT_ONCE // len(half)),
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def detectable(questions: int, ties: int) -> Detectable:
    """What `questions` of which `ties` are ties could have shown with the sign test at 5 %."""
    decided = questions - ties
    needed = next((w for w in range(decided // 2, decided + 1) if sign_test(w, decided - w) < _LEVEL), None)
    if needed is None:
        return Detectable(None, None)

    def short_of_power(p: float) -> float:
        reached = stats.binom.sf(needed - 1, decided, p) + stats.binom.cdf(decided - needed, decided, p)
        return float(reached) - _POWER

    p = optimize.brentq(short_of_power, 0.5, 1.0)
    return Detectable((needed + ties / 2) / questions, (p * decided + ties / 2) / questions)
