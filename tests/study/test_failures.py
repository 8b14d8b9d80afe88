"""Failures: of which class they are, what a second try does, what is kept alive, and what `study status` shows."""

import errno
import gc
import json
import os
import weakref

import pytest
import torch

from study.small_study import run_text, study_text
from study.test_cell import lines, settings_of
from unnorm.cli.main import run
from unnorm.foundation.errors import DataError, Interrupted, NonFiniteError, SettingsError
from unnorm.foundation.processes import this_process
from unnorm.study import fine_tune, run_cell
from unnorm.study.events import read_events
from unnorm.study.failures import failure_of
from unnorm.study.fewer_rows import note_killed, with_fewer_rows
from unnorm.study.lease import TaskFolder, add_entry
from unnorm.study.ledger import standing_of
from unnorm.study.plan import plan_study
from unnorm.study.spec import parse_spec
from unnorm.study.workbench import Workbench
from unnorm.tuning import objectives

NO_MEMORY = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), "out_of_memory"),
        (RuntimeError(f"[enforce fail at alloc_cpu.cpp:1] {NO_MEMORY}"), "out_of_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (NonFiniteError("at step 3"), "non_finite"),
        (DataError("no rows"), "bad_data"),
        (SettingsError("no"), "bad_settings"),
        (Interrupted(), "interrupted"),
        (ValueError("out of memory of what was said"), "bug"),
        (KeyError("x"), "bug"),
    ],
)
def test_the_class_of_an_error(error, wanted):
    assert failure_of(error) == wanted


def short_of_memory(monkeypatch, rows: int) -> list[weakref.ref]:
    """A machine whose memory takes `rows` rows a training forward. Weak references to every model that is set up."""
    real, set_up, models = objectives.token_sums, fine_tune.set_up, []

    def sums(forward, head, batch):
        if len(batch["input_ids"]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(forward, head, batch)

    def watched(model, settings):
        assert all(other() is None for other in models), "the failed attempt's model is still alive"
        made = set_up(model, settings)
        models.append(weakref.ref(made[0]))
        return made

    monkeypatch.setattr(objectives, "token_sums", sums)
    monkeypatch.setattr(fine_tune, "set_up", watched)
    return models


def test_out_of_memory_is_tried_once_more_with_half_the_rows_and_the_same_steps(
    bases, data_file, tmp_path, monkeypatch
):
    training = {"tokens": 1200, "batch_tokens": 256, "lora": {"dropout": 0.0}}
    settings = settings_of(bases["llama"], data_file, strategy="selective", training=training)
    whole = run_cell.run_cell(settings, tmp_path / "whole", quiet=True)
    assert (whole["rows_per_forward"], whole["rows_per_step"]) == (4, 4)
    said: list[str] = []
    models = short_of_memory(monkeypatch, 2)
    halved = run_cell.run_cell(settings, tmp_path / "halved", quiet=True, say=said.append)
    assert len(models) == 2
    assert (halved["rows_per_forward"], halved["rows_per_step"]) == (2, 4)
    assert any("out of memory; once more with 2 rows" in line for line in said)
    events = read_events(tmp_path / "halved")
    assert [e["event"] for e in events if e["event"] != "checkpoint"] == ["claimed", "retried", "done"]
    assert next(e for e in events if e["event"] == "retried")["rows_per_forward"] == 2
    one, two = (lines(tmp_path / name / "steps.jsonl") for name in ("whole", "halved"))
    assert len(one) == len(two) == whole["steps"]
    for a, b in zip(one, two, strict=True):
        assert b["train_tokens"] == a["train_tokens"]
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3)
    assert halved["eval_loss"] == pytest.approx(whole["eval_loss"], rel=1e-4)


def test_out_of_memory_twice_fails_and_keeps_nothing_alive(bases, data_file, tmp_path, monkeypatch):
    models = short_of_memory(monkeypatch, 0)
    text = study_text(bases["gpt2"], data_file, arms=["dyt"])
    view = run_text(text, tmp_path)
    assert [(cell.state, cell.failure) for cell in view.cells] == [("failed", "out_of_memory")] * 2
    gc.collect()
    assert [model() for model in models] == [None] * 4


def test_what_was_killed_for_its_memory_begins_again_with_half_the_rows_and_once_only(tmp_path):
    ran: list[int] = []
    told: list[int] = []

    def run_with(rows: int) -> int:
        ran.append(rows)
        return rows

    (tmp_path / "steps.jsonl").write_text('{"step": 1}\n')
    note_killed(tmp_path)
    assert with_fewer_rows(tmp_path, 8, run_with, again=told.append) == 4
    assert (ran, told) == ([4], [4])
    assert not (tmp_path / "steps.jsonl").exists(), "its steps had other rows"
    assert with_fewer_rows(tmp_path, 8, run_with, again=told.append) == 4, "an interruption after that keeps the rows"
    assert told == [4]
    note_killed(tmp_path)
    with pytest.raises(MemoryError, match="with 4 rows a forward"):
        with_fewer_rows(tmp_path, 8, run_with, again=told.append)
    assert failure_of(MemoryError()) == "out_of_memory"


