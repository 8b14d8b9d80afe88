"""The published numbers beside a study's own."""

import dataclasses

import pytest

from report.views import ARMS, STRATEGIES, loss_of, study
from unnorm.report.formats import FORMATS
from unnorm.report.page import pages
from unnorm.report.published import NOT_MEASURED, published_table


@pytest.fixture(autouse=True)
def without_vega(monkeypatch):
    """These pages draw nothing, and the script takes seconds to bundle."""
    monkeypatch.setattr("unnorm.report.html.vega", lambda: "")


def test_each_arm_stands_below_what_was_published():
    made = study(seeds=(0, 1), pairs=True)
    _, published, *rows = published_table(made)
    assert published == ["published", "+21% to +28%", "−0.5%", "in 67 of 81"]
    assert [row[0] for row in rows] == ["dyt-bare", "dyt"]
    bare = rows[0]
    mean = sum(loss_of("dyt-bare", "full", seed) / loss_of("original", "full", seed) - 1 for seed in (0, 1)) / 2
    assert bare[1] == f"{mean:+.1%}"
    assert bare[2] == "−2.5% (of 4: 4 faster, 0 slower)"
    assert bare[3] == "in 4 of 4"
    for text in (FORMATS["md"](made), pages(made, [])["index.html"].decode()):
        assert "Beside what was published" in text
        assert "in 67 of 81" in text


def test_what_was_not_run_is_not_made_up():
    assert all(row[2:] == [NOT_MEASURED] * 2 for row in published_table(study())[2:])
    nothing = study(broken={(arm, strategy, 0): "failed" for arm in ARMS for strategy in STRATEGIES})
    assert published_table(nothing) == []


def test_a_study_of_other_arms_has_no_such_table():
    made = study()
    cells = [cell for cell in made.cells if cell.arm != "dyt-bare"]
    other = dataclasses.replace(made, arms=["original", "dyt"], cells=cells)
    assert published_table(other) == []
    assert "Beside what was published" not in pages(other, [])["index.html"].decode()
