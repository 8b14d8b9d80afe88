"""Killed, stopped, doubled, on a full disk: the tables are those of an undisturbed run, and nothing is lost."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

import warm
from study.small_study import run_text, study_text, table
from unnorm.cli.main import run
from unnorm.foundation import atomic, processes
from unnorm.foundation.errors import DiskError
from unnorm.study import drive
from unnorm.study.events import read_events
from unnorm.study.lease import TaskFolder, add_entry, entries, newest
from unnorm.study.ledger import standing_of
from unnorm.study.plan import plan_study
from unnorm.study.spec import parse_spec
from unnorm.study.workbench import Workbench
from unnorm.tuning.run_log import RunLog

RUN = """
import sys
from pathlib import Path
from study.small_study import run_text
run_text(sys.argv[1], Path(sys.argv[2]))
"""


def cells(ledger: Path) -> list[Path]:
    return sorted((ledger / "cells").iterdir())


def completions(cell: Path) -> str:
    """The stage of the cell's answers; of none while it is not begun."""
    return next((path.name.removesuffix("-lease") for path in cell.glob("completions-*-lease")), "completions-none")


def assert_each_is_committed_once(ledger: Path, count: int = 4) -> None:
    assert len(cells(ledger)) == count
    for cell in cells(ledger):
        assert standing_of(cell).state == "done"
        for stage in ("cell", completions(cell)):
            done = [e for e in read_events(cell) if (e["event"], e["stage"]) == ("done", stage)]
            assert len(done) == 1, f"{cell.name}, {stage}"
        for task in (TaskFolder(cell), TaskFolder(cell, completions(cell))):
            assert [entry.kind for entry in entries(task)].count("done") == 1
            assert newest(task).kind == "done"
            assert not task.attempts()
        steps = [record["step"] for record in RunLog(cell / "steps.jsonl").read()]
        assert steps == list(range(1, len(steps) + 1))


def answers(ledger: Path, names: list[str]) -> list[list[str]]:
    folders = [ledger / "cells" / name for name in names]
    logs = (RunLog(folder / completions(folder) / "completions.jsonl") for folder in folders)
    return [[answer["text"] for answer in log.read()] for log in logs]


def claims(ledger: Path) -> list[tuple[str, int]]:
    """What was claimed last in each cell: changes when a run begins to work."""
    found = []
    for cell in sorted(ledger.glob("cells/*")):
        for stage in ("", completions(cell)):
            last = newest(TaskFolder(cell, stage))
            found.append((f"{cell.name} {stage}", last.number if last else 0))
    return found


def kill_at_random_moments(text: str, ledgers: Path, kills: int, seed: int) -> list[Path]:
    """Kill runs of the study at `kills` moments; a study that is done begins again in a fresh ledger. The ledgers used,
    each with a finished study in it."""
    chance = random.Random(seed)
    used = [ledgers / "0"]
    done = 0
    while done < kills:
        before = claims(used[-1])
        process = warm.start(RUN, text, used[-1])
        within = chance.random() < 0.75  # most within the work, the others while it is planned
        wait = chance.uniform(0.0, 0.7)
        while within and claims(used[-1]) == before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(wait)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            done += 1
        if process.wait() == 0:
            used.append(ledgers / str(len(used)))
    assert warm.run(RUN, text, used[-1]).returncode == 0
    return used


def test_killed_at_fifteen_random_moments_the_tables_are_the_same(small, tmp_path):
    text, undisturbed = small
    killed = 0
    for ledger in kill_at_random_moments(text, tmp_path, kills=15, seed=0):
        assert table(ledger / "small") == table(undisturbed / "small")
        names = [cell.name for cell in cells(ledger)]
        assert answers(ledger, names) == answers(undisturbed, names)
        assert_each_is_committed_once(ledger)
        killed += sum(entry.kind == "claimed" for cell in cells(ledger) for entry in entries(TaskFolder(cell))) - len(
            cells(ledger)
        )
    assert killed >= 5, "most kills hit a cell at work"


def test_two_runners_at_once_share_the_cells(small, tmp_path):
    text, undisturbed = small
    for process in [warm.start(RUN, text, tmp_path) for _ in range(2)]:
        assert process.wait() == 0, process.stderr
    assert table(tmp_path / "small") == table(undisturbed / "small")
    assert_each_is_committed_once(tmp_path)


