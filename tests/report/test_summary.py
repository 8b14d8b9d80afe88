import dataclasses

from report.views import study
from unnorm.report.formats import FORMATS, text_table
from unnorm.report.published import published_table
from unnorm.report.summary import findings, grounds
from unnorm.report.table import latencies


def test_a_reference_that_learned_nothing_is_named_with_its_losses():
    made = study(seeds=(0, 1))
    assert not any("learned nothing" in line for line in grounds(made))
    cells = [
        dataclasses.replace(cell, result={**cell.result, "start_eval_loss": 3.0, "eval_loss": 3.25})
        if (cell.arm, cell.strategy) in {("original", "full"), ("dyt", "frozen")}
        else cell
        for cell in made.cells
    ]
    (line,) = [line for line in grounds(dataclasses.replace(made, cells=cells)) if "learned nothing" in line]
    assert line.startswith("Under full, original itself learned nothing: its held-out loss went from 3.0000 to 3.2500")


def test_times_are_in_doubt_where_losses_are():
    sound = study(pairs=True)
    assert not any("In doubt" in line for line in findings(sound))
    made = study(pairs=True, matched=False)
    (line,) = [line for line in findings(made) if line.startswith("Under frozen, time of dyt against")]
    assert line.endswith(" In doubt: not matched.")
    doubts = {(row["strategy"], row["arm"]): row["doubt"] for row in latencies(made)}
    assert {key for key, doubt in doubts.items() if doubt} == {("frozen", "dyt")}
    times = FORMATS["md"](made).partition("## Latency")[2].partition("## Audit")[0]
    assert times.count("\\[not matched\\]") == 2  # workloads


def test_a_judge_who_was_not_asked_about_every_seed_leaves_the_win_rate_in_doubt():
    made = study(seeds=(0, 1), pairs=True)
    pairs = [dataclasses.replace(p, judge=None, verdicts=[]) if p.seed else p for p in made.pairs]
    head, *rows = text_table(dataclasses.replace(made, pairs=pairs))
    rates = [row[head.index("win rate")] for row in rows if row[head.index("arm")] != "original"]
    assert all(rate.endswith(" [incomplete]") for rate in rates)
    assert not any("incomplete" in text for row in text_table(made) for text in row)


def test_a_gap_beside_the_published_one_says_its_doubt():
    made = study(seeds=(0, 1), broken={("dyt", "full", 1): "failed"})
    gaps = {row[0]: row[1] for row in published_table(made)}
    assert gaps["dyt"].endswith(" [incomplete]")
    assert "[" not in gaps["dyt-bare"]
