"""The demo's folder and its end; the demo itself is run by `make demo`, and takes minutes."""

import pytest

from report.views import fail, waiting_ledger
from unnorm.cli.main import run
from unnorm.demo import story
from unnorm.foundation import atomic
from unnorm.study.lease import TaskFolder, add_entry
from unnorm.study.view import read_study


class Begun(Exception):
    pass


@pytest.fixture
def stops(monkeypatch):
    """The demo gets as far as its base."""

    def begin(**options):
        raise Begun

    monkeypatch.setattr(story, "demo_base", begin)


def test_a_study_file_of_somebody_else_is_not_replaced(capsys, monkeypatch, stops, tmp_path):
    (tmp_path / "study.yaml").write_text("name: mine")
    assert run(["demo", "--out", str(tmp_path)]) == 2
    assert "study.yaml is not the demo's, so it is not replaced" in capsys.readouterr().err
    assert (tmp_path / "study.yaml").read_text() == "name: mine"


def test_the_demos_own_study_file_is(stops, tmp_path):
    (tmp_path / "study.yaml").write_text("# Made by unnorm demo. Run it again by hand: ...")
    with pytest.raises(Begun):
        story.tell(tmp_path, print)
    with pytest.raises(Begun):
        story.tell(tmp_path / "new", print)


@pytest.mark.parametrize("stage", [False, True])
def test_a_failure_ends_the_demo_with_1(capsys, monkeypatch, tmp_path, stage):
    folder = waiting_ledger(tmp_path)
    if stage:
        study = atomic.read_json(folder / "study.json")
        cells = [{**cell, "stages": {"completions": "completions-x"}} for cell in study["cells"]]
        atomic.write_json(folder / "study.json", {**study, "cells": cells})
        task = TaskFolder(tmp_path / "cells" / "cell-dyt", "completions-x")
        assert add_entry(task, 1, "failed", key="x", failure="bug", error="it broke")
    else:
        fail(folder, "dyt")
    monkeypatch.setattr(story, "tell", lambda out, say: (read_study(folder), folder / "report" / "index.html"))
    assert run(["demo", "--out", str(tmp_path / "out"), "--json"]) == 1
    wanted = "1 stage after training failed" if stage else "1 of 2 cells failed"
    assert wanted in capsys.readouterr().err
