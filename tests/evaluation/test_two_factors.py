import math
from dataclasses import astuple

import numpy as np
import pytest

from unnorm.evaluation.two_factors import holm, mean_over


def mean(x):
    return x


@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_intervals_cover_the_truth(seeds):
    """Seeds and questions both drawn: an interval from either alone would cover far less."""
    generator = np.random.default_rng(seeds)
    covered, runs = 0, 400
    for _ in range(runs):
        by_seed, by_question = generator.normal(0, 0.1, (seeds, 1)), generator.normal(0, 1, (1, 60))
        table = 0.3 + (by_seed if seeds > 1 else 0) + by_question + generator.normal(0, 0.5, (seeds, 60))
        found = mean_over(mean, (table,))
        covered += found.low <= 0.3 <= found.high
    assert covered / runs >= 0.93


@pytest.mark.parametrize("seeds", [2, 3])
def test_intervals_cover_where_few_seeds_differ_much(seeds):
    """Two seeds often agree by chance: degrees of freedom after Satterthwaite would cover 88 % here."""
    generator = np.random.default_rng(seeds)
    tables = (generator.normal(0, 0.4, (seeds, 1)) + generator.normal(0, 1, (1, 60)) for _ in range(600))
    found = [mean_over(mean, (np.broadcast_to(table, (seeds, 60)),)) for table in tables]
    assert np.mean([each.low <= 0 <= each.high for each in found]) >= 0.93


def test_p_is_below_a_level_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    tables = (generator.normal(0.5, 0.1, (3, 1)) + generator.normal(0, 1, (1, 40)) for _ in range(400))
    ps = [mean_over(mean, (table,), null=0.5).p for table in tables]
    assert 0.01 <= np.mean(np.array(ps) < 0.05) <= 0.07


def test_a_ratio_of_sums_is_resampled_as_one():
    tokens = np.tile(np.arange(1.0, 101.0), (2, 1))
    found = mean_over(lambda a, b: a / b - 1, (1.02 * tokens, tokens))
    assert found.value == pytest.approx(0.02)
    assert found.low == pytest.approx(0.02)
    assert found.high == pytest.approx(0.02)
    assert found.p < 1e-9


def test_where_nothing_is_drawn_twice_nothing_is_claimed():
    assert astuple(mean_over(mean, (np.array([[0.4]]),))) == (pytest.approx(0.4), None, None, None, None, None)


def test_no_difference_at_all_is_no_evidence():
    assert astuple(mean_over(mean, (np.zeros((2, 5)),))) == (0.0, 0.0, 0.0, 1.0, 0.0, math.inf)


def test_equivalence_is_the_90_percent_interval_within_the_margin():
    """Of 2 degrees of freedom: t of 95 % is 2.92, of 97.5 % 4.30, of 80 % 1.06."""
    found = mean_over(mean, (np.array([[-0.001], [0.001], [0.003]]),))
    error = 0.002 / math.sqrt(3)
    assert (found.error, found.freedom) == pytest.approx((error, 2))
    edge = 0.001 + 2.919986 * error
    assert found.within(1.001 * edge)
    assert not found.within(0.999 * edge)
    assert found.high > 1.001 * edge  # the 95 % interval reaches further
    assert found.detectable == pytest.approx((4.302653 + 1.060660) * error)


def test_equivalence_is_called_as_often_as_it_may_err_at_the_edge():
    generator = np.random.default_rng(0)
    called = [mean_over(mean, (generator.normal(sign * 0.5, 1, (1, 80)),)) for sign in (1, -1) for _ in range(300)]
    assert 0.02 <= np.mean([found.within(0.5) for found in called]) <= 0.08


def test_a_difference_of_the_smallest_size_is_shown_four_times_in_five():
    generator = np.random.default_rng(0)
    size = float(np.median([mean_over(mean, (generator.normal(0, 1, (1, 40)),)).detectable for _ in range(100)]))
    shown = [mean_over(mean, (generator.normal(size, 1, (1, 40)),)).low > 0 for _ in range(400)]
    assert 0.74 <= np.mean(shown) <= 0.86


def test_without_an_error_neither_equivalence_nor_a_smallest_difference():
    found = mean_over(mean, (np.array([[0.4]]),))
    assert found.within(1.0) is None
    assert found.detectable is None


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
