"""How `study run` ends: what counts as failed, what waits, what it says to do, and its exit code."""

import json
import shutil

import pytest

from unnorm.cli.main import run
from unnorm.study.after import latency as latency_stage
from unnorm.study.lease import TaskFolder, add_entry


@pytest.fixture
def go(tmp_path, capsys):
    """A function from a study's text and ledger to the exit code of a verb, and what it said."""

    def call(text: str, ledger, verb: str = "run") -> tuple[int, str]:
        file = tmp_path / "study.yaml"
        file.write_text(text)
        code = run(["study", verb, str(file), "--ledger", str(ledger)])
        out, err = capsys.readouterr()
        return code, " ".join((out + err).split())

    return call


@pytest.fixture
def trained(small, tmp_path):
    """(study as a mapping, ledger) of the small study, whose cells are trained, to add stages to."""
    text, ledger = small
    shutil.copytree(ledger, tmp_path / "ledger")
    return json.loads(text), tmp_path / "ledger"


def test_a_failed_stage_of_a_pair_counts(trained, go, monkeypatch):
    content, ledger = trained

    def breaks(*args, **options):
        raise RuntimeError("no clock")

    monkeypatch.setattr(latency_stage, "time_pair", breaks)
    code, said = go(json.dumps(content | {"after": {"latency": {"budget_seconds": 1.0}}}), ledger)
    assert code == 1
    assert "2 stages after training failed: study status says why, study retry runs them again" in said


def test_a_failed_stage_that_the_study_does_not_ask_for_does_not_count(trained, go):
    content, ledger = trained
    cell = next((ledger / "cells").glob("*original*"))
    add_entry(TaskFolder(cell, "tasks-abandoned"), 1, "failed", key="tasks-abandoned", failure="bug", error="old")
    code, said = go(json.dumps(content), ledger)
    assert (code, "study retry" in said) == (0, False)
    assert "tasks-abandoned" not in go(json.dumps(content), ledger, "status")[1]
    add_entry(TaskFolder(cell, "completions"), 3, "failed", key="completions", failure="bug", error="new")
    assert "completions failed: bug: new" in go(json.dumps(content), ledger, "status")[1]
