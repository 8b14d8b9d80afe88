import math

from unnorm.study.slices import Slot
from unnorm.study.spec import parse_spec
from unnorm.study.tune import choose, tries_of, with_rate

TEXT = """\
name: try
models: [some/model]
datasets: [alpaca]
arms: [original, dyt]
strategies: [frozen, full]
seeds: [3, 4]
training: {epochs: 2}
tune: {learning_rate: {frozen: [3.0e-3, 1.0e-3, 1.0e-3]}, tokens: 500}
"""
SLOT = Slot("some/model", "alpaca", "dyt", "frozen")


def test_every_arm_gets_the_same_search_on_data_of_its_own():
    spec = parse_spec(TEXT, "x.yaml")
    tries = tries_of(spec, spec.cells())
    assert [(t.arm.id, t.strategy, t.training.learning_rate) for t in tries] == [
        (arm, "frozen", rate) for arm in ("original", "dyt") for rate in (1e-3, 3e-3)
    ]
    assert all(t.seed == 3 and t.data.for_search and t.training.tokens == 500 and t.epochs is None for t in tries)
    assert not any(cell.data.for_search for cell in spec.cells())


def test_a_search_without_tokens_of_its_own_trains_as_long_as_the_cell():
    spec = parse_spec(TEXT.replace(", tokens: 500", ", seed: 9"), "x.yaml")
    assert {(t.epochs, t.seed) for t in tries_of(spec, spec.cells())} == {(2, 9)}


def test_the_lowest_loss_wins_and_of_equals_the_lower_rate():
    choice = choose(SLOT, {3e-3: 2.0, 1e-3: 2.5, 9e-3: None, 5e-3: 2.0})
    assert choice.learning_rate == 3e-3
    assert not choice.at_edge
    assert choice.tries[-1].loss == math.inf
    assert choose(SLOT, {3e-3: 2.0, 1e-3: 2.5}).at_edge
    assert choose(SLOT, {1e-3: None, 2e-3: None}) is None


def test_a_chosen_rate_is_all_that_changes():
    (cell, *_) = parse_spec(TEXT, "x.yaml").cells()
    changed = with_rate(cell, 0.5)
    assert changed.training.learning_rate == 0.5
    assert with_rate(changed, cell.training.learning_rate) == cell