def test_status_shows_every_class_of_failure(bases, data_file, tmp_path, monkeypatch, capsys):
    errors = [MemoryError(), NonFiniteError("nan at step 3"), DataError("no rows"), SettingsError("no such layer"),
              KeyError("oops"), None, Interrupted()]  # fmt: skip
    text = study_text(bases["gpt2"], data_file, seeds=[*range(len(errors))], arms=["original"], strategies=["frozen"])
    planned = plan_study(parse_spec(text, "study"), tmp_path / "ledger", Workbench(quiet=True)).cells
    killer = TaskFolder(planned[5].folder)
    for number in (1, 3):
        add_entry(killer, number, "claimed", key=planned[5].cell)
        add_entry(killer, number + 1, "lost", of=number, reached="", out_of_memory=False)

    def failing(settings, *_):
        raise errors[settings.seed]

    monkeypatch.setattr(run_cell, "fine_tune", failing)
    with pytest.raises(Interrupted):
        run_text(text, tmp_path / "ledger")
    file = tmp_path / "study.yaml"
    file.write_text(text)
    options = [str(file), "--ledger", str(tmp_path / "ledger")]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert run(["study", "status", *options, "--json"]) == 0
    cells = json.loads(capsys.readouterr()[0])["cells"]
    classes = ["out_of_memory", "non_finite", "bad_data", "bad_settings", "bug", "lost_node", "interrupted"]
    assert [cell["failure"] for cell in cells] == classes
    assert [cell["state"] for cell in cells] == ["failed"] * 6 + ["interrupted"]
    assert run(["study", "status", *options]) == 0
    shown = " ".join(capsys.readouterr()[0].split())
    assert all(name in shown for name in classes)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}, "status only reads"
    assert "KeyError" in (planned[4].folder / "traceback.txt").read_text()

    def succeeding(settings, cell, folder, bench, hooks, start=None):
        hooks.begun(cell)
        numbers = {"start_eval_loss": 2.0, "eval_loss": 1.0, "eval_token_accuracy": 0.5, "wall_seconds": 1.0}
        (folder / "result.json").write_text(json.dumps(numbers))
        return numbers

    monkeypatch.setattr(run_cell, "fine_tune", succeeding)
    assert run(["study", "retry", "--failed", *options]) == 0
    assert {standing_of(cell.folder).state for cell in planned} == {"done"}


def test_status_tells_who_runs_a_cell(small, capsys, tmp_path, monkeypatch):
    text, _ = small
    file, ledger = tmp_path / "study.yaml", tmp_path / "ledger"
    file.write_text(text)
    seen = []

    def looking(*_):
        seen.append(json.loads(_status(file, ledger, capsys))["cells"][0])
        raise Interrupted

    monkeypatch.setattr(run_cell, "fine_tune", looking)
    with pytest.raises(Interrupted):
        run_text(text, ledger)
    (cell,) = seen
    assert (cell["state"], cell["generation"]) == ("running", 1)
    assert (cell["host"], cell["pid"]) == (this_process()["host"], os.getpid())
    cells = json.loads(_status(file, ledger, capsys))["cells"]
    assert cells[0]["state"] == "interrupted"
    assert cells[0]["pid"] is None


def _status(file, ledger, capsys) -> str:
    assert run(["study", "status", str(file), "--ledger", str(ledger), "--json"]) == 0
    return capsys.readouterr()[0]


def test_watching_ends_with_ctrl_c_and_is_for_people(small, capsys, tmp_path, monkeypatch):
    text, ledger = small
    file = tmp_path / "study.yaml"
    file.write_text(text)
    looks = []

    def stop_at_the_second(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", stop_at_the_second)
    options = [str(file), "--ledger", str(ledger), "--watch"]
    assert run(["study", "status", *options]) == 2, "no terminal"
    assert not looks
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert run(["study", "status", *options]) == 0
    assert "4 of 4 cells done" in capsys.readouterr()[0]
    assert len(looks) == 2
    assert run(["study", "status", *options, "--json"]) == 2


def test_trackers_get_every_step_and_the_held_out_loss_and_change_no_hash(bases, data_file, tmp_path, monkeypatch):
    from transformers import TrainerCallback
    from transformers.integrations import integration_utils

    logged: list[tuple[int, dict]] = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            logged.append((state.global_step, logs))

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "trackio", Tracker)
    settings = settings_of(bases["gpt2"], data_file, training={"tokens": 600})
    result = run_cell.run_cell(settings, tmp_path / "tracked", quiet=True, report_to=("trackio",))
    plain = run_cell.run_cell(settings, tmp_path / "plain", quiet=True)
    assert result["cell"] == plain["cell"]
    assert result["eval_loss"] == plain["eval_loss"]
    steps = [(step, logs) for step, logs in logged if "loss" in logs]
    assert [step for step, _ in steps] == list(range(1, result["steps"] + 1))
    assert any(name.startswith("alpha/") for name in steps[0][1])
    assert all(isinstance(value, int | float) for _, logs in logged for value in logs.values())
    assert [logs["eval_loss"] for _, logs in logged if "eval_loss" in logs][-1] == result["eval_loss"]


def test_a_tracker_that_is_not_there_is_refused_before_anything_is_computed(tmp_path, small, capsys):
    file = tmp_path / "study.yaml"
    file.write_text(small[0])
    for name, message in (("nowhere", "there is no tracker"), ("mlflow", "pip install mlflow")):
        assert run(["study", "run", str(file), "--ledger", str(tmp_path / "l"), "--report-to", name]) == 2
        assert message in capsys.readouterr()[1]
    assert not (tmp_path / "l").exists()
