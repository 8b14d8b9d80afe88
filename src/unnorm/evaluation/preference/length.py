"""Length: how much longer one side's answers are, and the win rate had they been as long.

Model of length-controlled AlpacaEval (arXiv 2404.04475) without its term for the difficulty of each
instruction, which needs the verdicts on many other models:

    P(A wins) = σ(θ + φ · tanh(d / s)),    d = characters of A − characters of B, s = the standard deviation of d

σ(θ) is the win rate at equal length, φ the pull of length. Ties count as half a win. A weak normal prior (deviation 3)
keeps both finite where length or side alone tells all outcomes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from unnorm.evaluation.intervals import Estimate, interval

_PRIOR_DEVIATION = 3.0
_STEPS = 12


@dataclass(frozen=True)
class LengthControlled:
    """win_rate: σ(θ); effect: φ. If its interval lies above zero, longer answers win because they are longer."""

    win_rate: Estimate
    effect: Estimate


def length_controlled(values: np.ndarray, difference: np.ndarray, seed: int) -> LengthControlled | None:
    """From outcomes [n] in {0, 0.5, 1} and differences of length [n] in characters, A − B.

    None where the difference is always the same: length and side cannot then be told apart.
    """
    if len(values) < 2 or np.ptp(difference) == 0:
        return None
    theta, phi = _fit(values, difference)
    (low, low_phi), (high, high_phi) = interval(lambda y, d, axis: _fit(y, d), (values, difference), seed)
    return LengthControlled(
        Estimate(float(expit(theta)), float(expit(low)), float(expit(high))),
        Estimate(float(phi), float(low_phi), float(high_phi)),
    )


def _fit(values: np.ndarray, difference: np.ndarray) -> Any:
    """(θ, φ) [2, ...] of each sample in `values`, `difference` [..., n], by Newton's method."""
    spread = difference.std(axis=-1, keepdims=True)
    x = np.tanh(difference / np.where(spread > 0, spread, np.inf))
    prior = 1 / _PRIOR_DEVIATION**2
    theta = phi = np.zeros(values.shape[:-1])
    for _ in range(_STEPS):
        p = expit(theta[..., None] + phi[..., None] * x)
        weight = p * (1 - p)
        g0 = (values - p).sum(-1) - prior * theta
        g1 = ((values - p) * x).sum(-1) - prior * phi
        h00, h01, h11 = weight.sum(-1) + prior, (weight * x).sum(-1), (weight * x * x).sum(-1) + prior
        inverse = 1 / (h00 * h11 - h01 * h01)
        theta = theta + inverse * (h11 * g0 - h01 * g1)
        phi = phi + inverse * (h00 * g1 - h01 * g0)
    return np.stack([theta, phi])
