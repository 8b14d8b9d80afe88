"""Leases, attempts and the loop over tasks, without any model: who may work, who may commit, who is dead."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import orjson
import pytest

from unnorm.foundation.errors import DataError, DiskError, Interrupted
from unnorm.foundation.processes import is_gone, this_process
from unnorm.study import lease as lease_module
from unnorm.study.attempt import open_attempt, publish, working_folder
from unnorm.study.events import read_events
from unnorm.study.lease import LeaseLost, TaskFolder, Watch, add_entry, claim, entries, newest
from unnorm.study.tasks import Task, Timing, is_open, record_death, reopen, run_task, run_tasks

ELSEWHERE = {"host": "other", "place": "another machine", "pid": 1, "started": "1"}
FAST = Timing(beat=0.02, dead_after=0.2, look=0.02)


def eyes(dead_after: float = 0.2) -> Watch:
    return Watch(dead_after, look_every=0.02)


def owned_elsewhere(task: TaskFolder, number: int = 1, **content) -> None:
    assert add_entry(task, number, "claimed", key="k", **{**ELSEWHERE, **content})


def watched_until_dead(task: TaskFolder, watch: Watch, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if watch.is_dead(task, newest(task)):
            return True
        time.sleep(0.02)
    return False


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
        if (lease := claim(task, "k", eyes())) is not None:
            won.append(lease)

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (lease,) = won
    assert kinds(task) == ["claimed"]
    lease.end("done")
    assert not list(task.log.glob("beat-*"))
    assert not list(task.log.glob(".*"))


@pytest.mark.parametrize("links", [True, False])
def test_a_commit_and_a_takeover_compete_for_one_number(links, tmp_path, monkeypatch):
    if not links:

        def refuse(*_):
            raise OSError(95, "no links here")

        monkeypatch.setattr(os, "link", refuse)
    task = TaskFolder(tmp_path / "cell")
    late = claim(task, "k", eyes(), beat_seconds=1000)
    watch = eyes(dead_after=0.1)
    assert claim(task, "k", watch) is None
    assert watched_until_dead(task, watch)
    taker = claim(task, "k", watch)
    assert taker.number > late.number
    assert kinds(task) == ["claimed", "lost", "claimed"]
    for kind in ("done", "failed", "released"):
        with pytest.raises(LeaseLost):
            late.end(kind)
    with pytest.raises(LeaseLost):
        late.check()
    taker.check()
    taker.end("done")
    assert kinds(task) == ["claimed", "lost", "claimed", "done"]
    assert claim(task, "k", watch) is None, "what is done is not claimed again"


def test_a_commit_that_was_quicker_leaves_nothing_to_take_over(tmp_path):
    task = TaskFolder(tmp_path / "cell")
    owner = claim(task, "k", eyes(), beat_seconds=1000)
    watch = eyes(dead_after=0.05)
    assert watched_until_dead(task, watch)
    owner.end("done")
    assert claim(task, "k", watch) is None
    assert kinds(task) == ["claimed", "done"]


def test_a_living_heart_elsewhere_is_respected_whatever_its_clock_says(tmp_path):
    task = TaskFolder(tmp_path / "cell")
    owned_elsewhere(task, time=0.0)  # a clock of 1970
    beat = task.log / "beat-00000001"
    watch = eyes(dead_after=0.3)
    for count in range(30):
        beat.write_text(str(count))
        os.utime(beat, (4e9 - count, 4e9 - count))  # of 2096, and running backwards
        assert not watch.is_dead(task, newest(task))
        time.sleep(0.02)
    assert watched_until_dead(task, watch), "it has stopped"


def test_a_fresh_observer_believes_nobody_dead_by_a_clock(tmp_path):
    task = TaskFolder(tmp_path / "cell")
    owned_elsewhere(task, time=0.0)
    beat = task.log / "beat-00000001"
    beat.write_text("7")
    os.utime(beat, (0, 0))
    assert claim(task, "k", Watch()) is None


def test_an_observer_that_slept_does_not_take_its_sleep_for_a_death(tmp_path, monkeypatch):
    task = TaskFolder(tmp_path / "cell")
    owned_elsewhere(task)
    watch, now = Watch(90, look_every=2), [1000.0]
    monkeypatch.setattr(lease_module.time, "monotonic", lambda: now[0])
    assert not watch.is_dead(task, newest(task))
    now[0] += 3600
    assert not watch.is_dead(task, newest(task))
    assert watch.silent_for(task) == 4
    for _ in range(44):
        now[0] += 2
        dead = watch.is_dead(task, newest(task))
    assert dead


def test_a_process_that_is_gone_is_dead_at_once(tmp_path):
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from unnorm.study.lease import TaskFolder, Watch, claim, os\n"
            "claim(TaskFolder(Path(sys.argv[1])), 'k', Watch()); os._exit(0)",
            str(tmp_path / "cell"),
        ],
        check=False,
    )
    assert told.returncode == 0
    task = TaskFolder(tmp_path / "cell")
    assert kinds(task) == ["claimed"]
    lease = claim(task, "k", Watch())
    assert lease is not None
    assert kinds(task) == ["claimed", "claimed"], "nobody saw it alive, so nobody counts its death"
    lease.end("released")


def test_a_pid_that_was_given_again_is_another_process():
    me = this_process()
    assert not is_gone(me)
    assert is_gone({**me, "started": "1"})
    assert not is_gone({**me, "place": "another machine", "started": "1"})
    assert not is_gone({})


def test_an_entry_without_content_is_a_claim_without_a_heart(tmp_path):
    task = TaskFolder(tmp_path / "cell")
    task.log.mkdir(parents=True)
    (task.log / "00000001.json").write_bytes(b"")
    watch = eyes(dead_after=0.1)
    assert claim(task, "k", watch) is None
    assert watched_until_dead(task, watch)
    claim(task, "k", watch).end("released")


def test_an_owner_that_wakes_late_changes_nothing(tmp_path):
    """Stopped in the middle of writing, it wakes after another has taken over, finished and published."""
    task = a_task(tmp_path / "cell")
    late = claim(task.at, "k", eyes(), beat_seconds=1000)
    open_attempt(late)
    open_log = open(late.attempt / "steps.jsonl", "ab")  # noqa: SIM115
    open_log.write(b'{"step": 1}\n')
    open_log.flush()
    watch = eyes(dead_after=0.1)
    assert watched_until_dead(task.at, watch)
    taker = claim(task.at, "k", watch)

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
    first = claim(task.at, "k", eyes())
    open_attempt(first)
    (first.attempt / "half").write_text("x")
    first.end("released")
    second = claim(task.at, "k", eyes())
    open_attempt(second)
    assert (second.attempt / "half").read_text() == "x"
    assert working_folder(task.at) == second.attempt
    second.end("released")
    other = claim(task.at, "another key", eyes())
    open_attempt(other)
    assert not (other.attempt / "half").exists(), "of another key nothing is gone on with"
    other.end("released")


def test_publishing_is_finished_by_whoever_comes_next(tmp_path):
    task = a_task(tmp_path / "cell")
    lease = claim(task.at, "k", eyes())
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
    run_tasks(tasks, say=said.append, timing=FAST)
    assert said == ["a: made", "b: FAILED: no rows", "c: FAILED: KeyError: 'oh'", "d: made"]
    assert [newest(task.at).content.get("failure") for task in tasks] == [None, "bad_data", "bug", None]
    assert "raise KeyError" in (tmp_path / "c" / "traceback.txt").read_text()
    assert not (tmp_path / "b" / "traceback.txt").exists()
    run_tasks(tasks, say=said.append, timing=FAST)
    assert len(said) == 4, "nothing is open"
    assert [reopen(task) for task in tasks] == [False, True, True, False]
    run_tasks([task._replace(work=writing("mended")) for task in tasks], say=said.append, timing=FAST)
    assert said[4:] == ["b: mended", "c: mended"]
    assert [event["event"] for event in read_events(tmp_path / "b")] == ["claimed", "failed", "retried", "done"]


def test_stages_of_one_folder_do_not_know_each_other_and_are_redone_for_another_key(tmp_path):
    said: list[str] = []
    cell = a_task(tmp_path / "cell")
    stage = a_task(tmp_path / "cell", writing("first", "answers"), "one", "answers")
    run_tasks([cell, stage], say=said.append, timing=FAST)
    run_tasks([cell, stage], say=said.append, timing=FAST)
    assert said == ["cell: made", "cell: first"]
    run_tasks([cell, stage._replace(key="two", work=writing("second", "answers"))], say=said.append, timing=FAST)
    assert (tmp_path / "cell" / "answers").read_text() == "second"
    assert (tmp_path / "cell" / "product.txt").read_text() == "made"


def test_two_runners_share_the_tasks_and_each_is_done_once(tmp_path):
    done: list[str] = []

    def work(lease) -> str:
        time.sleep(0.02)
        done.append(lease.task.path.name)
        return "ok"

    tasks = [a_task(tmp_path / f"{n}", work) for n in range(12)]
    runners = [
        threading.Thread(target=run_tasks, args=(tasks,), kwargs={"say": print, "timing": FAST}) for _ in range(2)
    ]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    assert sorted(done, key=int) == [f"{n}" for n in range(12)]
    assert all(kinds(task.at) == ["claimed", "done"] for task in tasks)


def test_what_a_dead_machine_held_is_waited_for_and_taken_over(tmp_path):
    task, said = a_task(tmp_path / "cell"), []
    owned_elsewhere(task.at)
    run_tasks([task], say=said.append, timing=FAST)
    assert said == ["waiting for cell, which other (pid 1) has", "cell: made"]
    assert [event["event"] for event in read_events(tmp_path / "cell")] == ["taken_over", "done"]


def test_a_task_that_kills_its_workers_without_getting_further_is_failed(tmp_path):
    task, said = a_task(tmp_path / "cell"), []
    step = tmp_path / "cell" / "attempt-00000001" / "checkpoints"
    for number, reached in ((1, "step-00000002"), (3, "step-00000004"), (5, "step-00000004")):
        owned_elsewhere(task.at, number)
        (step / reached).mkdir(parents=True, exist_ok=True)
        assert is_open(task)
        record_death(task.at, newest(task.at))
    run_tasks([task], say=said.append, timing=FAST)
    assert newest(task.at).content["failure"] == "lost_node"
    assert "died 2 times" in newest(task.at).content["error"]
    assert [event["event"] for event in read_events(tmp_path / "cell")] == ["failed"]
    assert said == [f"cell: FAILED: {newest(task.at).content['error']}"]
    reopen(task)
    run_tasks([task], say=said.append, timing=FAST)
    assert said[1:] == ["cell: made"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Interrupted, DiskError("full")])
def test_whoever_is_stopped_gives_the_task_back_at_once(stop, tmp_path):
    def work(lease) -> str:
        raise stop

    task = a_task(tmp_path / "cell", work)
    with pytest.raises(DiskError if isinstance(stop, DiskError) else Interrupted):
        run_tasks([task], say=print, timing=FAST)
    assert newest(task.at).kind == "released"
    run_tasks([a_task(tmp_path / "cell")], say=print, timing=FAST)
    assert [event["event"] for event in read_events(tmp_path / "cell")] == ["claimed", "released", "resumed", "done"]


def test_an_event_tells_when_who_and_which_claim(tmp_path):
    run_tasks([a_task(tmp_path / "cell")], say=print, timing=FAST)
    for line in (tmp_path / "cell" / "events.jsonl").read_bytes().splitlines():
        event = orjson.loads(line)
        assert event["generation"] == 1
        assert event["pid"] == os.getpid()
        assert event["host"] == this_process()["host"]
        assert abs(event["time"] - time.time()) < 600
