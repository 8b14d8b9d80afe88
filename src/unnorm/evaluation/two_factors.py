"""The mean of a quantity over seeds and questions at once: both were drawn, so both make it uncertain.

Seeds and questions (or conversations) are crossed: every seed is measured on the same questions. The variance of the
mean is then that over seeds plus that over questions; the first comes from the spread between seeds, the second from a
bootstrap over questions of the mean over seeds. Their sum has Satterthwaite's degrees of freedom (Biometrics Bulletin
2, 1946). What seed and question do together is in both parts, so the interval is a little too wide rather than too
narrow. With one seed only the questions are drawn, and the interval speaks for that seed alone.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

_RESAMPLES = 1000
_AT_ONCE = 2**20  # numbers of resamples in memory
_LEVEL = 0.95


class Mean(NamedTuple):
    """The mean, its 95 % interval, and the two-sided p of its being `null` (both None where nothing is drawn twice)."""

    value: float
    low: float | None
    high: float | None
    p: float | None


def mean_over(
    statistic: Callable[..., Any], columns: tuple[np.ndarray, ...], *, null: float = 0.0, seed: int = 0
) -> Mean:
    """The mean over seeds of `statistic`, a function of columns [seeds, n] and `axis`, that gives [seeds].

    columns: each [seeds, n]; the n questions are the same in every seed. Needs scipy's bootstrap convention: the
    statistic is also called on [resamples, seeds, n].
    """
    seeds, questions = columns[0].shape
    each = np.asarray(statistic(*columns, axis=-1))
    value = float(each.mean())
    by_question = _variance_over_questions(statistic, columns, seed) if questions > 1 else None
    by_seed = float(each.var(ddof=1)) / seeds if seeds > 1 else None
    known = [(v, n - 1) for v, n in ((by_question, questions), (by_seed, seeds)) if v is not None]
    variance = sum(v for v, _ in known)
    if not known or not math.isfinite(variance):
        return Mean(value, None, None, None)
    if variance == 0:
        return Mean(value, value, value, 1.0 if value == null else 0.0)
    freedom = variance**2 / sum(v**2 / n for v, n in known)
    error = math.sqrt(variance)
    reach = float(stats.t.ppf((1 + _LEVEL) / 2, freedom)) * error
    p = 2 * float(stats.t.sf(abs(value - null) / error, freedom))
    return Mean(value, value - reach, value + reach, p)


def holm(ps: list[float]) -> list[float]:
    """p-values corrected for being that many (Holm, Scandinavian Journal of Statistics 6, 1979), in the same order."""
    corrected, highest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(np.argsort(ps)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[index]))
        corrected[index] = highest
    return corrected


def _variance_over_questions(statistic: Callable[..., Any], columns: tuple[np.ndarray, ...], seed: int) -> float:
    questions = columns[0].shape[1]
    generator = np.random.default_rng(seed)
    batch = max(1, _AT_ONCE // columns[0].size)
    means: list[np.ndarray] = []
    for first in range(0, _RESAMPLES, batch):
        drawn = generator.integers(questions, size=(min(batch, _RESAMPLES - first), questions))
        resampled = [np.moveaxis(column[:, drawn], 0, 1) for column in columns]  # [resamples, seeds, n]
        means.append(np.asarray(statistic(*resampled, axis=-1)).mean(-1))
    # resampling draws from the sample, whose spread is too small by (n − 1)/n
    return float(np.concatenate(means).var(ddof=1) * questions / (questions - 1))
