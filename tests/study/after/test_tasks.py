"""Tasks of lm-evaluation-harness as a stage after training: in the ledger, paired by question, in tables and pages."""

import json
import sys

import pytest

from evaluation.made_tasks import QUESTIONS, write_tasks
from study.small_study import run_text, study_text
from unnorm.cli.main import run
from unnorm.evaluation.lm_eval import read_scores
from unnorm.foundation.errors import Interrupted, SettingsError
from unnorm.report.formats import FORMATS
from unnorm.report.page import pages
from unnorm.study.after import tasks as stage
from unnorm.study.card import card_numbers
from unnorm.study.ledger import stages_of
from unnorm.study.task_differences import task_rows
from unnorm.study.view import read_study


def text_with(base: str, data: str, folder, **changes) -> str:
    wanted = {"names": ["tiny_choice"], "folder": str(folder), "batch_size": 2, **changes}
    return study_text(base, data, strategies=["frozen"], after={"tasks": wanted})


@pytest.fixture(scope="module")
def answered(bases, data_file, tmp_path_factory):
    """(study text, ledger, folder of tasks) of two arms that answered four questions."""
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install 'unnorm[lm-eval]'")
    folder = write_tasks(tmp_path_factory.mktemp("tasks"))
    ledger = tmp_path_factory.mktemp("ledger")
    text = text_with(bases["gpt2"], data_file, folder)
    run_text(text, ledger)
    return text, ledger, folder


def test_each_cell_keeps_a_number_a_question_and_arms_are_paired_by_it(answered):
    study = read_study(answered[1] / "small")
    assert {cell.arm for cell in study.cells if cell.done} == {"original", "dyt"}
    found = {}
    for cell in study.cells:
        assert {name: standing.state for name, standing in stages_of(cell.folder).items()} == {study.tasks: "done"}
        scores = read_scores(cell.folder / study.tasks / "scores.parquet")
        found[cell.arm] = {s.question: s.value for s in scores if s.metric == "acc_norm"}
        reported = json.loads((cell.folder / study.tasks / "results.json").read_text())["metrics"]["tiny_choice"]
        assert reported["acc_norm,none"] == sum(found[cell.arm].values()) / len(QUESTIONS)
    assert found["dyt"].keys() == found["original"].keys()
    assert len(found["dyt"]) == len(QUESTIONS)
    rows = {row.arm: row for row in task_rows(study)}
    assert rows["original"].difference is None
    assert rows["dyt"].questions == len(QUESTIONS)
    differences = [found["dyt"][q] - found["original"][q] for q in found["dyt"]]
    assert rows["dyt"].difference == sum(differences) / len(differences)
    assert -1 <= rows["dyt"].low < rows["dyt"].difference < rows["dyt"].high <= 1
    assert (rows["dyt"].matched, rows["dyt"].complete) == (True, True)


def test_a_second_run_answers_nothing_again(answered, monkeypatch):
    text, ledger, _ = answered
    monkeypatch.setattr(stage, "answer", lambda *args, **options: pytest.fail("answered again"))
    assert read_study(ledger / "small").tasks == run_text(text, ledger).tasks


def test_the_results_are_shown_and_exported(answered, tmp_path, capsys):
    text, ledger, _ = answered
    path = tmp_path / "study.yaml"
    path.write_text(text)
    assert run(["study", "table", str(path), "--ledger", str(ledger)]) == 0
    shown = capsys.readouterr()
    assert "tiny_choice" in shown.out
    assert "paired by question" in shown.err
    assert run(["study", "export", str(path), "--ledger", str(ledger), "--out", str(tmp_path), "--json"]) == 0
    assert str(tmp_path / "tasks.csv") in json.loads(capsys.readouterr().out)["files"]
    assert (tmp_path / "tasks.csv").read_text().count("tiny_choice") == 2
    study = read_study(ledger / "small")
    assert "## Tasks" in FORMATS["md"](study)
    assert "| tiny\\_choice |" in FORMATS["md"](study) or "| tiny_choice |" in FORMATS["md"](study)
    assert "<h3>Tasks</h3>" in pages(study, [])["index.html"].decode()


