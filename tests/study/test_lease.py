"""Leases, attempts and the driver, without any model: who may work, who may commit, who is gone."""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import orjson
import pytest

from unnorm.foundation.errors import DataError, DiskError, Interrupted, RunError, SettingsError
from unnorm.foundation.processes import is_gone, this_process
from unnorm.study import drive as drive_module
from unnorm.study import engines
from unnorm.study import lease as lease_module
from unnorm.study.attempt import open_attempt, publish, working_folder
from unnorm.study.drive import drive
from unnorm.study.engines.interface import Ended, Options, Setting, Wants
from unnorm.study.events import read_events
from unnorm.study.fewer_rows import begun
from unnorm.study.lease import LeaseLost, TaskFolder, add_entry, claim, entries, newest
from unnorm.study.tasks import Task, is_open, perform, record_death, release_from, reopen, run_task

ELSEWHERE = {"host": "other", "machine": "another", "boot": "b", "place": "elsewhere", "pid": 1, "started": "1"}
GONE = {**this_process(), "started": "1"}
"""A process of this machine that is no more."""


def nobody(owner) -> bool:
    return False


def everybody(owner) -> bool:
    return True


def owned(task: TaskFolder, number: int = 1, owner=ELSEWHERE, **content) -> None:
    assert add_entry(task, number, "claimed", key="k", **{**owner, **content})


def run_tasks(tasks, *, say=lambda text: None, **options) -> None:
    drive(tasks, engines.make(Setting(Options(), Path(), say)), **options)


@pytest.fixture(autouse=True)
def _quick_looks(monkeypatch):
    monkeypatch.setattr(drive_module, "LOOK", 0.02)


def writing(text: str, name: str = "product.txt"):
    def work(lease) -> str:
        (lease.attempt / name).write_text(text)
        return text

    return work


def a_task(folder: Path, work=None, key: str = "k", stage: str = "") -> Task:
    return Task(folder.name, TaskFolder(folder, stage), key, work or writing("made"))


def kinds(task: TaskFolder) -> list[str]:
    return [entry.kind for entry in entries(task)]


def test_of_many_claimants_one_gets_the_lease(tmp_path):
    task = TaskFolder(tmp_path / "cell")
    barrier, won = threading.Barrier(8), []

    def try_it() -> None:
        barrier.wait()
        if (lease := claim(task, "k", nobody)) is not None:
            won.append(lease)

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (lease,) = won
    assert kinds(task) == ["claimed"]
    lease.end("done")
    assert not list(task.log.glob(".*"))


@pytest.mark.parametrize("links", [True, False])
def test_a_commit_and_a_takeover_compete_for_one_number(links, tmp_path, monkeypatch):
    if not links:

        def refuse(*_):
            raise OSError(95, "no links here")

        monkeypatch.setattr(os, "link", refuse)
    task = TaskFolder(tmp_path / "cell")
    late = claim(task, "k", nobody)
    assert claim(task, "k", nobody) is None
    taker = claim(task, "k", everybody)
    assert taker.number > late.number
    assert kinds(task) == ["claimed", "claimed"]
    for kind in ("done", "failed", "released"):
        with pytest.raises(LeaseLost):
            late.end(kind)
    with pytest.raises(LeaseLost):
        late.check()
    taker.check()
    taker.end("done")
    assert kinds(task) == ["claimed", "claimed", "done"]
    assert claim(task, "k", everybody) is None, "what is done is not claimed again"


def test_a_commit_that_was_quicker_leaves_nothing_to_take_over(tmp_path):
    task = TaskFolder(tmp_path / "cell")
    owner = claim(task, "k", nobody)
    owner.end("done")
    assert claim(task, "k", everybody) is None
    assert kinds(task) == ["claimed", "done"]


