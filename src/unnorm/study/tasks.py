"""A piece of work that many may want to do: it is claimed, done by one at a time, and committed once.

A task is a recovered start, a cell, or a stage after training. Which of them are to be done, and where, is the driver's
to say (`drive.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from unnorm.foundation import atomic
from unnorm.foundation.errors import DiskError, Interrupted, UnnormError
from unnorm.foundation.progress import Say
from unnorm.study import engines, events
from unnorm.study.attempt import is_unpublished, open_attempt, publish, reached
from unnorm.study.engines.interface import Wants
from unnorm.study.failures import describe, failure_of, free_memory, let_go, traceback_of
from unnorm.study.fewer_rows import note_killed
from unnorm.study.lease import Entry, Lease, LeaseLost, TaskFolder, add_entry, claim, entries, held_by, newest

TRACEBACK = "traceback.txt"
_DEATHS = 2
"""A task whose worker died this often without getting further is failed: it may be what kills them."""


class Task(NamedTuple):
    """One piece of work. `work` makes everything in the folder `lease.attempt` and returns a line for people.

    key: hash of what shapes the result. A task that is done or failed for another key is open. needs: ids of the tasks
    that are to be done before it; despite: whether it is tried, to fail in its own name, where one of them has failed.
    told: what another process must be told to do it (`task_list.do_told`).
    """

    name: str
    at: TaskFolder
    key: str
    work: Callable[[Lease], str]
    needs: tuple[str, ...] = ()
    despite: bool = False
    wants: Wants = Wants()
    told: Callable[[], dict[str, Any]] = dict

    @property
    def id(self) -> str:
        """What it is called where several processes speak of it: the folder in the ledger, and the stage."""
        return "/".join([*self.at.path.parts[-2:], self.at.stage]).rstrip("/")


def state_of(task: Task) -> str:
    """open, done or failed. What was committed but not yet moved into place is moved now."""
    last = newest(task.at)
    if last is None:
        return "open"
    if is_unpublished(task.at, last):
        publish(task.at)
    ended = last.kind in ("done", "failed") and last.content.get("key") == task.key
    return last.kind if ended else "open"


def is_open(task: Task) -> bool:
    """Whether there is something left to do."""
    return state_of(task) == "open"


def reopen(task: Task) -> bool:
    """Make a failed task open again, and forget how often it killed its worker. Whether it had failed."""
    last = newest(task.at)
    if last is None or last.kind != "failed":
        return False
    return add_entry(task.at, last.number + 1, "reopened", key=task.key)


def release_from(task: Task, host: str) -> bool:
    """Free a task that a process of `host` holds, of which the user says that it is gone. Whether it was held so."""
    last = newest(task.at)
    if last is None or last.kind != "claimed" or last.content.get("host") != host:
        return False
    return add_entry(task.at, last.number + 1, "released", key=task.key, of=last.number)


def perform(task: Task, say: Say, by: Mapping[str, Any] = {}) -> None:
    """Claim a task, if it is free, and do it. A failure is recorded and said. by: what its engine notes of the owner.

    Raises `Interrupted` and, where the disk is full, `DiskError`; what was reached is kept.
    """
    lease = claim_task(task, say, by)
    if lease is None:
        return
    try:
        say(f"{task.name}: {run_task(task, lease)}")
    except (DiskError, Interrupted):
        raise
    except LeaseLost as lost:
        say(f"{task.name}: {lost}")
    except Exception as error:
        say(f"{task.name}: FAILED: {error if isinstance(error, UnnormError) else describe(error)}")
        let_go(error)
    if not task.at.stage:  # a cell leaves gradients and optimizer states behind, a stage next to nothing
        free_memory()


def claim_task(task: Task, say: Say, by: Mapping[str, Any] = {}) -> Lease | None:
    """The lease on a task, unless it is not open any more, somebody has it, or it has killed too many workers."""
    lease = claim(task.at, task.key, engines.is_gone, **by)
    if lease is None:
        return None
    lost = _lost([entry for entry in entries(task.at) if entry.number < lease.number])
    killed = sum(bool(entry.content.get("out_of_memory")) for entry in lost)
    deaths = sum(entry.content["reached"] == lost[0].content["reached"] for entry in lost)
    if max(killed, deaths) >= _DEATHS:
        failure = "out_of_memory" if killed >= _DEATHS else "lost_node"
        why = "was killed for its memory" if killed >= _DEATHS else "died"
        error = f"its worker {why} {max(killed, deaths)} times without getting further"
        _fail(task, lease, failure, error, None)
        say(f"{task.name}: FAILED: {error}")
        return None
    events.record(lease, events.how_begun(lease))
    lease.after_kill = bool(killed) and bool(lost[0].content.get("out_of_memory"))
    return lease


def run_task(task: Task, lease: Lease) -> str:
    """Do a task whose lease is held; what became of it is recorded. Returns its line; raises what stopped it."""
    try:
        open_attempt(lease)
        if lease.after_kill:
            note_killed(lease.attempt)
        line = task.work(lease)
        lease.end("done")
    except (Interrupted, KeyboardInterrupt) as stop:
        _release(lease)
        raise Interrupted from stop
    except DiskError:
        _release(lease)
        raise
    except LeaseLost:
        events.record(lease, "fenced")
        raise
    except Exception as error:
        if not lease.holds():  # it failed because another has moved its folder away
            events.record(lease, "fenced")
            raise LeaseLost(f"{task.name} was taken over by another run.") from error
        _fail(task, lease, failure_of(error), describe(error), traceback_of(error))
        raise
    except BaseException:  # the process is on its way out
        _release(lease)
        raise
    publish(task.at)
    return line


def record_death(task: Task, claimed: Entry, *, out_of_memory: bool = False) -> bool:
    """Say that the owner of this claim is gone, by whoever saw it die. False if somebody else was quicker."""
    content = {"of": claimed.number, "reached": reached(task.at), "out_of_memory": out_of_memory}
    return add_entry(task.at, claimed.number + 1, "lost", **content)


def holder(task: Task) -> Entry | None:
    """The claim that holds a task; None if nobody does."""
    return held_by(task.at, newest(task.at), engines.is_gone)


def _lost(before: Sequence[Entry]) -> list[Entry]:
    """The deaths since the task last ended or was opened again, the newest first."""
    lost: list[Entry] = []
    for entry in reversed(before):
        if entry.kind in ("done", "failed", "reopened"):
            break
        if entry.kind == "lost":
            lost.append(entry)
    return lost


def _fail(task: Task, lease: Lease, failure: str, error: str, traceback: str | None) -> None:
    lease.end("failed", failure=failure, error=error)
    events.record(lease, "failed", failure=failure, error=error)
    if traceback is not None:
        name = f"{task.at.stage}-{TRACEBACK}" if task.at.stage else TRACEBACK
        atomic.write_bytes(task.at.path / name, traceback.encode("utf-8", "replace"))


def _release(lease: Lease) -> None:
    """Give the task back. On a full disk that cannot be written: then the end of this process says it."""
    try:
        lease.end("released")
        events.record(lease, "released")
    except (OSError, DiskError, LeaseLost):
        return
