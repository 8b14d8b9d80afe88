"""One sentence answers a study's question, and claims no more than the comparisons show."""

import pytest

from report.views import study
from unnorm.report import headline as module
from unnorm.report.headline import headline
from unnorm.report.pairs import compared

LOSS = next(row for row in compared(study(seeds=(0, 1, 2))) if row.metric == "loss")
EQUIVALENT = (0.004, 0.002, 0.006, True)
BEHIND = (0.2, 0.15, 0.25, False)
OPEN = (0.01, -0.02, 0.04, False)


def row(arm, strategy, value, low, high, equivalent, model="tiny", **more):
    """more: other fields of the row."""
    known = {"arm": arm, "strategy": strategy, "model": model, "value": value, "low": low, "high": high}
    detectable = 0.012 if equivalent is not None else None
    return LOSS._replace(**known, error=0.001, detectable=detectable, equivalent=equivalent, margin=0.01, **more)


@pytest.fixture
def said(monkeypatch):
    """The sentence about rows of a study with the arms dyt-bare and dyt."""

    def of(rows, **kind):
        monkeypatch.setattr(module, "compared", lambda _: rows)
        return headline(study(**kind))

    return of


def everywhere(arm, numbers, *others):
    return [row(arm, strategy, *each) for strategy, each in zip(("frozen", "full"), (numbers, *others), strict=False)]


def test_what_holds_everywhere_is_said_once(said):
    behind = everywhere("dyt-bare", BEHIND, (0.4, 0.3, 0.5, False))
    assert said(everywhere("dyt", EQUIVALENT, EQUIVALENT) + behind) == (
        "Under both strategies, dyt ends within 1% of original's held-out loss; dyt-bare ends 20–40% behind."
    )


def test_no_difference_is_no_equivalence(said):
    assert said(everywhere("dyt", OPEN, OPEN) + everywhere("dyt-bare", EQUIVALENT, EQUIVALENT)) == (
        "Under both strategies, dyt-bare ends within 1% of original's held-out loss; "
        "dyt shows no difference (a gap under 1.2% could go unseen)."
    )


def test_arms_that_differ_by_strategy_say_where(said):
    text = said(everywhere("dyt", EQUIVALENT, BEHIND) + everywhere("dyt-bare", BEHIND, BEHIND))
    assert text == (
        "dyt ends within 1% of original's held-out loss under frozen, and ends 20% behind under full; "
        "dyt-bare ends 20% behind under both strategies."
    )


def test_arms_alike_are_said_together(said):
    rows = everywhere("dyt", BEHIND, (0.4, 0.3, 0.5, False)) + everywhere("dyt-bare", (0.3, 0.2, 0.4, False), BEHIND)
    assert said(rows) == "Under both strategies, dyt-bare and dyt end 20–40% behind original in held-out loss."
    assert said(everywhere("dyt", BEHIND, BEHIND) + everywhere("dyt-bare", (4.8, 4, 5, False), (5.0, 4, 6, False))) == (
        "Under both strategies, dyt ends 20% behind original in held-out loss; dyt-bare ends 480–500% behind."
    )


def test_several_models_are_counted(said):
    models = ("tiny", "larger")
    rows = [row("dyt", s, *EQUIVALENT, model=m) for s in ("frozen", "full") for m in models]
    rows[0] = row("dyt", "frozen", *BEHIND)
    rows += [row("dyt-bare", s, *BEHIND, model=m) for s in ("frozen", "full") for m in models]
    assert said(rows, models=models) == (
        "dyt ends within 1% of original's held-out loss in 3 of 4 comparisons, and ends 20% behind in 1 of 4 "
        "comparisons; dyt-bare ends 20% behind in all 4 comparisons (2 models × 2 strategies)."
    )


def test_comparisons_that_a_study_leaves_out_are_not_said_to_fill_a_grid(said):
    models = ("tiny", "larger")
    places = [(s, m) for s in ("frozen", "full") for m in models][:3]
    rows = [row("dyt", s, *BEHIND, model=m) for s, m in places]
    rows += [row("dyt-bare", s, *EQUIVALENT, model=m) for s, m in places]
    assert said(rows, models=models).startswith("In all 3 comparisons, dyt-bare ends within 1%")


def test_what_is_in_doubt_is_left_out_and_said(said):
    doubtful = row("dyt", "full", *EQUIVALENT, matched=False)
    rows = [row("dyt", "frozen", *BEHIND), doubtful, *everywhere("dyt-bare", BEHIND, BEHIND)]
    text = said(rows)
    assert "within" not in text
    assert text.endswith(" (1 comparison of dyt left out: not matched).")
    assert said([doubtful]) == "Nothing can be concluded: every comparison with original is in doubt (not matched)."
    assert said([]) == "Nothing can be said yet: no arm is done beside original with the same seed."


def test_without_an_interval_nothing_is_behind(said):
    rows = [row(arm, s, 0.2, None, None, None) for arm in ("dyt", "dyt-bare") for s in ("frozen", "full")]
    assert said(rows) == (
        "Under both strategies, dyt-bare and dyt end 20% above original's held-out loss (one seed, so no interval)."
    )