def test_what_a_process_that_is_gone_held_is_free(tmp_path):
    program = (
        "import os, sys; from pathlib import Path; from unnorm.study.lease import TaskFolder, claim\n"
        "claim(TaskFolder(Path(sys.argv[1])), 'k', lambda owner: False); os._exit(0)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path / "cell")], check=False).returncode == 0
    task = a_task(tmp_path / "cell")
    assert kinds(task.at) == ["claimed"]
    run_tasks([task])
    assert kinds(task.at) == ["claimed", "claimed", "done"], "nobody saw it die, so nobody counts its death"


def test_who_is_gone_is_told_by_pid_and_boot_of_this_machine_alone():
    me = this_process()
    assert not is_gone(me)
    assert is_gone({**me, "started": "1"}), "the pid was given again"
    assert is_gone({**me, "boot": "an earlier one", "place": "of it"})
    assert not is_gone({**me, "place": "another container"})
    assert not is_gone({**ELSEWHERE, "pid": me["pid"]})
    assert not is_gone({})


def test_an_entry_without_content_is_a_claim_for_an_instant(tmp_path, monkeypatch):
    monkeypatch.setattr(lease_module, "INSTANT", 0.01)
    task = TaskFolder(tmp_path / "cell")
    task.log.mkdir(parents=True)
    (task.log / "00000001.json").write_bytes(b"")
    claim(task, "k", nobody).end("released")
    assert kinds(task) == ["claimed", "claimed", "released"]
    (task.log / "00000004.json").write_bytes(b"")
    content = (task.log / "00000002.json").read_bytes()
    monkeypatch.setattr(lease_module.time, "sleep", lambda s: (task.log / "00000004.json").write_bytes(content))
    assert claim(task, "k", nobody) is None, "its writer was slow"


def test_an_owner_that_wakes_late_changes_nothing(tmp_path):
    """Stopped in the middle of writing, it wakes after another has taken over, finished and published."""
    task = a_task(tmp_path / "cell")
    late = claim(task.at, "k", nobody)
    open_attempt(late)
    open_log = open(late.attempt / "steps.jsonl", "ab")  # noqa: SIM115
    open_log.write(b'{"step": 1}\n')
    open_log.flush()
    taker = claim(task.at, "k", everybody)

    def work(lease) -> str:
        from unnorm.tuning.run_log import RunLog

        log = RunLog(lease.attempt / "steps.jsonl")
        log.cut_after(1)  # as every attempt opens its logs
        open_log.write(b'{"step": 2, "stale": true}\n')
        open_log.flush()
        log.append({"step": 2})
        return "done"

    run_task(task._replace(work=work), taker)
    open_log.close()

    def wake(lease) -> str:
        with open(lease.attempt / "steps.jsonl", "ab") as file:
            file.write(b"stale")
        return "never"

    with pytest.raises(FileNotFoundError):
        wake(late)
    with pytest.raises(LeaseLost):
        late.end("done")
    with pytest.raises(LeaseLost):
        run_task(task._replace(work=wake), late)
    assert (task.at.path / "steps.jsonl").read_text() == '{"step":1}\n{"step":2}\n'
    events = [event["event"] for event in read_events(task.at.path)]
    assert events.count("done") == 1
    assert events.count("fenced") == 1
    assert newest(task.at).kind == "done"


def test_the_next_attempt_goes_on_with_what_the_last_one_left(tmp_path):
    task = a_task(tmp_path / "cell")
    first = claim(task.at, "k", nobody)
    open_attempt(first)
    (first.attempt / "half").write_text("x")
    first.end("released")
    second = claim(task.at, "k", nobody)
    open_attempt(second)
    assert (second.attempt / "half").read_text() == "x"
    assert working_folder(task.at) == second.attempt
    second.end("released")
    other = claim(task.at, "another key", nobody)
    open_attempt(other)
    assert not (other.attempt / "half").exists(), "of another key nothing is gone on with"
    other.end("released")


def test_publishing_is_finished_by_whoever_comes_next(tmp_path):
    task = a_task(tmp_path / "cell")
    lease = claim(task.at, "k", nobody)
    open_attempt(lease)
    (lease.attempt / "model").mkdir()
    (lease.attempt / "model" / "weights").write_text("w")
    (lease.attempt / "checkpoints").mkdir()
    (lease.attempt / "result.json").write_text("{}")
    lease.end("done")  # and killed here
    os.replace(lease.attempt / "model", task.at.path / "model")  # or here
    assert not is_open(task)
    assert (task.at.path / "result.json").read_text() == "{}"
    assert (task.at.path / "model" / "weights").read_text() == "w"
    assert not (task.at.path / "checkpoints").exists()
    assert not task.at.attempts()
    publish(task.at)
    assert [event["event"] for event in read_events(task.at.path)] == ["done"]


def test_tasks_are_done_in_order_and_failures_stop_nobody(tmp_path):
    def bad(lease) -> str:
        raise DataError("no rows")

    def worse(lease) -> str:
        raise KeyError("oh")

    said: list[str] = []
    tasks = [a_task(tmp_path / name, work) for name, work in (("a", None), ("b", bad), ("c", worse), ("d", None))]
    run_tasks(tasks, say=said.append)
    assert said == ["a: made", "b: FAILED: no rows", "c: FAILED: KeyError: 'oh'", "d: made"]
    assert [newest(task.at).content.get("failure") for task in tasks] == [None, "bad_data", "bug", None]
    assert "raise KeyError" in (tmp_path / "c" / "traceback.txt").read_text()
    assert not (tmp_path / "b" / "traceback.txt").exists()
    run_tasks(tasks, say=said.append)
    assert len(said) == 4, "nothing is open"
    assert [reopen(task) for task in tasks] == [False, True, True, False]
    run_tasks([task._replace(work=writing("mended")) for task in tasks], say=said.append)
    assert said[4:] == ["b: mended", "c: mended"]
    assert [event["event"] for event in read_events(tmp_path / "b")] == ["claimed", "failed", "retried", "done"]


def test_stages_of_one_folder_do_not_know_each_other_and_are_redone_for_another_key(tmp_path):
    said: list[str] = []
    cell = a_task(tmp_path / "cell")
    stage = a_task(tmp_path / "cell", writing("first", "answers"), "one", "answers")
    run_tasks([cell, stage], say=said.append)
    run_tasks([cell, stage], say=said.append)
    assert said == ["cell: made", "cell: first"]
    run_tasks([cell, stage._replace(key="two", work=writing("second", "answers"))], say=said.append)
    assert (tmp_path / "cell" / "answers").read_text() == "second"
    assert (tmp_path / "cell" / "product.txt").read_text() == "made"


def test_two_runners_share_the_tasks_and_each_is_done_once(tmp_path):
    done: list[str] = []

    def work(lease) -> str:
        time.sleep(0.02)
        done.append(lease.task.path.name)
        return "ok"

    tasks = [a_task(tmp_path / f"{n}", work) for n in range(12)]
    runners = [threading.Thread(target=run_tasks, args=(tasks,)) for _ in range(2)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    assert sorted(done, key=int) == [f"{n}" for n in range(12)]
    assert all(kinds(task.at) == ["claimed", "done"] for task in tasks)


def test_what_another_machine_holds_is_held_until_it_says_otherwise(tmp_path):
    task, free, said = a_task(tmp_path / "cells" / "held"), a_task(tmp_path / "cells" / "free"), []
    owned(task.at)
    looks = []

    def look(owner) -> bool:
        looks.append(owner)
        if len(looks) == 6:
            add_entry(task.at, 2, "released", key="k", of=1)
        return False

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engines.processes, "is_gone", look)
        run_tasks([task, free], say=said.append)
    assert said[:2] == ["free: made", "waiting for held, which other (pid 1) has"]
    assert "--held-by other" in said[2]
    assert said[3:] == ["held: made"]
    owned(a_task(tmp_path / "cells" / "third").at)
    third = a_task(tmp_path / "cells" / "third")
    assert not release_from(third, "somebody")
    assert release_from(third, "other")
    run_tasks([third])
    assert kinds(third.at) == ["claimed", "released", "claimed", "done"]


def test_what_is_needed_comes_first_and_its_failure_is_passed_on(tmp_path):
    def bad(lease) -> str:
        raise DataError("no rows")

    said: list[str] = []
    start = a_task(tmp_path / "starts" / "start", bad)
    good = a_task(tmp_path / "cells" / "good")
    cell = a_task(tmp_path / "cells" / "cell", bad)._replace(needs=(start.id,), despite=True)
    both = a_task(tmp_path / "pairs" / "both")._replace(needs=(good.id, cell.id))
    after = a_task(tmp_path / "cells" / "good", stage="after")._replace(needs=(good.id,))
    run_tasks([both, after, cell, start, good], say=said.append)
    assert said == ["start: FAILED: no rows", "cell: FAILED: no rows", "good: made", "good: made"]
    assert newest(both.at) is None, "what it needs has failed"


def test_a_tasks_label_says_which_it_is_of_how_many(tmp_path):
    """A task that is void or done counts as dealt with, as one that was done before this run does."""
    labels: list[str] = []

    class Labelled(Mortal):
        def submit(self, task: Task, label: str) -> None:
            labels.append(re.sub(r" \(.*? left\)", "", label))
            super().submit(task, label)

    def bad(lease) -> str:
        raise DataError("no rows")

    before, one, two, three = (a_task(tmp_path / "cells" / name) for name in ("before", "one", "two", "three"))
    run_tasks([before])
    failing = a_task(tmp_path / "cells" / "failing", bad)
    void = a_task(tmp_path / "pairs" / "void")._replace(needs=(failing.id,))
    drive([before, failing, void, one, two, three], Labelled({"two": 1}, print, out_of_memory=False))
    assert labels == ["2/6 failing", "4/6 one", "5/6 two", "5/6 two", "6/6 three"]


class Mortal:
    """An engine whose workers die at the tasks that `deaths` counts, out of memory or for another reason."""

    here = True

    def __init__(self, deaths: dict[str, int], say, *, out_of_memory: bool, claims: bool = True) -> None:
        self.deaths, self.say, self.out_of_memory, self.claims = deaths, say, out_of_memory, claims
        self.ended: list[Ended] = []

    def has_room(self, wants: Wants) -> bool:
        return not self.ended

    def submit(self, task: Task, label: str) -> None:
        if self.deaths.get(task.name, 0) == 0:
            perform(task, self.say)
            self.ended.append(Ended(task.id))
            return
        self.deaths[task.name] -= 1
        if self.claims:
            last = newest(task.at)
            owned(task.at, (last.number if last else 0) + 1, GONE)
        self.ended.append(Ended(task.id, "worker 1 was killed", self.out_of_memory))

    def finished(self) -> list[Ended]:
        ended, self.ended = self.ended, []
        return ended


def test_a_death_costs_the_task_at_hand_and_the_second_one_without_progress_fails_it(tmp_path):
    said: list[str] = []
    task, other = a_task(tmp_path / "cells" / "a"), a_task(tmp_path / "cells" / "b")
    drive([task, other], Mortal({"a": 1}, said.append, out_of_memory=False))
    assert said == ["worker 1 was killed at a; another takes its place", "a: made", "b: made"]
    assert kinds(task.at) == ["claimed", "lost", "claimed", "done"]
    twice = a_task(tmp_path / "cells" / "c")
    drive([twice], Mortal({"c": 2}, said.append, out_of_memory=False))
    assert newest(twice.at).content["failure"] == "lost_node"
    assert said[-1] == "c: FAILED: its worker died 2 times without getting further"


def test_a_kill_for_memory_is_tried_once_more_with_that_noted(tmp_path):
    notes = []

    def work(lease) -> str:
        notes.append(begun(lease.attempt))
        return "made"

    once, twice = a_task(tmp_path / "cells" / "once", work), a_task(tmp_path / "cells" / "twice", work)
    drive([once, twice], Mortal({"once": 1, "twice": 2}, print, out_of_memory=True))
    assert notes == [{"killed_for_memory": True}]
    assert newest(once.at).kind == "done"
    assert newest(twice.at).content["failure"] == "out_of_memory"
    assert "was killed for its memory 2 times" in newest(twice.at).content["error"]


def test_workers_that_die_with_nothing_in_hand_end_the_run(tmp_path):
    task = a_task(tmp_path / "cells" / "a")
    with pytest.raises(RunError, match="worker 1 was killed, 3 times without a task in hand"):
        drive([task], Mortal({"a": 9}, print, out_of_memory=False, claims=False))


def test_deaths_count_from_the_furthest_that_was_reached(tmp_path):
    task, said = a_task(tmp_path / "cell"), []
    step = tmp_path / "cell" / "attempt-00000001" / "checkpoints"
    for number, reached in ((1, "step-00000002"), (3, "step-00000004"), (5, "step-00000004")):
        owned(task.at, number)
        (step / reached).mkdir(parents=True, exist_ok=True)
        assert is_open(task)
        record_death(task, newest(task.at))
    run_tasks([task], say=said.append)
    assert newest(task.at).content["failure"] == "lost_node"
    assert "died 2 times" in newest(task.at).content["error"]
    assert [event["event"] for event in read_events(tmp_path / "cell")] == ["failed"]
    assert said == [f"cell: FAILED: {newest(task.at).content['error']}"]
    reopen(task)
    run_tasks([task], say=said.append)
    assert said[1:] == ["cell: made"]


def test_a_recovery_that_finished_a_block_got_further(tmp_path):
    task = a_task(tmp_path / "start")
    attempt = tmp_path / "start" / "attempt-00000001"
    found = []
    for at, name in enumerate(("blocks/block-0000.safetensors", "blocks/block-0001.safetensors", "checkpoints/step-9")):
        owned(task.at, 2 * at + 1)
        (attempt / name).parent.mkdir(parents=True, exist_ok=True)
        (attempt / name).touch()
        record_death(task, newest(task.at))
        found.append(newest(task.at).content["reached"])
        assert is_open(task)
    assert found == ["block-0000.safetensors", "block-0001.safetensors", "step-9"]


def test_an_option_of_another_engine_is_refused():
    for options, message in (
        (Options("slurm", workers="2"), "--workers belongs to --engine local"),
        (Options(address="x:1"), "--address belongs to --engine ray"),
        (Options("ray", partition="x"), "--partition belongs to --engine slurm"),
        (Options("yarn"), "Known engines: local, ray, slurm"),
    ):
        with pytest.raises(SettingsError, match=message):
            engines.check(options)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Interrupted, DiskError("full")])
def test_whoever_is_stopped_gives_the_task_back_at_once(stop, tmp_path):
    def work(lease) -> str:
        raise stop

    task = a_task(tmp_path / "cell", work)
    with pytest.raises(DiskError if isinstance(stop, DiskError) else Interrupted):
        run_tasks([task], say=print)
    assert newest(task.at).kind == "released"
    run_tasks([a_task(tmp_path / "cell")], say=print)
    assert [event["event"] for event in read_events(tmp_path / "cell")] == ["claimed", "released", "resumed", "done"]


def test_an_event_tells_when_who_and_which_claim(tmp_path):
    run_tasks([a_task(tmp_path / "cell")], say=print)
    for line in (tmp_path / "cell" / "events.jsonl").read_bytes().splitlines():
        event = orjson.loads(line)
        assert event["generation"] == 1
        assert event["pid"] == os.getpid()
        assert event["host"] == this_process()["host"]
        assert abs(event["time"] - time.time()) < 600
