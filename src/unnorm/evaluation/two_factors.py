"""The mean of a quantity over seeds and questions at once: both were drawn, so both make it uncertain.

Seeds and questions (or conversations) are crossed: every seed is measured on the same questions. The variance of the
mean is then that over seeds plus that over questions; the first comes from the spread between seeds, the second from a
bootstrap over questions of the mean over seeds. What seed and question do together is in both parts, so the interval
is a little too wide rather than too narrow. With one seed only the questions are drawn, and the interval speaks for
that seed alone.

The quantile of t is the mean of the parts' own, each weighted by its variance (Cochran, Biometrics 20, 1964).
Satterthwaite's degrees of freedom, which are more usual, are taken from the variances as they were found: where two or
three seeds happen to agree they claim too many, and intervals cover as little as 88 % (two seeds) or 92 % (three).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, special

from unnorm.evaluation.intervals import Estimate

_RESAMPLES = 1000
_AT_ONCE = 2**17  # numbers of resamples in memory: few enough for a cache
_LEVEL = 0.95
_POWER = 0.8


@dataclass(frozen=True)
class Mean(Estimate):
    """The mean, its 95 % interval, and the two-sided p of its being `null` (both None where nothing is drawn twice).

    error: its standard error; freedom: that error's degrees of freedom, endless where nothing varies. Interval and p
    are Student's t of these two. Both are None where the interval is made otherwise.
    """

    p: float | None
    error: float | None = None
    freedom: float | None = None

    def within(self, margin: float) -> bool | None:
        """Whether it is equivalent to 0 at the 5 % level: two one-sided t tests (Schuirmann 1987, Journal of
        Pharmacokinetics and Biopharmaceutics 15) both refuse that it lies `margin` or more from 0.

        That is so if and only if the 90 % interval lies within ± `margin`. Error and degrees of freedom are those of
        the 95 % interval, so that the two never contradict: what is within the margin at 95 % is equivalent.
        """
        if self.error is None or self.freedom is None:
            return None
        return abs(self.value) + _t(_LEVEL, self.freedom) * self.error < margin

    @property
    def detectable(self) -> float | None:
        """The smallest true mean, above or below `null`, that four in five such measurements would tell from it.

        (t of 97.5 % + t of 80 %) × error, at 80 % power and a two-sided level of 5 %. It rests on how uncertain the
        mean is and not on how large it came out, so it may be read after the measurement. None where nothing varied:
        that says nothing of what could have been told.
        """
        if not self.error or self.freedom is None:
            return None
        return (_t((1 + _LEVEL) / 2, self.freedom) + _t(_POWER, self.freedom)) * self.error


def mean_over(
    statistic: Callable[..., Any], columns: tuple[np.ndarray, ...], *, null: float = 0.0, seed: int = 0
) -> Mean:
    """The mean over seeds of `statistic`, a function of each column's mean over questions [..., seeds].

    columns: each [seeds, n]; the n questions are the same in every seed. A ratio of sums is one of means. The statistic
    is also called on [resamples, seeds].
    """
    seeds, questions = columns[0].shape
    each = np.asarray(statistic(*(column.mean(-1) for column in columns)))
    value = float(each.mean())
    by_question = _variance_over_questions(statistic, columns, seed) if questions > 1 else None
    by_seed = float(each.var(ddof=1)) / seeds if seeds > 1 else None
    known = [(v, n - 1) for v, n in ((by_question, questions), (by_seed, seeds)) if v is not None]
    variance = sum(v for v, _ in known)
    if not known or not math.isfinite(variance):
        return Mean(value, None, None, None)
    if variance == 0:
        return Mean(value, value, value, 1.0 if value == null else 0.0, 0.0, math.inf)
    freedom = _freedom([v / variance for v, _ in known], [n for _, n in known])
    error = math.sqrt(variance)
    reach = _t((1 + _LEVEL) / 2, freedom) * error
    p = 2 * float(special.stdtr(freedom, -abs(value - null) / error))
    return Mean(value, value - reach, value + reach, p, error, freedom)


def holm(ps: list[float]) -> list[float]:
    """p-values corrected for being that many (Holm, Scandinavian Journal of Statistics 6, 1979), in the same order."""
    corrected, highest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(np.argsort(ps)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[index]))
        corrected[index] = highest
    return corrected


def _freedom(weights: list[float], freedoms: list[int]) -> float:
    """The degrees of freedom at which t's 97.5 % quantile is the weighted mean of those at `freedoms`.

    Solved for once, at the interval's level, so that interval, p and equivalence test are of one distribution.
    """
    if len(freedoms) == 1:
        return freedoms[0]
    level = (1 + _LEVEL) / 2
    wanted = sum(w * _t(level, n) for w, n in zip(weights, freedoms, strict=True))
    low, high = min(freedoms), max(freedoms)
    if not _t(level, high) < wanted < _t(level, low):
        return low if wanted >= _t(level, low) else high
    return float(optimize.brentq(lambda freedom: _t(level, freedom) - wanted, low, high, xtol=1e-9))


def _t(share: float, freedom: float) -> float:
    return float(special.stdtrit(freedom, share))


def _variance_over_questions(statistic: Callable[..., Any], columns: tuple[np.ndarray, ...], seed: int) -> float:
    questions = columns[0].shape[1]
    generator = np.random.default_rng(seed)
    batch = max(1, _AT_ONCE // questions)
    means: list[np.ndarray] = []
    for first in range(0, _RESAMPLES, batch):
        count = min(batch, _RESAMPLES - first)
        drawn = generator.integers(questions, size=(count, questions))
        places = drawn + questions * np.arange(count)[:, None]
        times = np.bincount(places.ravel(), minlength=count * questions).reshape(count, questions) / questions
        resampled = [times @ column.T for column in columns]  # [resamples, seeds]
        means.append(np.asarray(statistic(*resampled)).mean(-1))
    # resampling draws from the sample, whose spread is too small by (n − 1)/n
    return float(np.concatenate(means).var(ddof=1) * questions / (questions - 1))
