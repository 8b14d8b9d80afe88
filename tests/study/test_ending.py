"""How `study run` ends: what counts as failed, what waits, what it says to do, and its exit code."""

import json
import shutil

import pytest

from study.small_study import study_text
from unnorm.cli.main import run
from unnorm.foundation.errors import NonFiniteError
from unnorm.report.formats import FORMATS
from unnorm.report.page import pages
from unnorm.study import run_cell
from unnorm.study.after import latency as latency_stage
from unnorm.study.failed import failed_of
from unnorm.study.lease import TaskFolder, add_entry
from unnorm.study.ledger import stages_of
from unnorm.study.view import read_study

TRAINING = {"tokens": 256, "max_length": 64, "batch_tokens": 128, "precision": "fp32"}
SEARCH = {"strategies": ["frozen"], "training": TRAINING, "tune": {"learning_rate": [1e-3, 1e-2]}}


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


def failing_tries(monkeypatch, errors: dict[tuple[str, float], Exception]) -> list[tuple[str, float]]:
    """Make the tries of these arms and rates fail; the list of tries and cells that were run."""
    real, ran = run_cell.fine_tune, []

    def tune(settings, *args):
        what = settings.arm.id, settings.training.learning_rate
        ran.append(what)
        if settings.data.for_search and what in errors:
            raise errors[what]
        return real(settings, *args)

    monkeypatch.setattr(run_cell, "fine_tune", tune)
    return ran


def test_a_try_that_failed_by_a_mishap_takes_no_rate_from_its_arm(bases, data_file, tmp_path, go, monkeypatch):
    text = study_text(bases["gpt2"], data_file, **SEARCH)
    with monkeypatch.context() as patched:
        failing_tries(patched, {("dyt", 1e-2): OSError("the disk is away"), ("original", 1e-2): NonFiniteError("nan")})
        code, said = go(text, tmp_path / "ledger")
    assert code == 1
    assert "dyt / frozen: its cells wait for a learning rate; 1 of 2 tries failed (bug)" in said
    assert (
        "1 of 2 cells wait for a learning rate; 1 try of the search failed: study status says why, study retry" in said
    )
    study = read_study(tmp_path / "ledger" / "small")
    assert [(cell.arm, cell.state) for cell in study.cells] == [("original", "done"), ("dyt", "waiting")]
    (failed,) = failed_of(study)
    assert (failed.kind, failed.name[2:]) == ("try", ("dyt", "frozen", "seed 0", "learning rate 0.01"))
    assert "the disk is away" in failed.error
    (choice,) = study.choices
    assert (choice["arm"], choice["learning_rate"], choice["tries"][1]["loss"]) == ("original", 1e-3, None)
    ran = failing_tries(monkeypatch, {("original", 1e-2): NonFiniteError("nan")})
    code, said = go(text, tmp_path / "ledger", "retry")
    assert (code, "wait" in said, len(ran)) == (0, False, 3), "that a rate diverges beside others is an answer"
    study = read_study(tmp_path / "ledger" / "small")
    assert [cell.state for cell in study.cells] == ["done", "done"]
    assert all(one["loss"] for one in study.choices[1]["tries"])


def test_a_search_whose_every_try_diverged_ends_as_a_failure(bases, data_file, tmp_path, go, monkeypatch):
    every = {(arm, rate): NonFiniteError("nan") for arm in ("original", "dyt") for rate in (1e-3, 1e-2)}
    failing_tries(monkeypatch, every)
    code, said = go(study_text(bases["gpt2"], data_file, **SEARCH), tmp_path / "ledger")
    assert code == 1
    assert "dyt / frozen: its cells wait for a learning rate; training diverged at every rate" in said
    assert "2 of 2 cells wait for a learning rate; 4 tries of the search failed: study status says why, where" in said
    assert "give `tune` lower rates" in said
    assert "study compare" not in said, "there is nothing to compare"


def test_a_failed_stage_of_a_pair_counts(trained, go, monkeypatch):
    content, ledger = trained

    def breaks(*args, **options):
        raise RuntimeError("no clock")

    monkeypatch.setattr(latency_stage, "time_pair", breaks)
    code, said = go(json.dumps(content | {"after": {"latency": {"budget_seconds": 1.0}}}), ledger)
    assert code == 1
    assert "2 stages after training failed: study status says why, study retry runs them again" in said
    study = read_study(ledger / "small")
    assert [(one.kind, one.name[2], one.name[5][:7]) for one in failed_of(study)] == [("stage", "dyt", "latency")] * 2
    page, text = pages(study, [])["index.html"].decode(), FORMATS["md"](study)
    for written in (page[page.index('id="failures"') :], text[text.index("## Failures") :]):
        assert written.count("no clock") == 2


def test_a_failed_stage_that_the_study_does_not_ask_for_does_not_count(trained, go):
    content, ledger = trained
    cell = next((ledger / "cells").glob("*original*"))
    add_entry(TaskFolder(cell, "tasks-abandoned"), 1, "failed", key="tasks-abandoned", failure="bug", error="old")
    code, said = go(json.dumps(content), ledger)
    assert (code, "study retry" in said) == (0, False)
    assert "tasks-abandoned" not in go(json.dumps(content), ledger, "status")[1]
    (asked,) = [name for name in stages_of(cell) if name.startswith("completions-")]
    add_entry(TaskFolder(cell, asked), 3, "failed", key=asked, failure="bug", error="new")
    assert f"{asked} failed: bug:" in go(json.dumps(content), ledger, "status")[1]
