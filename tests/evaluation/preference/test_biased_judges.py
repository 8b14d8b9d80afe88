"""Judges of known bias: each is found out by the whole report, and the intervals cover what is true."""

from dataclasses import astuple

import numpy as np
import pytest
from scipy.special import expit

from evaluation.preference.made import (
    MadeJudge,
    always_first,
    answer,
    better_wins,
    coin,
    longer_wins,
    write_answers,
)
from unnorm.evaluation import intervals
from unnorm.evaluation.intervals import interval, rate_interval
from unnorm.evaluation.preference.compare import compare
from unnorm.evaluation.preference.outcomes import decide
from unnorm.evaluation.preference.summary import _fit
from unnorm.evaluation.preference.wording import sentences

QUESTIONS = 80
SIMULATIONS = 300


@pytest.fixture
def judged(tmp_path):
    """The report on answers of which A's are better with probability p, and longer with probability `longer`."""

    def run(prefers, p=0.5, longer=0.5, seed=0):
        rng = np.random.default_rng(seed)
        better = np.where(rng.random(QUESTIONS) < p, 1, -1) * rng.uniform(0.1, 1, QUESTIONS)
        extra = np.where(rng.random(QUESTIONS) < longer, 1, -1) * rng.integers(5, 60, QUESTIONS)
        a = write_answers(tmp_path / "a.jsonl", [answer(q, 100 + e) for q, e in zip(better, extra, strict=True)])
        b = write_answers(tmp_path / "b.jsonl", [answer(0, 100)] * QUESTIONS)
        return compare(a, b, MadeJudge(prefers), out=tmp_path / "out", quiet=True)

    return run


def test_always_first(judged):
    found = judged(always_first, p=0.9)
    whole = found.parts["whole"]
    assert (whole.wins, whole.ties, whole.losses) == (0, QUESTIONS, 0)
    assert whole.order_flip_rate.value == whole.first_position_rate.value == 1
    assert whole.first_position_rate.low > 0.9
    assert found.null.first_position_rate.low > 0.9
    assert astuple(whole.detectable) == (None, None)
    text = "\n".join(sentences(found))
    assert "POSITION BIAS" in text
    assert "no difference shown" in text


def test_longer_wins(judged):
    found = judged(longer_wins, longer=0.75)
    whole = found.parts["whole"]
    assert whole.sign_test_p < 0.01  # taken at its word, A would be better
    assert whole.length_controlled.effect.low > 0
    assert whole.length_controlled.win_rate.low < 0.5 < whole.length_controlled.win_rate.high
    assert whole.length_ratio.low > 1
    assert whole.order_flip_rate.value == 0
    assert (found.null.ties, found.null.first_position_rate) == (QUESTIONS, None)
    assert "LENGTH SWAYS IT" in "\n".join(sentences(found))


def test_coin(judged):
    found = judged(coin, p=0.9)
    whole = found.parts["whole"]
    for rate in (whole.order_flip_rate, found.null.order_flip_rate, whole.first_position_rate):
        assert rate.low < 0.5 < rate.high
    assert whole.win_rate.low < 0.5 < whole.win_rate.high
    assert whole.sign_test_p > 0.05
    assert whole.permutation_p > 0.05
    assert found.null.ties < QUESTIONS  # it has a preference between the same and the same


@pytest.mark.parametrize(("p", "better"), [(0.75, "A"), (0.25, "B"), (0.5, None)])
def test_one_side_better_by_p(judged, p, better):
    found = judged(better_wins, p=p)
    whole = found.parts["whole"]
    assert whole.win_rate.low < p < whole.win_rate.high
    assert (whole.sign_test_p < 0.01) is (better is not None)
    assert (whole.permutation_p < 0.01) is (better is not None)
    assert whole.order_flip_rate.value == 0
    assert whole.first_position_rate.value == 0.5  # each answer that is better stands first once
    assert found.null.ties == QUESTIONS
    effect = whole.length_controlled.effect
    assert effect.low < 0 < effect.high
    assert (f"{better} is preferred" if better else "no difference shown") in sentences(found)[0]


def outcomes(forward, backward):
    """Values [simulations, questions] from two orders' preferences."""
    pairs = zip(forward.ravel().tolist(), backward.ravel().tolist(), strict=True)
    return np.array([decide(f, b, 0.0, sees_order=True)[0] for f, b in pairs]).reshape(forward.shape)


def simulated(judge, rng, questions):
    """(outcomes, true win rate): preferences drawn for every question and order."""
    shape = (SIMULATIONS, questions)
    if judge == "always first":
        return outcomes(np.ones(shape), np.ones(shape)), 0.5
    if judge == "longer wins":  # A is longer with probability 0.7
        sign = np.where(rng.random(shape) < 0.7, 1.0, -1.0)
        return outcomes(sign, -sign), 0.7
    if judge == "coin":
        return outcomes(*(np.where(rng.random(shape) < 0.5, 1.0, -1.0) for _ in range(2))), 0.5
    p = {"A better by 0.65": 0.65, "A better by 0.9": 0.9}[judge]
    # it reads right four times in five, each order anew
    truth = np.where(rng.random(shape) < p, 1.0, -1.0)
    read = [truth * np.where(rng.random(shape) < 0.8, 1, -1) for _ in range(2)]
    return outcomes(read[0], -read[1]), p * (0.64 + 0.16) + (1 - p) * (0.04 + 0.16)


@pytest.mark.parametrize("judge", ["always first", "longer wins", "coin", "A better by 0.65", "A better by 0.9"])
@pytest.mark.parametrize("questions", [10, 80])
def test_the_win_rates_interval_covers_the_truth(judge, questions):
    values, truth = simulated(judge, np.random.default_rng(questions), questions)
    low, high = rate_interval(values, seed=0)
    covered = ((low <= truth) & (truth <= high)).mean()
    assert covered >= 0.93
    if judge != "always first":
        assert (high - low).mean() < 3.0 / np.sqrt(questions)  # and not by being endless


def test_the_length_ratios_interval_covers_the_truth():
    rng = np.random.default_rng(0)
    a, b = rng.lognormal(0.3, 0.5, (2, SIMULATIONS, QUESTIONS))
    truth = 1.5
    low, high = interval(intervals._ratio, (truth * a, b), seed=0)
    assert ((low <= truth) & (truth <= high)).mean() >= 0.93


def test_the_length_controlled_interval_covers_the_truth(monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 400)
    rng = np.random.default_rng(0)
    theta, phi = 0.5, 1.0
    difference = rng.normal(100, 300, (SIMULATIONS, QUESTIONS))
    p = expit(theta + phi * np.tanh(difference / 300))
    values = (rng.random(p.shape) < p).astype(float)
    low, high = interval(lambda y, d, axis: _fit(y, d), (values, difference), seed=0)
    assert ((low[0] <= theta) & (theta <= high[0])).mean() >= 0.93
    assert ((low[1] <= phi) & (phi <= high[1])).mean() >= 0.93
    assert values.mean() > expit(theta) + 0.03  # the raw win rate is another number
