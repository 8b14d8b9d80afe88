import dataclasses
import json

import pytest

from report.views import study
from unnorm.report.comparisons import compared
from unnorm.report.formats import FORMATS
from unnorm.report.summary import summary
from unnorm.report.verdicts import verdict, verdict_sentences


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
        ((0.021, 0.01, 0.03, False), "different: +2.1%"),
        ((-0.021, -0.03, -0.01, False), "different: −2.1%"),
        ((0.001, -0.002, 0.004, True), "within ± 1% (equivalence test, 95 %)"),
        ((0.004, 0.002, 0.006, True), "different: +0.4%, and within ± 1% (equivalence test, 95 %)"),
        (
            (0.004, -0.01, 0.018, False),
            "no difference shown, and none excluded: the study could have shown ± 1.2%",
        ),
    ],
)
def test_verdicts(row, numbers, words):
    assert verdict(made(row, *numbers)) == words


def test_arms_that_agree_everywhere(row):
    same = made(row, 0.0, 0.0, 0.0, True)._replace(error=0.0, detectable=None)
    assert verdict_sentences(same) == "No difference at all."


def test_the_smallest_gap_is_said_once(row):
    for numbers in ((0.021, 0.01, 0.03, False), (0.004, -0.01, 0.018, False)):
        assert verdict_sentences(made(row, *numbers)).count("± 1.2%") == 1


def test_without_an_interval_there_is_no_verdict():
    row = next(row for row in compared(study()) if row.metric == "loss")
    assert verdict(row) is None
    assert verdict_sentences(row) == ""


def test_page_and_texts_say_the_same():
    one = study(seeds=(0, 1, 2))
    words = {verdict(row) for row in compared(one) if row.metric == "loss"}
    assert None not in words
    lines = " ".join(summary(one)).lower()
    assert all(each.lower() in lines for each in words)
    assert words == {row["verdict"] for row in json.loads(FORMATS["json"](one))["results"]} - {None}
    assert "| gap | could show |" in FORMATS["md"](one)
    assert "gap_detectable,margin,equivalent,verdict" in FORMATS["csv"](one)


def test_a_margin_that_was_asked_for_is_said():
    wide = dataclasses.replace(study(seeds=(0, 1, 2)), margin=0.5)
    assert any("within ± 50% (equivalence test, 95 %)" in line.lower() for line in summary(wide))