def test_compare_and_the_model_card_show_the_scores(answered, tmp_path, capsys):
    text, ledger, _ = answered
    path = tmp_path / "study.yaml"
    path.write_text(text)
    command = ["study", "compare", str(path), "--ledger", str(ledger)]
    assert run(command) == 0
    shown = capsys.readouterr().out
    assert "loss (nats)" in shown
    assert "tiny_choice" in shown
    assert run([*command, "original", "dyt", "--json"]) == 0
    rows = {row["arm"]: row for row in json.loads(capsys.readouterr().out)["tasks"]}
    assert rows.keys() == {"original"}
    study = read_study(ledger / "small")
    (dyt,) = [row for row in task_rows(study) if row.arm == "dyt"]
    assert rows["original"]["difference"] == -dyt.difference
    assert rows["original"]["matched"] is True
    cells = {cell.arm: cell.folder for cell in study.cells}
    name = f"tiny_choice (acc_norm, {len(QUESTIONS)} questions)"
    card = card_numbers(cells["dyt"] / "model")[name]
    assert card.startswith(f"{dyt.value:.3f}; the original, fine-tuned alike: ")
    assert f"({dyt.difference:+.3f}, 95 % interval {dyt.low:+.3f} to {dyt.high:+.3f})" in card
    assert ";" not in card_numbers(cells["original"] / "model")[name]
    assert "tiny\\_choice" in FORMATS["card"](study) or "tiny_choice" in FORMATS["card"](study)


def test_a_stage_that_was_cut_off_goes_on_from_the_tasks_it_has(answered, tmp_path, monkeypatch):
    """With the first task answered, only the second one is asked, and both are in the end."""
    text, ledger, folder = answered
    second = (folder / "tiny_choice.yaml").read_text().replace("task: tiny_choice", "task: tiny_second")
    (folder / "second.yaml").write_text(second)
    try:
        wanted = json.loads(text)["after"]["tasks"] | {"names": ["tiny_choice", "tiny_second"]}
        two = json.dumps(json.loads(text) | {"after": {"tasks": wanted}})
        real, asked = stage.answer, []

        def stops_at_the_second(model, tokenizer, tasks, **options):
            asked.append(list(tasks))
            if "tiny_second" in tasks and len(asked) == 2:
                raise KeyboardInterrupt
            return real(model, tokenizer, tasks, **options)

        monkeypatch.setattr(stage, "answer", stops_at_the_second)
        with pytest.raises(Interrupted):
            run_text(two, ledger)
        assert asked == [["tiny_choice"], ["tiny_second"]]
        study = run_text(two, ledger)
        assert asked[2:] == [["tiny_second"], ["tiny_choice"], ["tiny_second"]]
        assert {(row.task, row.arm) for row in task_rows(study)} == {
            (task, arm) for task in ("tiny_choice", "tiny_second") for arm in ("original", "dyt")
        }
    finally:
        (folder / "second.yaml").unlink()


def test_a_task_that_fails_costs_nothing_else_and_is_retried(answered, bases, data_file, monkeypatch):
    _, ledger, folder = answered
    text = text_with(bases["gpt2"], data_file, folder, limit=3)

    def breaks(*args, **options):
        raise RuntimeError("it broke")

    with monkeypatch.context() as patched:
        patched.setattr(stage, "answer", breaks)
        study = run_text(text, ledger)
    assert all(cell.done for cell in study.cells)
    assert [stages_of(cell.folder)[study.tasks].failure for cell in study.cells] == ["bug", "bug"]
    assert task_rows(study) == ()
    study = run_text(text, ledger, retry_failed=True)
    assert [row.questions for row in task_rows(study)] == [3, 3]


def test_a_wrong_name_is_refused_before_anything_is_trained(answered, bases, data_file, tmp_path):
    text = text_with(bases["gpt2"], data_file, answered[2], names=["tiny_choice", "tiny_choise"])
    with pytest.raises(SettingsError, match=r"after.tasks.names.1: .*Did you mean 'tiny_choice'\?"):
        run_text(text, tmp_path)
    assert not (tmp_path / "cells").exists()


def test_without_the_harness_a_study_says_what_to_install(bases, data_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(SettingsError, match=r"after.tasks: .*pip install 'unnorm\[lm-eval\]'"):
        run_text(text_with(bases["gpt2"], data_file, write_tasks(tmp_path / "tasks")), tmp_path / "ledger")
    assert not (tmp_path / "ledger" / "cells").exists()
