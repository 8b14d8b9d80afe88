"""The simulation of benchmarks/interval_coverage.py, small: intervals hold because conversations are what is drawn."""

import importlib.util
import sys
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest

PLACE = Path(__file__).parents[2] / "benchmarks" / "interval_coverage.py"


@pytest.fixture(scope="module")
def simulation():
    spec = importlib.util.spec_from_file_location("interval_coverage", PLACE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["interval_coverage"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(simulation):
    return simulation.population(np.random.default_rng(1), 4000)


def test_intervals_cover_because_conversations_are_drawn_whole(simulation, made):
    found = simulation.simulate(made, 60, 1, 0.0, 200, 0)
    assert 0.90 <= found.covered <= 0.99
    assert found.edge <= 0.05
    assert found.edge_wide <= 0.10  # of 200 studies, 5 % may look like 8
    ignored = simulation.simulate(made, 60, 1, 0.0, 100, 0, clustered=False)
    assert ignored.covered < 0.88


def test_seeds_count_where_there_are_several(simulation, made):
    assert simulation.simulate(made, 60, 3, 0.02, 200, 0).covered >= 0.90


def test_a_gap_moves_a_study_as_if_it_had_been_measured(simulation, made):
    """The simulation computes one study's verdicts at every gap from one measurement."""
    generator = np.random.default_rng(0)
    columns = [np.abs(generator.normal(5, 1, (3, 60))) for _ in range(2)] + [np.full((3, 60), 10.0)] * 2
    other = [1.01 * columns[0], *columns[1:]]
    before, after = (simulation.mean_over(simulation.loss_gap, tuple(each)) for each in (columns, other))
    assert astuple(simulation.moved(before, 0.01)) == pytest.approx(astuple(replace(after, p=before.p)))