def test_an_owner_that_was_stopped_wakes_after_takeover_and_commits_nothing(
    small, bases, data_file, tmp_path, monkeypatch
):
    text = study_text(bases["gpt2"], data_file, arms=["dyt"], strategies=["frozen"])
    late = warm.start(RUN, text, tmp_path)
    deadline = time.monotonic() + 120
    while not any(tmp_path.glob("cells/*/attempt-*/steps.jsonl")):
        assert time.monotonic() < deadline
        assert late.poll() is None
        time.sleep(0.002)
    late.send_signal(signal.SIGSTOP)
    (cell,) = cells(tmp_path)
    assert standing_of(cell).state == "running"
    real = processes.is_gone
    monkeypatch.setattr(processes, "is_gone", lambda owner: owner.get("pid") == late.pid or real(owner))
    run_text(text, tmp_path)
    whole = {path: path.stat().st_mtime_ns for path in sorted(cell.rglob("*")) if path.name != "events.jsonl"}
    assert standing_of(cell).state == "done"
    late.send_signal(signal.SIGCONT)
    assert late.wait() == 0, "it goes on with what else there is: nothing"
    after = {path: path.stat().st_mtime_ns for path in sorted(cell.rglob("*")) if path.name != "events.jsonl"}
    assert {p: t for p, t in after.items() if p.is_file()} == {p: t for p, t in whole.items() if p.is_file()}
    kinds = [entry.kind for entry in entries(TaskFolder(cell))]
    assert kinds == ["claimed", "claimed", "done"]
    events = [event["event"] for event in read_events(cell)]
    assert events.count("done") == 1
    assert events[-1] == "fenced"
    original = [row for row in table(small[1] / "small") if (row["arm"], row["strategy"]) == ("dyt", "frozen")]
    assert table(tmp_path / "small") == original


def test_what_another_machine_holds_is_waited_for_until_the_user_says_that_it_is_gone(
    bases, data_file, tmp_path, monkeypatch, capsys
):
    text = study_text(bases["gpt2"], data_file, arms=["original"], strategies=["frozen"])
    file, options = tmp_path / "study.yaml", ["--ledger", str(tmp_path)]
    file.write_text(text)
    (planned,) = plan_study(parse_spec(text, "study"), tmp_path, Workbench(quiet=True)).cells
    task = TaskFolder(planned.folder)
    owner = {"host": "other", "machine": "another", "boot": "b", "place": "elsewhere", "pid": 1, "started": "1"}
    add_entry(task, 1, "claimed", key=planned.cell, **owner)
    waited = []

    def stop_at_the_third(seconds):
        waited.append(seconds)
        if len(waited) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(drive.time, "sleep", stop_at_the_third)
        assert run(["study", "run", str(file), *options]) == 130
    told = capsys.readouterr()[1]
    assert told.count("which other (pid 1) has") == 1
    assert "unnorm study retry STUDY.yaml --held-by other" in told
    assert [entry.kind for entry in entries(task)] == ["claimed"]
    assert run(["study", "retry", str(file), *options, "--held-by", "other"]) == 0
    assert [entry.kind for entry in entries(task)] == ["claimed", "released", "claimed", "done"]


@pytest.mark.parametrize("at", [3, 12, 20, 28])
def test_a_full_disk_ends_the_run_and_the_same_command_goes_on(at, small, bases, data_file, tmp_path, monkeypatch):
    text = study_text(bases["gpt2"], data_file, arms=["dyt"], strategies=["frozen"])
    real, calls = atomic.os.replace, []

    def full(source, target):
        calls.append(target)
        if len(calls) >= at:
            raise OSError(28, "No space left on device")
        return real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(atomic.os, "replace", full)
        with pytest.raises(DiskError, match="disk is full"):
            run_text(text, tmp_path)
    run_text(text, tmp_path)
    original = [row for row in table(small[1] / "small") if (row["arm"], row["strategy"]) == ("dyt", "frozen")]
    assert table(tmp_path / "small") == original


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts a small tmpfs, as root")
def test_on_a_disk_that_is_really_full(small, bases, data_file, tmp_path):
    text = study_text(bases["gpt2"], data_file, arms=["dyt"], strategies=["full"])
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount")
    try:
        with pytest.raises(DiskError, match="disk is full"):
            run_text(text, disk)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        run_text(text, disk)
        original = [row for row in table(small[1] / "small") if (row["arm"], row["strategy"]) == ("dyt", "full")]
        assert table(disk / "small") == original
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_cannot_be_written_is_refused(bases, data_file, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(atomic.tempfile, "mkstemp", refuse)  # root writes into read-only folders, so it is faked
    text = study_text(bases["gpt2"], data_file)
    with pytest.raises(DiskError, match="cannot write"):
        run_text(text, tmp_path / "ledger")
    assert not list(tmp_path.rglob("*.json"))
