"""Work that several runners share: each task is done by one at a time, and once.

A task is a recovered start, a cell, or a stage after training. `run_tasks` takes the first free one in order whose
needs are met, again and again, until every task is done or failed, waiting for those that others hold and taking over
those whose owner died.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from unnorm.foundation import atomic, progress
from unnorm.foundation.errors import DiskError, Interrupted, UnnormError
from unnorm.study import events
from unnorm.study.attempt import is_unpublished, open_attempt, publish, reached
from unnorm.study.failures import describe, failure_of, free_memory, let_go, traceback_of
from unnorm.study.lease import (
    BEAT_SECONDS,
    DEAD_AFTER_SECONDS,
    Entry,
    Lease,
    LeaseLost,
    TaskFolder,
    Watch,
    add_entry,
    claim,
    entries,
    newest,
)

Say = Callable[[str], None]
TRACEBACK = "traceback.txt"
_DEATHS = 2
"""A task whose worker died this often without getting further is failed: it may be what kills them."""


class Timing(NamedTuple):
    """Seconds: between two beats of an owner; of silence after which it is dead; between two looks of who waits."""

    beat: float = BEAT_SECONDS
    dead_after: float = DEAD_AFTER_SECONDS
    look: float = 2.0


class Task(NamedTuple):
    """One piece of work. `work` makes everything in the folder `lease.attempt` and returns a line for people.

    key: hash of what shapes the result. A task that is done or failed for another key is open. done_before: whether a
    version without leases has finished it. waits: whether what it needs is still to be made, by whomever.
    """

    name: str
    at: TaskFolder
    key: str
    work: Callable[[Lease], str]
    done_before: Callable[[], bool] = lambda: False
    waits: Callable[[], bool] = lambda: False


def is_open(task: Task) -> bool:
    """Whether there is something left to do. What was committed but not yet moved into place is moved now."""
    last = newest(task.at)
    if last is None:
        return not task.done_before()
    if is_unpublished(task.at, last):
        publish(task.at)
    return last.kind not in ("done", "failed") or last.content.get("key") != task.key


def reopen(task: Task) -> bool:
    """Make a failed task open again, and forget how often it killed its worker. Whether it had failed."""
    last = newest(task.at)
    if last is None or last.kind != "failed":
        return False
    return add_entry(task.at, last.number + 1, "reopened", key=task.key)


def run_tasks(
    tasks: Sequence[Task],
    *,
    say: Say,
    ended: Callable[[], None] = lambda: None,
    timing: Timing | None = None,
) -> None:
    """Go on until every task is done or failed. A failure is recorded and stops no other task.

    ended: called after each task that this process has done. `Interrupted` and a full disk (`DiskError`) end it; what
    was reached is kept.
    """
    timing = timing or Timing()
    started, open_at_start = time.monotonic(), 0
    watch = Watch(timing.dead_after, timing.look)
    waiting_for: list[str] = []
    while todo := [task for task in tasks if is_open(task)]:
        open_at_start = open_at_start or len(todo)
        ready = (task for task in todo if not task.waits())
        taken = next(((task, lease) for task in ready if (lease := claim_task(task, watch, timing, say))), None)
        if taken is None:
            held = [who for task in todo if (who := _holder(task))]
            if held and held != waiting_for:
                say(f"waiting for {'; '.join(held)}")
                waiting_for = held
            time.sleep(timing.look)
            continue
        task, lease = taken
        left = _time_left(time.monotonic() - started, open_at_start - len(todo), len(todo))
        try:
            with progress.scope(f"{len(tasks) - len(todo) + 1}/{len(tasks)} {task.name}{left}: "):
                line = run_task(task, lease)
            say(f"{task.name}: {line}")
        except (DiskError, Interrupted):
            raise
        except LeaseLost as lost:
            say(f"{task.name}: {lost}")
        except Exception as error:
            say(f"{task.name}: FAILED: {error if isinstance(error, UnnormError) else describe(error)}")
            let_go(error)
        if not task.at.stage:  # a cell leaves gradients and optimizer states behind, a stage next to nothing
            free_memory()
        ended()


def claim_task(task: Task, watch: Watch, timing: Timing, say: Say) -> Lease | None:
    """The lease on a task, unless it is not open any more, somebody has it, or it has killed too many workers."""
    lease = claim(task.at, task.key, watch, beat_seconds=timing.beat, reached=reached)
    if lease is None:
        return None
    deaths = _deaths([entry for entry in entries(task.at) if entry.number < lease.number])
    if deaths >= _DEATHS:
        error = f"its worker died {deaths} times without getting further: killed, out of memory, or the machine went"
        _fail(task, lease, "lost_node", error, None)
        say(f"{task.name}: FAILED: {error}")
        return None
    events.record(lease, events.how_begun(lease))
    return lease


def run_task(task: Task, lease: Lease) -> str:
    """Do a task whose lease is held; what became of it is recorded. Returns its line; raises what stopped it."""
    try:
        open_attempt(lease)
        line = task.work(lease)
        lease.end("done")
    except (Interrupted, KeyboardInterrupt) as stop:
        _release(lease)
        raise Interrupted from stop
    except DiskError:
        _release(lease)
        raise
    except LeaseLost:
        lease.stop_beating()
        events.record(lease, "fenced")
        raise
    except Exception as error:
        if not lease.holds():  # it failed because another has moved its folder away
            lease.stop_beating()
            events.record(lease, "fenced")
            raise LeaseLost(f"{task.name} was taken over by another runner.") from error
        _fail(task, lease, failure_of(error), describe(error), traceback_of(error))
        raise
    except BaseException:  # the process is on its way out
        _release(lease)
        raise
    publish(task.at)
    return line


def record_death(task: TaskFolder, claimed: Entry) -> None:
    """Say that the process which made this claim is gone, by whoever saw it die."""
    add_entry(task, claimed.number + 1, "lost", of=claimed.number, reached=reached(task))


def _deaths(before: Sequence[Entry]) -> int:
    """How many deaths of the last ones brought the task no further."""
    lost: list[Entry] = []
    for entry in reversed(before):
        if entry.kind in ("done", "failed", "reopened"):
            break
        if entry.kind == "lost":
            lost.append(entry)
    return sum(entry.content.get("reached") == lost[0].content.get("reached") for entry in lost) if lost else 0


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
        lease.stop_beating()


def _holder(task: Task) -> str | None:
    last = newest(task.at)
    if last is None or last.kind != "claimed":
        return None
    return f"{task.name}, which {last.content.get('host', '?')} (pid {last.content.get('pid', '?')}) has"


def _time_left(elapsed: float, done: int, left: int) -> str:
    """Of all who share the work, by what was done since this process began."""
    return f", about {elapsed / done * left / 60:.0f} min left" if done else ""
