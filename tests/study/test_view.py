"""A study as it is read from the ledger: its audit is of the cells as they are, whatever audit.json says."""

import pytest

from unnorm.foundation import atomic
from unnorm.foundation.errors import ArtefactError
from unnorm.report.summary import summary
from unnorm.study.compare import compare_arms
from unnorm.study.lease import TaskFolder, add_entry
from unnorm.study.record import conclude
from unnorm.study.view import read_study

ARMS = ["original", "dyt"]


def done(ledger, arm: str, strategy: str, suffix: str = "", **training) -> dict:
    """Make a cell that is done; its entry in study.json."""
    folder = ledger / "cells" / f"{arm}-{strategy}{suffix}"
    settings = {"training": {"tokens": 10, "learning_rate": 1e-3, **training}, "arm": {"id": arm}}
    atomic.write_json(folder / "cell.json", {"cell": folder.name, "settings": settings})
    result = {"steps": 5, "train_tokens": 10, "eval_loss": 3.0, "start_eval_loss": 4.0, "eval_token_accuracy": 0.4}
    atomic.write_json(folder / "result.json", result)
    assert add_entry(TaskFolder(folder), 1, "done", key=folder.name)
    place = {"model": "m", "dataset": "d", "arm": arm, "strategy": strategy, "seed": 0}
    return {"cell": folder.name, "folder": folder.name, **place, "stages": {}}


def write(ledger, cells, **more):
    """Write study.json of these cells; the study's folder."""
    content = {
        "format": 2, "name": "made", "source": "name: made\n", "arms": ARMS, "strategies": ["frozen", "full"],
        "models": ["m"], "datasets": ["d"], "seeds": [0], "cells": cells, "versions": {}, **more,
    }  # fmt: skip
    atomic.write_json(ledger / "made" / "study.json", content)
    return ledger / "made"


def said_of(folder) -> tuple[set, str]:
    """Whether the comparisons are matched, and all that the summary says."""
    study = read_study(folder)
    return {(row.strategy, row.matched) for row in compare_arms(study)}, " ".join(summary(study))


def test_rule_06_cells_of_a_run_that_has_not_ended_are_audited(tmp_path):
    longer = done(tmp_path, "dyt", "full", tokens=20)
    alike = [done(tmp_path, arm, "frozen") for arm in ARMS]
    folder = write(tmp_path, [*alike, done(tmp_path, "original", "full"), longer])
    assert not (folder / "audit.json").exists()
    matched, summed_up = said_of(folder)
    assert matched == {("frozen", True), ("full", False)}
    assert "NOT MATCHED" in summed_up
    assert "Nothing could be audited" not in summed_up


def test_rule_06_the_audit_of_other_cells_vouches_for_none(tmp_path):
    """The study file was edited: one arm has another cell now, and the run has not ended."""
    original = done(tmp_path, "original", "frozen")
    folder = write(tmp_path, [original, done(tmp_path, "dyt", "frozen")])
    conclude(folder)
    assert atomic.read_json(folder / "audit.json") == read_study(folder).audit
    assert said_of(folder)[0] == {("frozen", True)}
    write(tmp_path, [original, done(tmp_path, "dyt", "frozen", "-longer", tokens=20)])
    assert atomic.read_json(folder / "audit.json")["matched"] is True
    matched, summed_up = said_of(folder)
    assert matched == {("frozen", False)}
    assert "NOT MATCHED" in summed_up


def test_rule_06_what_the_search_chose_is_excused_and_a_rate_set_by_hand_is_not(tmp_path):
    strategies = ("frozen", "full")
    cells = [
        done(tmp_path, arm, strategy, learning_rate=1e-3 * (1 + (arm == "dyt")))
        for arm in ARMS
        for strategy in strategies
    ]
    tries = [{**cell, "learning_rate": 1e-3} for cell in cells if cell["strategy"] == "full"]
    folder = write(tmp_path, cells, search=tries, choices=[{**one, "at_edge": True, "tries": []} for one in tries])
    assert said_of(folder)[0] == {("frozen", False), ("full", True)}


def test_a_cell_that_is_done_and_lost_its_configuration_is_refused(tmp_path):
    folder = write(tmp_path, [done(tmp_path, arm, "frozen") for arm in ARMS])
    (tmp_path / "cells" / "dyt-frozen" / "cell.json").unlink()
    with pytest.raises(ArtefactError, match=r"done but holds no cell\.json"):
        read_study(folder)
