"""Estimates with their 95 % intervals, by bootstrap over questions or conversations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000
_LEVEL = 0.95
_FEW = 30
_NUMBERS_AT_ONCE = 2**19  # of resamples in memory, however many questions


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval; low and high are None where nothing was drawn twice."""

    value: float
    low: float | None
    high: float | None

    def leaves_out(self, value: float) -> bool:
        """Whether the interval does not hold `value`; never where there is none."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high


def interval(statistic: Callable[..., Any], columns: tuple[np.ndarray, ...], seed: int) -> tuple[Any, Any]:
    """(low, high) of a statistic of `columns` [..., n], whose last axis is questions, resampled together.

    statistic: called with resampled columns and axis=-1. Percentile bootstrap, at the level that makes up for the
    bootstrap's spread being too small by √((n − 1)/n) and for the normal quantile in place of Student's (the
    expanded percentile interval of Hesterberg, arXiv 1411.5279).
    """
    from scipy import stats

    n = columns[0].shape[-1]
    reach = np.sqrt(n / (n - 1)) * stats.t.ppf((1 + _LEVEL) / 2, n - 1)
    found = stats.bootstrap(
        columns,
        statistic,
        paired=True,
        vectorized=True,
        axis=-1,
        n_resamples=RESAMPLES,
        batch=max(1, _NUMBERS_AT_ONCE // columns[0].size),
        method="percentile",
        confidence_level=float(1 - 2 * stats.norm.sf(reach)),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return found.low, found.high


def rate_interval(values: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) [...] of the mean of `values` [..., n], each in [0, 1].

    A bootstrap knows nothing of outcomes that it has not seen. Where all values are the same it would claim certainty:
    the exact 97.5 % bound on the share of questions that are otherwise (Clopper and Pearson 1934, with none seen)
    stands in, 1 − 0.025^(1/n). Of fewer than `_FEW` questions it covers too little: their exact interval of a binomial
    share is joined to it, which ties make wider than need be.
    """
    from scipy import stats

    n = values.shape[-1]
    mean = values.mean(axis=-1)
    unseen = 1 - 0.025 ** (1 / n)
    certain = (mean - unseen * mean, mean + unseen * (1 - mean))
    if n == 1:
        return certain
    low, high = interval(np.mean, (values,), seed)
    if n < _FEW:
        count = values.sum(axis=-1)
        low = np.minimum(low, np.nan_to_num(stats.beta.ppf(0.025, count, n - count + 1), nan=0.0))
        high = np.maximum(high, np.nan_to_num(stats.beta.ppf(0.975, count + 1, n - count), nan=1.0))
    same = (values == values[..., :1]).all(axis=-1)
    return np.where(same, certain[0], low), np.where(same, certain[1], high)


def rate(values: np.ndarray, seed: int) -> Estimate | None:
    """The mean of `values` [n], each in [0, 1]; None if there are none."""
    if not len(values):
        return None
    low, high = rate_interval(values, seed)
    return Estimate(float(values.mean()), float(low), float(high))


def ratio(above: np.ndarray, below: np.ndarray, seed: int) -> Estimate | None:
    """Σ `above` / Σ `below`, both [n]; None where that is not a number, in the sample or in a resample."""
    if len(above) < 2 or below.sum() == 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = interval(_ratio, (above, below), seed)
    if not np.isfinite([low, high]).all():
        return None
    return Estimate(float(above.sum() / below.sum()), float(low), float(high))


def _ratio(above: np.ndarray, below: np.ndarray, axis: int) -> Any:
    return above.sum(axis=axis) / below.sum(axis=axis)
