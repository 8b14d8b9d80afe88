import json
import re
from dataclasses import replace

import pytest

from report.views import ARMS, STRATEGIES, loss_of, study
from unnorm.foundation.errors import SettingsError
from unnorm.report.figures import figures
from unnorm.report.figures.gap import gap_by_strategy
from unnorm.report.formats import FORMATS
from unnorm.report.headline import headline
from unnorm.report.names import named
from unnorm.report.page import pages, write_report
from unnorm.report.summary import summary
from unnorm.report.table import results

NAMES = (
    "gap",
    "loss",
    "train-loss",
    "accuracy",
    "grad-norm",
    "curves",
    "fit",
    "recovery",
    "alpha",
    "alpha-sigma",
    "saturation",
)


def blocks(page: str) -> list:
    """The JSON that stands in a page."""
    found = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.S)
    return [json.loads(block) for block in found]


def test_the_summary_says_the_answer_first_and_how_sure_it_is():
    lines = summary(study())
    sizes = [loss_of("dyt", s, 0) / loss_of("original", s, 0) - 1 for s in STRATEGIES]
    assert lines[0].startswith("Under both strategies, dyt-bare ends ")
    assert f"dyt ends {100 * min(sizes):.1f}–{100 * max(sizes):.1f}% above original" in lines[0]
    assert "one seed, so no interval" in lines[0]
    assert "95 % intervals over 3 seeds." in summary(study(seeds=(0, 1, 2)))[1]


def test_the_summary_says_what_is_in_doubt_and_what_was_left_out():
    text = " ".join(summary(study(seeds=(0, 1), broken={("dyt", "full", 1): "running"}, matched=False)))
    assert "11 of 12 cells done; those that are not (1 running) are neither drawn nor counted." in text
    assert "2 comparisons of dyt left out: incomplete, not matched" in text
    assert "NOT MATCHED: the audit found 2 comparisons" in text


def test_the_summary_says_which_arm_is_a_bare_one_since_its_fit_was_not_kept():
    made = study()

    def with_steps(*kept):
        steps = [{"name": name, "loss": loss, "kept": name in kept} for name, loss in (("bare", 13.1), ("fit", 14.3))]
        steps.append({"name": "layers corrected", "loss": 3.8, "kept": "layers corrected" in kept})
        cells = [replace(c, calibration={"steps": steps}) if c.arm == "dyt" else c for c in made.cells]
        return " ".join(summary(replace(made, cells=cells)))

    said = "dyt begins as a bare swap: on held-out text its fit was worse than none"
    assert with_steps("bare").count(said) == 1, "for both strategies at once"
    assert said not in with_steps("bare", "layers corrected")
    assert said not in " ".join(summary(made))


def test_a_fit_without_a_finite_loss_is_said_to_be_one():
    made = study()
    steps = [{"name": "bare", "loss": 13.1, "kept": True}, {"name": "calibrated", "loss": None, "kept": False}]
    cells = [replace(c, calibration={"steps": steps}) if c.arm == "dyt" else c for c in made.cells]
    text = " ".join(summary(replace(made, cells=cells)))
    assert "on held-out text its fit gave logits that are not finite, and was not kept." in text


def test_a_cell_that_waits_for_its_learning_rate_is_no_failure():
    made = study()
    why = {"state": "waiting", "error": "its learning rate is not found yet", "result": None, "cell": ""}
    waiting = replace(made, cells=[replace(c, **why) if c.arm == "dyt" else c for c in made.cells])
    assert 'id="failures"' not in pages(waiting, [])["index.html"].decode()
    assert "## Failures" not in FORMATS["md"](waiting)
    assert json.loads(FORMATS["json"](waiting))["failures"] == []
    assert 'id="failures"' in pages(study(broken={("dyt", "full", 0): "failed"}), [])["index.html"].decode()


def test_a_name_is_the_same_in_a_row_and_in_the_filter_for_it():
    name = "my model (second try)"
    page = pages(named(study(models=("tiny", name))), [])["index.html"].decode()
    assert f'<option value="{name}">' in page
    cells = page[page.index('<table class="arms" id="cells"') :]
    assert f'data-head="model" class="name">{name}</td>' in cells


def test_results_stand_once():
    made = study(seeds=(0, 1))
    page = pages(named(made), [gap_by_strategy(made, "rows")])["index.html"].decode()
    assert page.count(headline(made).replace("'", "&#39;")) == 1
    loss = f"{(loss_of('dyt', 'frozen', 0) + loss_of('dyt', 'frozen', 1)) / 2:.4f}"
    assert page.count(f">{loss}<") == 1
    assert page.index('class="lead"') < page.index('id="figure-gap"') < page.index('id="arms"')
    assert page.index('id="arms"') < page.index("<details")  # what comes after the table is folded


