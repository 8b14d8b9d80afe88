"""The numbers of one part of a comparison, from its outcomes: who was preferred, whether chance alone could have done
it, and what length has to do with it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import optimize, stats
from scipy.special import expit

from unnorm.evaluation.intervals import Estimate, interval, rate, ratio
from unnorm.evaluation.preference.outcomes import Outcome, firsts, flipped

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


_PRIOR_DEVIATION = 3.0
_STEPS = 12


@dataclass(frozen=True)
class LengthControlled:
    """The win rate had A's answers been as long as B's, and how much length draws.

    Model of length-controlled AlpacaEval (arXiv 2404.04475) without its term for the difficulty of each instruction,
    which needs the verdicts on many other models:

        P(A wins) = σ(θ + φ · tanh(d / s)),   d = characters of A − characters of B, s = the standard deviation of d

    win_rate: σ(θ), at equal length; effect: φ, the pull of length. If its interval lies above zero, longer answers win
    because they are longer. Ties count as half a win. A weak normal prior (deviation 3) keeps both finite where length
    or side alone tells all outcomes.
    """

    win_rate: Estimate
    effect: Estimate


EXPLORATORY_BELOW = 30
"""Questions under which a category is marked: at MT-Bench's ten, an interval is some 0.6 wide."""


@dataclass(frozen=True)
class WinRate:
    """How often A was preferred, over all questions or those of a category. wins, ties, losses: judgements, of each
    seed where there are several. win_rate: ties as half. exploratory: a category with too few questions to conclude
    from, and one of several looked at."""

    questions: int
    wins: int
    ties: int
    losses: int
    win_rate: Estimate
    exploratory: bool = field(default=False, compare=False)

    @property
    def judgements(self) -> int:
        return self.wins + self.ties + self.losses


@dataclass(frozen=True)
class Preference:
    """A against B on one part. Rates and ratios carry a 95 % interval by bootstrap over questions.

    win_rate: ties as half; None without a verdict. sign_test_p: exact, on wins and losses. permutation_p: paired, on
    the judge's own scores. order_flip_rate: questions whose two orders disagree; first_position_rate: verdicts for
    either answer that were for the one that stood first (0.5 is fair); both None where the order is not seen.
    length_ratio: characters of A / characters of B.
    """

    questions: int
    wins: int
    ties: int
    losses: int
    without_verdict: int
    """Not among `questions`."""
    settled_without_judge: int
    """Of `questions`: identical answers, and an empty one against another."""
    win_rate: Estimate | None
    sign_test_p: float
    permutation_p: float | None
    detectable: Detectable
    order_flip_rate: Estimate | None
    first_position_rate: Estimate | None
    length_ratio: Estimate | None
    length_controlled: LengthControlled | None
    categories: dict[str, WinRate]


def summarise(outcomes: Sequence[Outcome], seed: int) -> Preference:
    """The numbers of these outcomes; `seed` draws the resamples."""
    judged = [outcome for outcome in outcomes if outcome.value is not None]
    values = _values(judged)
    wins, ties, losses = counts_of(values)
    flips = [flip for outcome in judged if (flip := flipped(outcome)) is not None]
    first = np.array([firsts(outcome) for outcome in judged], dtype=np.float64).reshape(-1, 2)
    decided = first[first[:, 1] > 0]
    a, b = (np.array([getattr(outcome, name) for outcome in judged], float) for name in ("a_length", "b_length"))
    return Preference(
        questions=len(judged),
        wins=wins,
        ties=ties,
        losses=losses,
        without_verdict=len(outcomes) - len(judged),
        settled_without_judge=sum(outcome.ruled is not None for outcome in judged),
        win_rate=rate(values, seed),
        sign_test_p=sign_test(wins, losses),
        permutation_p=permutation_test([outcome.score for outcome in judged if outcome.score is not None], seed),
        detectable=detectable(len(judged), ties),
        order_flip_rate=rate(np.array(flips, float), seed),
        first_position_rate=_first_position(decided, seed),
        length_ratio=ratio(a, b, seed),
        length_controlled=length_controlled(values, a - b, seed),
        categories=_categories(judged, seed),
    )


def _first_position(firsts_of: np.ndarray, seed: int) -> Estimate | None:
    """From [n, 2]: verdicts for the first, and for either."""
    shares = firsts_of[:, 0] / firsts_of[:, 1]
    if (firsts_of[:, 1] == firsts_of[:1, 1]).all() or (shares == shares[0]).all():  # a bootstrap would be certain
        return rate(shares, seed)
    return ratio(firsts_of[:, 0], firsts_of[:, 1], seed)


def _categories(judged: Sequence[Outcome], seed: int) -> dict[str, WinRate]:
    found = {}
    for name in dict.fromkeys(outcome.category for outcome in judged):
        values = _values([outcome for outcome in judged if outcome.category == name])
        estimate = rate(values, seed)
        assert estimate is not None, "a category has a question"
        found[name] = WinRate(len(values), *counts_of(values), estimate, len(values) < EXPLORATORY_BELOW)
    return found


def _values(outcomes: Sequence[Outcome]) -> np.ndarray:
    return np.array([outcome.value for outcome in outcomes], dtype=np.float64)


def counts_of(values: np.ndarray) -> tuple[int, int, int]:
    """Wins, ties and losses among outcomes of 1, 0.5 and 0."""
    return int((values == 1).sum()), int((values == 0.5).sum()), int((values == 0).sum())


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
