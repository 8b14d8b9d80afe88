import dataclasses
import json
import math
import statistics

import pytest
from unnorm.report.gaps import gaps

from report.views import ARMS, STRATEGIES, loss_of, study
from unnorm.foundation.errors import SettingsError
from unnorm.report.figures import figures
from unnorm.report.page import render, write_report
from unnorm.report.summary import summary


def values(figure) -> list[dict]:
    """The data inside a Vega-Lite spec."""
    spec = figure.spec
    return spec["data"]["values"] if "data" in spec else [r for layer in spec["layer"] for r in layer["data"]["values"]]


def named(drawn, name):
    return next(figure for figure in drawn if figure.name == name)


def test_gaps_are_paired_by_seed_with_a_t_interval():
    found = {(gap.strategy, gap.arm): gap for gap in gaps(study(seeds=(0, 1, 2)))}
    assert len(found) == len(STRATEGIES) * (len(ARMS) - 1)
    for (strategy, arm), gap in found.items():
        each = [loss_of(arm, strategy, s) / loss_of("original", strategy, s) - 1 for s in range(3)]
        reach = 4.302652729911275 * statistics.stdev(each) / math.sqrt(3)  # t of 2 degrees of freedom, 97.5 %
        assert gap.mean == pytest.approx(statistics.mean(each))
        assert (gap.low, gap.high) == pytest.approx((gap.mean - reach, gap.mean + reach))
    assert all(gap.low is None for gap in gaps(study()))


def test_a_gap_needs_both_cells_of_a_seed():
    broken = {("original", "full", 1): "failed", ("dyt", "frozen", 0): "running"}
    found = {(gap.strategy, gap.arm): gap.seeds for gap in gaps(study(seeds=(0, 1), broken=broken))}
    assert found["full", "dyt"] == (0,)
    assert found["frozen", "dyt"] == (1,)
    assert found["frozen", "dyt-bare"] == (0, 1)


def test_rule_18_the_figures_hold_the_ledgers_numbers():
    made = study(seeds=(0, 1))
    drawn = figures(made)
    assert [figure.name for figure in drawn] == ["loss", "gap", "alpha", "fit"]
    expected = {(c.arm, c.strategy, c.seed, e["train_tokens"]): e["loss"] for c in made.cells for e in c.evaluations}
    found = {(r["arm"], r["strategy"], r["seed"], r["tokens"]): r["loss"] for r in values(named(drawn, "loss"))}
    assert found == expected
    bars = {(r["strategy"], r["arm"]): r["gap"] for r in values(named(drawn, "gap"))}
    assert bars == {(gap.strategy, gap.arm): gap.mean for gap in gaps(made)}
    alpha = values(named(drawn, "alpha"))
    assert {row["panel"] for row in alpha} == {"dyt-bare, full", "dyt, full"}  # where α moves
    assert len(alpha) == 2 * 8 * 3
    for name, count in (("loss", 12), ("gap", 12), ("alpha", 2)):
        assert f"Drawn from {count} finished cells" in named(drawn, name).caption


def test_rule_07_a_cell_that_is_not_done_is_never_drawn():
    broken = {("dyt", "full", 0): "running", ("dyt-bare", "frozen", 0): "failed"}
    made = study(broken=broken)
    for figure in figures(made):
        for row in values(figure):
            assert (row.get("arm"), row.get("strategy")) not in {("dyt", "full"), ("dyt-bare", "frozen")}
            assert row.get("panel") != "dyt, full"
    assert "2 cells that are not done are left out" in named(figures(made), "loss").caption
    text = " ".join(summary(made))
    assert "4 of 6 cells done" in text
    assert "1 running" in text
    assert "1 failed" in text
    assert "dyt ends" not in text.split("Under full")[1].split("Under")[0].replace("dyt-bare ends", "")


def test_the_summary_says_the_numbers_and_how_sure():
    lines = summary(study())
    one, other = loss_of("dyt", "frozen", 0), loss_of("original", "frozen", 0)
    wanted = (
        f"Under frozen, dyt ends {one / other - 1:.1%} above original ({one:.4f} against {other:.4f} nats per token"
    )
    assert any(line.startswith(wanted) and "one seed, so no interval" in line for line in lines)
    assert any("95 % interval" in line for line in summary(study(seeds=(0, 1, 2))))
    assert any("NOT MATCHED" in line for line in summary(study(matched=False)))


def test_alpha_is_drawn_from_the_first_seed_that_is_done():
    alpha = named(figures(study(seeds=(0, 1), broken={("dyt", "full", 0): "failed"})), "alpha")
    assert {row["panel"] for row in values(alpha)} == {"dyt-bare, full", "dyt, full"}
    assert "Drawn from 2 finished cells (seeds 0, 1). 1 cells" in alpha.caption
    assert max(row["tokens"] for row in values(alpha)) == 800


def test_what_could_not_be_compared_is_said():
    lines = summary(study(broken={("original", "full", 0): "failed"}))
    assert any(line.startswith("Under full, dyt could not be compared") for line in lines)


def test_the_reference_is_original_wherever_it_stands():
    made = dataclasses.replace(study(), arms=["dyt", "original", "dyt-bare"])
    assert {gap.against for gap in gaps(made)} == {"original"}
    assert {gap.arm for gap in gaps(made)} == {"dyt", "dyt-bare"}


def test_a_second_report_leaves_no_figure_of_the_first(tmp_path):
    write_report(study(), tmp_path)
    broken = {(arm, strategy, 0): "failed" for arm in ARMS for strategy in STRATEGIES}
    write_report(study(broken=broken), tmp_path)
    assert list((tmp_path / "figures").iterdir()) == []


def test_a_report_into_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="is a file"):
        write_report(study(), tmp_path / "file")


def test_a_study_with_nothing_done_still_has_a_page():
    broken = {(arm, strategy, 0): "waiting" for arm in ARMS for strategy in STRATEGIES}
    made = study(broken=broken)
    assert figures(made) == []
    page = render(made, [], summary(made))
    assert "nothing to draw" in page


def test_files(tmp_path):
    written = write_report(study(), tmp_path)
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == sorted(
        f"{name}.{kind}" for name in ("loss", "gap", "alpha", "fit") for kind in ("svg", "png")
    )
    assert written["page"] == str(tmp_path / "index.html")
    blocks = (tmp_path / "index.html").read_text().split('type="application/json"')[1:]
    specs = [json.loads(block.split(">", 1)[1].split("</script>")[0]) for block in blocks]
    assert len(specs) == 4
