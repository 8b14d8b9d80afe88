"""What arms score on tasks, paired by question: made scores, known differences."""

import pytest

from report.views import study
from unnorm.evaluation.lm_eval import TaskScore, read_scores, write_scores
from unnorm.foundation.errors import ArtefactError
from unnorm.study.task_differences import task_rows


def made(folder, per_arm, seeds=(0,), **options):
    """A study whose `frozen` cells scored per_arm[arm][seed] = {question: value} on one task."""
    import dataclasses

    view = study(seeds=seeds, **options)
    cells = []
    for cell in view.cells:
        path = folder / cell.cell
        if cell.strategy == "frozen" and cell.arm in per_arm and cell.seed in per_arm[cell.arm]:
            of = per_arm[cell.arm][cell.seed]
            scores = [
                TaskScore("choice", metric, q, value) for metric in ("acc", "acc_norm") for q, value in of.items()
            ]
            write_scores(path / "tasks-1" / "scores.parquet", scores)
        cells.append(dataclasses.replace(cell, folder=path))
    return dataclasses.replace(view, cells=cells, tasks="tasks-1")


def test_only_questions_that_both_answered_are_compared(tmp_path):
    view = made(tmp_path, {"original": {0: {"a": 1, "b": 0, "c": 1}}, "dyt": {0: {"b": 1, "c": 1, "d": 0}}})
    original, dyt = task_rows(view)
    assert (original.arm, original.against, original.questions) == ("original", None, 3)
    assert (dyt.arm, dyt.metric, dyt.questions, dyt.difference) == ("dyt", "acc_norm", 2, 0.5)
    assert dyt.value == pytest.approx(2 / 3)


def test_arms_are_compared_with_another_than_the_reference(tmp_path, monkeypatch):
    monkeypatch.setattr("unnorm.study.task_differences.matched_between", lambda study, both: len(both) == 1)
    view = made(tmp_path, {"original": {0: {"a": 1, "b": 1}}, "dyt": {0: {"a": 0, "b": 1}}})
    original, dyt = task_rows(view, "dyt")
    assert (original.against, original.difference, original.matched, dyt.against) == ("dyt", 0.5, True, None)
    assert original.detectable == pytest.approx(1.43 * (original.high - original.low) / 2)


def test_a_seed_that_is_missing_is_said(tmp_path):
    both = {0: {"a": 1, "b": 0}, 1: {"a": 1, "b": 1}}
    view = made(tmp_path, {"original": both, "dyt": {0: {"a": 1, "b": 1}}}, seeds=(0, 1), matched=False)
    dyt = next(row for row in task_rows(view) if row.arm == "dyt")
    assert (dyt.paired, dyt.complete, dyt.matched) == ((0,), False, False)
    assert dyt.doubt == "not matched, incomplete"


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "scores.parquet"
    write_scores(path, [])
    assert read_scores(path) == []
    path.write_bytes(b"no parquet")
    with pytest.raises(ArtefactError, match=r"scores\.parquet cannot be read"):
        read_scores(path)