def test_what_the_study_leaves_out_is_neither_a_row_nor_a_sentence():
    made = study(models=("tiny", "small"))
    left = replace(made, cells=[cell for cell in made.cells if (cell.model, cell.strategy) != ("small", "full")])
    assert ("small", "full") in {(row["model"], row["strategy"]) for row in results(made)}
    assert ("small", "full") not in {(row["model"], row["strategy"]) for row in results(left)}
    assert "not done yet" not in summary(left)[0]
    alone = [cell for cell in made.cells if (cell.model, cell.strategy, cell.arm) != ("small", "full", "original")]
    audit = {"matched": True, "comparisons": [c for c in made.audit["comparisons"] if c["model"] == "tiny"]}
    assert "not done yet" not in summary(replace(made, cells=alone, audit=audit))[0]  # nothing to be compared with
    failed = {("dyt", "full", 0): "failed"}
    assert "1 comparison not done yet" in summary(study(broken=failed))[0]


def test_the_summary_says_what_the_judge_and_the_clock_found():
    made = study(pairs=True)
    text = " ".join(summary(made))
    rate = made.pairs[0].judge["parts"]["whole"]["win_rate"]["value"]
    assert f"the judge (made) sets dyt-bare against original: original is preferred. dyt-bare wins {rate:.0%}" in text
    assert "time of dyt against original's: prefill 1 × 128: faster, −" in text
    assert "noise floor ± " in text


def test_files_and_no_figure_of_an_earlier_state(tmp_path):
    written = write_report(study(), tmp_path, quiet=True)
    wanted = sorted(f"{name}.{kind}" for name in NAMES for kind in ("svg", "png", "pdf"))
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == wanted
    assert written["page"] == str(tmp_path / "index.html")
    specs = [block for block in blocks((tmp_path / "index.html").read_text()) if "$schema" in block]
    assert len(specs) == len(NAMES)
    assert specs == [figure.spec for figure in figures(study())]
    (tmp_path / "completions-9.html").write_text("of an earlier state")
    broken = {(arm, strategy, 0): "failed" for arm in ARMS for strategy in STRATEGIES}
    write_report(study(broken=broken), tmp_path, quiet=True)
    assert list((tmp_path / "figures").iterdir()) == []
    assert not (tmp_path / "completions-9.html").exists()
    assert "nothing to draw" in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize("name", ["index.html", "figures/mine.pdf", "completions-1.html"])
def test_a_page_or_figures_of_somebody_else_are_not_replaced(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("precious")
    with pytest.raises(SettingsError, match="is not of a report, so it is not replaced"):
        write_report(study(), tmp_path, quiet=True)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [(tmp_path / name).name]
    assert (tmp_path / name).read_text() == "precious"


def test_a_report_that_was_killed_is_written_again(tmp_path, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("unnorm.report.page.pages", killed)
        with pytest.raises(KeyboardInterrupt):
            write_report(study(), tmp_path, quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr("unnorm.foundation.atomic._sync", killed)  # the page is written, its figures are not
        with pytest.raises(KeyboardInterrupt):
            write_report(study(), tmp_path, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    write_report(study(), tmp_path, quiet=True)
    assert (tmp_path / "figures" / "gap.svg").is_file()


def test_a_report_into_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="is a file"):
        write_report(study(), tmp_path / "file")


def test_long_answers_go_to_pages_of_their_own_whole():
    text = "x" * 400_000
    made = pages(study(text=text), [])
    assert list(made) == ["index.html", "completions-1.html", "completions-2.html"]
    assert len(made["index.html"]) < 5_000_000
    assert text.encode() not in made["index.html"]
    groups = blocks(made["completions-1.html"].decode())[0]
    assert groups[0]["items"][0]["answers"]["dyt"]["text"] == text


def test_nothing_that_a_model_wrote_leaves_its_block():
    hostile = "</script><!--<script>\u2028 \u202e"
    made = pages(study(text=hostile), [])["index.html"].decode()
    assert "</script><!--" not in made
    assert "\u2028" not in made
    assert "\u202e" not in made
    groups = next(block for block in blocks(made) if isinstance(block, list))
    assert groups[0]["items"][0]["answers"]["dyt"]["text"] == "</script><!--<script>\\u2028 \\u202e".replace(
        "\\u2028", "\u2028"
    )


def test_the_policy_names_our_scripts_and_no_source():
    for live in ("", "a-state"):
        page = pages(study(), [], live=live)["index.html"].decode()
        policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1].replace("&#39;", "'")
        rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
        scripts = rules.pop("script-src").split()
        assert len(scripts) == 5 + bool(live)
        assert all(script.startswith("'sha256-") for script in scripts)
        assert rules.pop("connect-src", None) == ("'self'" if live else None)
        assert rules == {
            "default-src": "'none'", "style-src": "'unsafe-inline'", "img-src": "data:", "base-uri": "'none'",
            "form-action": "'none'",
        }  # fmt: skip


def test_speeds_that_do_not_compare_are_not_shown():
    made = study()
    page = pages(made, [])["index.html"].decode()
    assert page.count("5,123") == 6
    assert "Tokens/s are not compared" not in page
    why = ["environment.threads: 1 against 2"]
    compared = [{**c, "speed": why if c["arm"] == "dyt" else []} for c in made.audit["comparisons"]]
    page = pages(replace(made, audit={**made.audit, "comparisons": compared}), [])["index.html"].decode()
    assert page.count("5,123") == 4
    assert page.count(">not compared<") == 2
    assert "beside other load (environment.threads: 1 against 2)" in page
