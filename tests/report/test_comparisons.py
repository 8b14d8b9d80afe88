import dataclasses
import math
import statistics

import pytest

from report.views import ARMS, STRATEGIES, loss_of, study
from unnorm.report.pairs import compared


def rows(made, metric="loss"):
    return {(row.strategy, row.arm): row for row in compared(made) if row.metric == metric}


def test_gaps_are_paired_by_seed_with_a_t_interval():
    found = rows(study(seeds=(0, 1, 2)))
    assert len(found) == len(STRATEGIES) * (len(ARMS) - 1)
    for (strategy, arm), row in found.items():
        each = [loss_of(arm, strategy, s) / loss_of("original", strategy, s) - 1 for s in range(3)]
        reach = 4.302652729911275 * statistics.stdev(each) / math.sqrt(3)  # t of 2 degrees of freedom, 97.5 %
        assert row.value == pytest.approx(statistics.mean(each))
        assert (row.low, row.high) == pytest.approx((row.value - reach, row.value + reach))
        assert row.doubt == ""
    assert all(row.low is None for row in rows(study()).values())


def test_a_comparison_needs_both_cells_of_a_seed_and_says_what_is_missing():
    broken = {("original", "full", 1): "failed", ("dyt", "frozen", 0): "running"}
    found = rows(study(seeds=(0, 1), broken=broken))
    assert found["full", "dyt"].seeds == (0,)
    assert found["frozen", "dyt"].seeds == (1,)
    assert found["frozen", "dyt-bare"].seeds == (0, 1)
    assert [found[key].doubt for key in (("full", "dyt"), ("frozen", "dyt"), ("frozen", "dyt-bare"))] == [
        "incomplete", "incomplete", "",
    ]  # fmt: skip


def test_what_the_audit_found_goes_with_the_comparison():
    found = rows(study(matched=False))
    assert found["frozen", "dyt"].matched is False
    assert found["frozen", "dyt"].doubt == "not matched"
    assert found["full", "dyt"].matched is True


def test_accuracies_are_subtracted():
    assert rows(study(), "accuracy")["frozen", "dyt"].value == pytest.approx(-0.02)


def test_the_reference_is_original_wherever_it_stands():
    made = dataclasses.replace(study(), arms=["dyt", "original", "dyt-bare"])
    assert {row.against for row in compared(made)} == {"original"}
    assert {row.arm for row in compared(made)} == {"dyt", "dyt-bare"}
