import csv
import dataclasses
import io
import json

import pytest

from report.views import study
from unnorm.report.formats import FORMATS
from unnorm.report.pairs import compared
from unnorm.study.tables import rows_of

HOSTILE = "a|b`c <img src=x> [x](javascript:1) $\\input{x}$ \u202e"


@pytest.fixture(scope="module")
def made():
    return study(seeds=(0, 1), broken={("dyt", "full", 1): "failed"}, matched=False, pairs=True)


def test_csv_and_json_hold_the_numbers_of_the_comparisons(made):
    known = {(r.strategy, r.arm): r for r in compared(made) if r.metric == "loss"}
    table = list(csv.DictReader(io.StringIO(FORMATS["csv"](made))))
    content = json.loads(FORMATS["json"](made))
    assert len(table) == len(content["results"]) == 6
    for text, row in zip(table, content["results"], strict=True):
        if row["arm"] != "original":
            wanted = known[row["strategy"], row["arm"]]
            assert (row["gap"], row["gap_low"], row["matched"], row["complete"]) == (
                wanted.value, wanted.low, wanted.matched, wanted.complete,
            )  # fmt: skip
            assert float(text["gap"]) == wanted.value
    assert content["cells"] == rows_of(made)
    assert len(content["latency"]) == 2 * 2 * 2
    name = ["tiny", "rows", "dyt", "full", "seed 1"]
    wrong = "NonFiniteError: at step 3 <b>"
    assert content["failures"] == [{"kind": "cell", "name": name, "cell": "dytfull1tiny", "error": wrong}]


def test_markdown_has_every_section_and_says_doubts(made):
    text = FORMATS["md"](made)
    heads = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert heads == ["Summary", "Results", "Beside what was published", "Latency", "Audit", "Failures", "Reproduce"]
    row = next(line for line in text.splitlines() if line.startswith("| full | dyt |"))
    assert "1 of 2" in row
    assert "incomplete" in row
    assert "at step 3 \\<b\\>" in text
    assert "noise floor" in text


def test_a_card_can_be_put_into_a_card(made):
    text = FORMATS["card"](made)
    assert text.startswith("## Results\n")
    assert "| strategy | arm | tokens before | seeds |" in text
    assert "| full | dyt | 30,720 |" in text
    assert "| full | dyt-bare | 0 |" in text
    assert "NOT MATCHED" in text


def test_what_a_study_holds_is_escaped(made):
    named = dataclasses.replace(made, name=HOSTILE, source=f"# ````\n{HOSTILE}")
    markdown = FORMATS["md"](named)
    assert "# a\\|b\\`c \\<img src=x\\> \\[x\\](javascript:1)" in markdown
    assert "\u202e" not in markdown
    assert "`````yaml\n# ````" in markdown
    tex = FORMATS["tex"](named)
    assert r"\$\textbackslash{}input\{x\}\$" in tex
    assert "\\input" not in tex.replace(r"\textbackslash{}input", "")
    assert r"\begin{tabular}{llrrrrrrrrr}" in tex
    assert tex.count(r" \\") == 7
