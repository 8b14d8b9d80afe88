"""The numbers of one part of a comparison, from its outcomes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from unnorm.evaluation.intervals import Estimate, rate, ratio
from unnorm.evaluation.preference.length import LengthControlled, length_controlled
from unnorm.evaluation.preference.outcomes import Outcome, firsts, flipped
from unnorm.evaluation.preference.significance import Detectable, detectable, permutation_test, sign_test

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

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


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
    if (firsts_of[:, 1] == firsts_of[:1, 1]).all():
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
