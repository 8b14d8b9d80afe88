"""Workers: they share the cells, one's death costs the cell at hand, Ctrl-C stops all of them in order."""

import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from study.small_study import run_text, study_text, table
from study.test_kills import assert_each_is_committed_once, cells
from unnorm.foundation.errors import Interrupted, RunError, SettingsError
from unnorm.foundation.processes import is_gone
from unnorm.study.engines import local_engine
from unnorm.study.engines.interface import Options, Setting, Wants
from unnorm.study.lease import TaskFolder, entries, newest
from unnorm.study.ledger import standing_of
from unnorm.study.tasks import Task

TWO = Options(workers="2")


@pytest.fixture
def environment(monkeypatch):
    monkeypatch.setenv("UNNORM_CACHE", os.environ["UNNORM_CACHE"])
    monkeypatch.setattr(local_engine, "cores", lambda: 2)


def once_a_cell_trains(ledger, act) -> threading.Thread:
    """Call `act` with the claim of the first cell that is seen to train."""

    def look() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            for log in ledger.glob("cells/*/attempt-*/steps.jsonl"):
                last = newest(TaskFolder(log.parent.parent))
                if last is not None and last.kind == "claimed" and log.stat().st_size:
                    act(last)
                    return
            time.sleep(0.002)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    return thread


def test_a_workers_death_costs_the_cell_at_hand(ready_python, environment, small, tmp_path):
    text, undisturbed = small
    said: list[str] = []
    thread = once_a_cell_trains(tmp_path, lambda claim: os.kill(claim.content["pid"], signal.SIGKILL))
    view = run_text(text, tmp_path, options=TWO, say=said.append)
    thread.join()
    assert [cell.state for cell in view.cells] == ["done"] * 4
    assert table(tmp_path / "small") == table(undisturbed / "small")
    assert_each_is_committed_once(tmp_path)
    assert [line for line in said if "was killed (SIGKILL) at" in line and "another takes its place" in line]
    kinds = [entry.kind for cell in cells(tmp_path) for entry in entries(TaskFolder(cell))]
    assert kinds.count("lost") == 1
    owners = {e.content["pid"] for cell in cells(tmp_path) for e in entries(TaskFolder(cell)) if e.kind == "claimed"}
    assert os.getpid() not in owners


@pytest.fixture
def ctrl_c_is_heard():
    """SIGINT as it is at a terminal: a shell's background jobs ignore it, and so does what they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_stops_all_workers_in_order(ready_python, ctrl_c_is_heard, environment, bases, data_file, tmp_path):
    training = {"tokens": 4000, "max_length": 64, "batch_tokens": 128, "precision": "fp32"}
    text = study_text(bases["gpt2"], data_file, arms=["original"], training=training)
    thread = once_a_cell_trains(tmp_path, lambda claim: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        run_text(text, tmp_path, options=TWO)
    thread.join()
    claimed = [e for cell in cells(tmp_path) for e in entries(TaskFolder(cell)) if e.kind == "claimed"]
    assert claimed
    assert all(is_gone(entry.content) for entry in claimed)
    assert {newest(TaskFolder(cell)).kind for cell in cells(tmp_path)} <= {"released", "done"}
    begun = [cell for cell in cells(tmp_path) if standing_of(cell).state == "interrupted"]
    assert any(list(cell.glob("attempt-*/checkpoints/step-*")) for cell in begun), "the one that trained has saved"


def test_workers_that_cannot_live_here_end_the_run(environment, small, tmp_path, monkeypatch):
    monkeypatch.setattr(local_engine.sys, "executable", "/bin/false")
    with pytest.raises(RunError, match="ended with exit code 1, 3 times without a task"):
        run_text(small[0], tmp_path, options=TWO)


def test_how_many_workers(monkeypatch):
    assert local_engine._count("3", 1) == 3
    monkeypatch.setattr(local_engine, "_gpus", lambda: [])
    assert local_engine._count("auto", 1) == 1
    monkeypatch.setattr(local_engine, "_gpus", lambda: ["4", "6", "8", "9"])
    assert local_engine._count("auto", 1) == 4
    assert local_engine._count("auto", 2) == 2
    monkeypatch.setattr(local_engine, "cores", lambda: 8)
    assert local_engine._share(5, 6, 1) == {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "6"}
    assert local_engine._share(1, 2, 2) == {"OMP_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": "8,9"}
    for wrong in ("0", "-1", "many"):
        with pytest.raises(SettingsError, match="--workers"):
            local_engine.check(Options(workers=wrong), 1)


def test_what_is_timed_runs_alone_and_with_the_whole_machine(environment, monkeypatch, tmp_path):
    started: list[dict[str, str]] = []

    class Told:
        def __init__(self, number, share, seconds, heard) -> None:
            started.append(share)
            self.number, self.task, self.process = number, "", SimpleNamespace(poll=lambda: None)

        def tell(self, task, label) -> None:
            self.task = task.id

    monkeypatch.setattr(local_engine, "_Worker", Told)
    monkeypatch.setattr(local_engine, "_gpus", lambda: [])
    engine = local_engine.make(Setting(TWO, tmp_path, print, quiet=True))
    cell, latency = (Task(n, TaskFolder(tmp_path / n), "k", lambda lease: "") for n in ("cell", "latency"))
    latency = latency._replace(wants=Wants(alone=True))
    engine.submit(cell, "")
    assert engine.has_room(cell.wants)
    assert not engine.has_room(latency.wants)
    engine.heard.put((engine.workers[0], {"ended": cell.id}))
    assert [end.task for end in engine.finished()] == [cell.id]
    assert engine.has_room(latency.wants)
    engine.submit(latency, "")
    assert not engine.has_room(cell.wants)
    assert [share["OMP_NUM_THREADS"] for share in started] == ["1", "2"]
