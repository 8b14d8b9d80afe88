"""The example in docs/repair.md is what the command does."""

import re
from pathlib import Path

from unnorm.cli.main import run

PAGE = Path(__file__).parents[3] / "docs" / "repair.md"


def test_the_example_of_the_docs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = dict(re.findall(r"<!-- (\w+) -->\n```\n(.*?)```", PAGE.read_text(), re.DOTALL))
    Path("crawl.json").write_text(blocks["before"].removesuffix("\n"))
    assert run(["data", "repair", "crawl.json", "-o", "clean.jsonl"]) == 0
    assert Path("clean.jsonl").read_text() == blocks["after"]
    assert Path("clean.jsonl.report.jsonl").read_text() == blocks["report"]
    assert Path("clean.jsonl.rejected.jsonl").read_text() == blocks["rejected"]
    assert blocks["account"] in capsys.readouterr().out
