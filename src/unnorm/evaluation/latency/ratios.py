"""From times to a ratio and its interval.

Of each block comes one paired log-ratio. Their 20 % trimmed mean is the estimate, its percentile bootstrap over blocks
the 95 % interval: a burst of other work on the machine spoils a few blocks wholly, which a mean does not survive. (In
simulations with drift and bursts a mean's interval covers the truth in some 90 %, and is twice as wide.)
"""

import math
from dataclasses import dataclass

import numpy as np

from unnorm.evaluation.intervals import Estimate

_TRIM = 0.2
_RESAMPLES = 1000


@dataclass(frozen=True)
class Ratio(Estimate):
    """Time of one model over another's: the estimate and its 95 % interval, from `blocks` paired blocks."""

    low: float
    high: float
    blocks: int

    @property
    def half_width(self) -> float:
        """Of the interval, relative: 0.01 is ± 1 %."""
        return (math.log(self.high) - math.log(self.low)) / 2

    @property
    def bound(self) -> float:
        """How far from 1 the interval reaches, relative."""
        return max(abs(math.log(self.low)), abs(math.log(self.high)))


def ratio_of(first: np.ndarray, second: np.ndarray, *, seed: int = 0) -> Ratio:
    """Times of two models, seconds [blocks, 2] each, as they were taken in the same blocks (at least two)."""
    from scipy import stats

    logs = np.log(first).mean(1) - np.log(second).mean(1)
    found = stats.bootstrap(
        (logs,),
        lambda x, axis: stats.trim_mean(x, _TRIM, axis=axis),
        n_resamples=_RESAMPLES,
        method="percentile",
        vectorized=True,
        rng=seed,
    ).confidence_interval
    value = float(stats.trim_mean(logs, _TRIM))
    return Ratio(math.exp(value), math.exp(float(found.low)), math.exp(float(found.high)), len(logs))
