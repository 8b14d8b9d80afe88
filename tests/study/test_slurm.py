"""Slurm through submitit: jobs on this machine by its local executor, and what a real one would be told, as text."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from study.small_study import run_text, study_text, table
from study.test_kills import cells
from study.test_local_engine import once_a_cell_trains
from unnorm.foundation.errors import SettingsError
from unnorm.foundation.processes import this_process
from unnorm.study import engines
from unnorm.study.engines import slurm_engine
from unnorm.study.engines.interface import Options, Setting, Wants
from unnorm.study.lease import TaskFolder, entries
from unnorm.study.tasks import Task

submitit = pytest.importorskip("submitit")


class OnThisMachine(submitit.LocalExecutor):
    """Takes what Slurm would be told, and has it done here."""

    def update_parameters(self, **told) -> None:
        super().update_parameters(timeout_min=60)


@pytest.fixture
def local_jobs(monkeypatch):
    monkeypatch.setattr(slurm_engine, "check", lambda options, devices: None)
    monkeypatch.setattr(slurm_engine, "_states", lambda moment: None)

    def make(setting: Setting):
        return slurm_engine.Slurm(setting, OnThisMachine(setting.folder / "slurm", max_num_timeout=9))

    monkeypatch.setattr(slurm_engine, "make", make)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_a_job_that_is_pre_empted_saves_and_goes_on_when_it_is_begun_again(local_jobs, bases, data_file, tmp_path):
    training = {"tokens": 4000, "max_length": 64, "batch_tokens": 128, "precision": "fp32"}
    text = study_text(bases["gpt2"], data_file, arms=["dyt"], strategies=["frozen"], training=training)
    run_text(text, tmp_path / "here")
    met = []

    def pre_empt(claim) -> None:
        met.append(claim.content)
        os.kill(claim.content["pid"], signal.SIGUSR2)

    thread = once_a_cell_trains(tmp_path / "jobs", pre_empt)
    said: list[str] = []
    run_text(text, tmp_path / "jobs", options=Options("slurm"), say=said.append)
    thread.join()
    assert table(tmp_path / "jobs" / "small") == table(tmp_path / "here" / "small")
    (cell,) = cells(tmp_path / "jobs")
    kept = entries(TaskFolder(cell))
    assert [entry.kind for entry in kept] == ["claimed", "released", "claimed", "done"]
    assert kept[0].content["engine"] == "slurm"
    assert kept[0].content["job"] == kept[2].content["job"], "the same job, begun again"
    assert kept[0].content["pid"] != kept[2].content["pid"]
    assert [line for line in said if "dyt / frozen" in line and "→" in line]
    logs = "".join(path.read_text() for path in (tmp_path / "jobs" / "small" / "slurm").glob("*.err"))
    assert "this job is preempted" in logs


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Slurm's commands, which note what they are told and say what stands in the file `queue`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    queue = tmp_path / "queue"
    queue.write_text("")
    for name, text in {
        "srun": "exit 1",
        "sbatch": f"cp $1 {tmp_path}/script; echo Submitted batch job 77",
        "squeue": f"cat {queue}",
        "sacct": "exit 1",
        "scancel": f"echo $@ >> {tmp_path}/cancelled",
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    slurm_engine._states.cache_clear()
    yield queue
    slurm_engine._states.cache_clear()


def tasks_at(folder: Path, count: int, **wants) -> list[Task]:
    wanted = Wants(memory=lambda on_gpu: 3 * 2**30 if on_gpu else 5 * 2**30, **wants)
    return [
        Task(f"cell {n}", TaskFolder(folder / "cells" / str(n)), "k", lambda lease: "", wants=wanted)
        for n in range(count)
    ]


def made(tmp_path: Path, **options):
    setting = Setting(Options("slurm", **options), tmp_path / "ledger" / "small", print, quiet=True, threads=2)
    engines.check(setting.options)
    return engines.make(setting)


def test_what_sbatch_is_told(slurm, tmp_path):
    options = ("account=mine", "time=1-2:30", "mail-type=END", "licenses=matlab:1")
    engine = made(tmp_path, partition="long", array_parallelism=2, sbatch=options)
    for task in tasks_at(tmp_path, 3):
        engine.submit(task, task.name)
    engine._submit_those_that_wait()
    script = (tmp_path / "script").read_text()
    for line in (
        "--array=0-2%2",
        "--partition=long",
        "--account=mine",
        "--time=1590",
        "--mail-type=END",
        "--licenses=matlab:1",
        "--cpus-per-task=2",
        "--mem=5120M",
        "--job-name=unnorm-small",
        "--requeue",
        "--signal=USR2@90",
        "--open-mode=append",
    ):
        assert f"#SBATCH {line}\n" in script, line
    assert "gpus" not in script
    assert str(tmp_path / "ledger" / "small" / "slurm") in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    engine.cancel()
    assert (tmp_path / "cancelled").read_text().split() == ["77_0", "77_1", "77_2"]


def test_gpus_are_asked_for_where_cells_want_several_or_the_user_says_so(slurm, tmp_path):
    engine = made(tmp_path)
    for task in tasks_at(tmp_path, 2, devices=4):
        engine.submit(task, task.name)
    engine._submit_those_that_wait()
    script = (tmp_path / "script").read_text()
    assert "#SBATCH --gpus-per-node=4\n" in script
    assert "#SBATCH --mem=3072M\n" in script
    assert "#SBATCH --time=240\n" in script
    engine = made(tmp_path, sbatch=("gres=gpu:1", "mem=9G"))
    (task,) = tasks_at(tmp_path, 1, alone=True)
    engine.submit(task, task.name)
    engine._submit_those_that_wait()
    script = (tmp_path / "script").read_text()
    for line in ("--gres=gpu:1", "--mem=9G", "--exclusive"):
        assert f"#SBATCH {line}\n" in script, line


def test_a_driver_finds_the_jobs_of_the_one_before_it(slurm, tmp_path):
    first = made(tmp_path)
    tasks = tasks_at(tmp_path, 2)
    for task in tasks:
        first.submit(task, task.name)
    first._submit_those_that_wait()
    slurm.write_text("77_0 PENDING\n77_1 FAILED\n")
    slurm_engine._states.cache_clear()
    second = made(tmp_path)
    for task in tasks:
        second.submit(task, task.name)
    assert [job.job_id for job in second.running.values()] == ["77_0"]
    assert second.waiting == [tasks[1]]


def test_slurm_says_who_is_gone(slurm, monkeypatch):
    elsewhere = {"engine": "slurm", "host": "n7", "machine": "m", "boot": "b", "place": "p", "pid": 1, "started": "1"}
    slurm.write_text("1_0 RUNNING\n1_1 PENDING\n")
    assert not engines.is_gone({**elsewhere, "job": "1_0"})
    assert engines.is_gone({**elsewhere, "job": "1_1"}), "it was queued again"
    assert engines.is_gone({**elsewhere, "job": "2"})
    monkeypatch.setattr(slurm_engine, "_own_job", "1_0")
    assert engines.is_gone({**elsewhere, "job": "1_0"}), "an earlier beginning of this job"
    assert not engines.is_gone({**this_process(), "engine": "slurm", "job": "1_0"})
    monkeypatch.setattr(slurm_engine, "_own_job", "")
    monkeypatch.setenv("PATH", "/nowhere")
    slurm_engine._states.cache_clear()
    assert not engines.is_gone({**elsewhere, "job": "2"}), "who cannot be asked says nothing"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("account", "KEY=VALUE"),
        ("array=0-9", "not yours to set"),
        ("time=soon", "no time"),
    ],
)
def test_options_of_sbatch_that_cannot_be(option, message, slurm):
    with pytest.raises(SettingsError, match=message):
        engines.check(Options("slurm", sbatch=(option,)))


def test_times_as_slurm_writes_them():
    found = [slurm_engine._minutes(text) for text in ("90", "90:00", "1:30:00", "2-0", "1-02:05", "1-02:05:00")]
    assert found == [90, 90, 90, 2880, 1565, 1565]


def test_without_slurm_or_submitit_nothing_is_begun(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SettingsError, match="no srun here"):
        engines.check(Options("slurm"))
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(SettingsError, match=r"pip install 'unnorm\[slurm\]'"):
        engines.check(Options("slurm"))
