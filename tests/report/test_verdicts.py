import dataclasses
import json

import pytest

from report.views import study
from unnorm.report.formats import FORMATS, text_table
from unnorm.report.pairs import compared
from unnorm.report.summary import summary
from unnorm.report.verdicts import could_show, verdict


@pytest.fixture(scope="module")
def row():
    """A row of a loss with an interval; its numbers are set otherwise in each test."""
    return next(row for row in compared(study(seeds=(0, 1, 2))) if row.metric == "loss")


def made(row, value, low, high, equivalent):
    numbers = {"value": value, "low": low, "high": high, "equivalent": equivalent}
    return row._replace(**numbers, error=0.001, detectable=0.012, margin=0.01)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((0.021, 0.01, 0.03, False), "behind by 2.1% [+1.0% to +3.0%]"),
        ((-0.021, -0.03, -0.01, False), "ahead by 2.1% [−3.0% to −1.0%]"),
        ((0.001, -0.002, 0.004, True), "equivalent within ± 1%"),
        ((0.004, 0.002, 0.006, True), "equivalent within ± 1%, though behind by 0.4% [+0.2% to +0.6%]"),
        ((0.004, -0.01, 0.018, False), "undecided: the smallest gap this study could have shown is ± 1.2%"),
    ],
)
def test_verdicts(row, numbers, words):
    assert verdict(made(row, *numbers)) == words


def test_less_accuracy_is_behind(row):
    accuracy = made(row, -0.02, -0.03, -0.01, None)._replace(metric="accuracy", margin=None)
    assert verdict(accuracy, brief=True) == "behind by 2.0 points"


def test_arms_that_agree_everywhere(row):
    same = made(row, 0.0, 0.0, 0.0, True)._replace(error=0.0, detectable=None)
    assert verdict(same) == "no difference at all"


def test_the_smallest_gap_is_said_once(row):
    for numbers in ((0.021, 0.01, 0.03, False), (0.004, -0.01, 0.018, False)):
        found = made(row, *numbers)
        assert could_show(found) == "± 1.2%"
        assert "± 1.2%" not in verdict(found, brief=True)


def test_without_an_interval_there_is_no_verdict():
    row = next(row for row in compared(study()) if row.metric == "loss")
    assert verdict(row) is None


def test_page_and_texts_say_the_same():
    one = study(seeds=(0, 1, 2))
    rows = [row for row in compared(one) if row.metric == "loss"]
    words = {verdict(row) for row in rows}
    assert None not in words
    assert {verdict(row, brief=True) for row in rows} == {
        row["verdict"] for row in json.loads(FORMATS["json"](one))["results"]
    } - {None}
    assert "| gap | verdict | could show |" in FORMATS["md"](one)
    assert "gap_detectable,margin,equivalent,verdict" in FORMATS["csv"](one)


def test_a_margin_that_was_asked_for_is_said():
    wide = dataclasses.replace(study(seeds=(0, 1, 2)), margin=0.5)
    assert "within 50% of original's held-out loss" in summary(wide)[0]


def test_the_table_says_which_claim_each_row_is():
    """A study of one seed without scores of conversations has no interval, so no claim but that it is undecided."""
    for seeds, wanted in (((0, 1, 2), "behind by "), ((0,), "undecided: no interval")):
        head, *lines = text_table(study(seeds=seeds))
        claims = {line[head.index("arm")]: line[head.index("verdict")] for line in lines}
        assert claims["original"] == "the reference"
        assert claims["dyt"].startswith(wanted)
    head, *lines = text_table(study(seeds=(0, 1), matched=False, broken={("dyt", "full", 1): "failed"}))
    claims = {(line[0], line[1]): line[head.index("verdict")] for line in lines}
    assert claims["frozen", "dyt"].endswith("[not matched]")
    assert claims["full", "dyt"].endswith("[incomplete]")
    head, *lines = text_table(study(broken={("dyt", "full", 0): "failed"}))
    assert lines[-1][head.index("verdict")] == "not compared"
