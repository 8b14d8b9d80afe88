from dataclasses import astuple

import numpy as np
import pytest
from scipy import optimize, stats
from scipy.special import expit

from unnorm.evaluation.intervals import rate, ratio
from unnorm.evaluation.judges.interface import Verdict
from unnorm.evaluation.preference.outcomes import decide
from unnorm.evaluation.preference.summary import (
    _first_position,
    _fit,
    detectable,
    length_controlled,
    permutation_test,
    sign_test,
)


@pytest.mark.parametrize(
    ("forward", "backward", "margin", "value", "score"),
    [
        (1.0, -1.0, 0, 1.0, 2.0),  # A both times
        (-1.0, 1.0, 0, 0.0, -2.0),
        (1.0, 1.0, 0, 0.5, 0.0),  # the first both times
        (1.0, 0.5, 0, 0.5, 0.5),  # orders disagree, though the scores lean
        (1.0, 0.0, 0, 0.5, 1.0),  # a tie in one order
        (0.0, 0.0, 0, 0.5, 0.0),
        (0.25, -0.125, 0.375, 0.5, 0.375),  # within the margin
        (0.2, -0.2, 0.3, 1.0, 0.4),
        (None, 1.0, 0, None, None),
        (1.0, None, 0, None, None),
    ],
)
def test_two_orders(forward, backward, margin, value, score):
    found = decide(forward, backward, margin, sees_order=True)
    assert found == (value, pytest.approx(score) if score is not None else None)


@pytest.mark.parametrize(
    ("forward", "margin", "value"), [(0.2, 0, 1.0), (-0.2, 0, 0.0), (0.0, 0, 0.5), (0.2, 0.2, 0.5)]
)
def test_one_order(forward, margin, value):
    assert decide(forward, None, margin, sees_order=False) == (value, forward)
    assert decide(None, None, margin, sees_order=False) == (None, None)


def test_rule_14_a_tie_is_a_verdict_and_a_missing_one_is_not():
    assert decide(Verdict(0.0).preference, Verdict(0.0).preference, 0, sees_order=True)[0] == 0.5
    assert decide(Verdict(None).preference, Verdict(0.0).preference, 0, sees_order=True)[0] is None


def test_sign_test():
    assert sign_test(8, 2) == pytest.approx(2 * sum(stats.binom.pmf(k, 10, 0.5) for k in (0, 1, 2)))
    assert sign_test(0, 0) == sign_test(5, 5) == 1


def test_permutation_test_is_exact_for_few_and_sees_size():
    assert permutation_test([3.0, 2.0, 1.0], seed=0) == pytest.approx(2 / 8)
    assert permutation_test([3.0, 2.0, -1.0], seed=0) == pytest.approx(4 / 8)
    small_losses = [5.0] * 8 + [-0.1] * 12
    assert sign_test(8, 12) > 0.4
    assert permutation_test(small_losses, seed=0) < 0.01
    assert permutation_test([0.0, 0.0], seed=0) == 1
    assert permutation_test([], seed=0) is None
    assert permutation_test([3.0], seed=0) == 1
    many = list(np.random.default_rng(0).normal(0.3, 1, 60))
    assert permutation_test(many, seed=1) == permutation_test(many, seed=1)
    assert permutation_test(many, seed=1) == pytest.approx(stats.ttest_1samp(many, 0).pvalue, abs=0.01)


@pytest.mark.parametrize(("questions", "ties"), [(80, 0), (80, 30), (10, 0), (6, 0), (200, 199)])
def test_smallest_detectable_effect(questions, ties):
    found = detectable(questions, ties)
    decided = questions - ties
    if decided < 6:
        assert astuple(found) == (None, None)  # not even all wins would do
        return
    wins = round(found.significant * questions - ties / 2)
    assert sign_test(wins, decided - wins) < 0.05 <= sign_test(wins - 1, decided - wins + 1)
    p = (found.with_power * questions - ties / 2) / decided
    drawn = np.random.default_rng(0).binomial(decided, p, 4000)
    significant = np.array([sign_test(w, decided - w) < 0.05 for w in range(decided + 1)])
    assert significant[drawn].mean() == pytest.approx(0.8, abs=0.03)


def test_an_interval_claims_no_certainty():
    for value in (0.0, 0.5, 1.0):
        found = rate(np.full(10, value), seed=0)
        assert found.value == value
        assert found.high - found.low == pytest.approx(1 - 0.025**0.1)
        assert 0 <= found.low <= value <= found.high <= 1
    assert rate(np.ones(10), seed=0).low == pytest.approx(stats.binomtest(10, 10).proportion_ci().low)
    assert rate(np.ones(1), seed=0).low == pytest.approx(0.025)
    assert rate(np.array([]), seed=0) is None


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_first_position_rate_claims_no_certainty(share):
    """Of two questions with three verdicts for one of the answers, all for the same place."""
    found = _first_position(np.array([[2 * share, 2], [share, 1]]), seed=0)
    assert found.value == share
    assert found.high - found.low == pytest.approx(1 - 0.025**0.5)
    assert not found.leaves_out(0.5)
    assert _first_position(np.empty((0, 2)), seed=0) is None


def test_seeds_draw_the_same():
    values = np.random.default_rng(0).integers(0, 3, 40) / 2
    assert rate(values, seed=0) == rate(values, seed=0)
    assert astuple(rate(values, seed=0)) == pytest.approx(astuple(rate(values, seed=1)), abs=0.05)


def test_ratio_of_sums():
    found = ratio(np.array([10.0, 30.0, 20.0]), np.array([10.0, 10.0, 10.0]), seed=0)
    assert found.value == 2
    assert found.low < 2 < found.high
    assert ratio(np.array([1.0, 2.0]), np.zeros(2), seed=0) is None
    assert ratio(np.array([1.0]), np.array([1.0]), seed=0) is None


@pytest.mark.parametrize("kind", ["mixed", "length tells all", "A wins all"])
def test_the_fit_is_at_the_maximum(kind):
    rng = np.random.default_rng(0)
    difference = rng.normal(50, 200, 60)
    values = {
        "mixed": rng.integers(0, 3, 60) / 2,
        "length tells all": (difference > 0).astype(float),
        "A wins all": np.ones(60),
    }[kind]
    x = np.tanh(difference / difference.std())

    def loss(parameters):
        u = parameters[0] + parameters[1] * x
        return -(values * u - np.logaddexp(0, u)).sum() + (parameters**2).sum() / (2 * 9)

    expected = optimize.minimize(loss, np.zeros(2), tol=1e-10).x
    assert _fit(values, difference) == pytest.approx(expected, abs=1e-4)


def test_length_control_is_symmetric_and_knows_when_it_cannot_tell():
    rng = np.random.default_rng(0)
    difference = rng.normal(50, 200, 60)
    values = (rng.random(60) < expit(difference / 100)).astype(float)
    there, back = length_controlled(values, difference, 0), length_controlled(1 - values, -difference, 0)
    assert there.win_rate.value == pytest.approx(1 - back.win_rate.value)
    assert there.effect.value == pytest.approx(back.effect.value)
    assert length_controlled(values, np.full(60, 7.0), 0) is None
