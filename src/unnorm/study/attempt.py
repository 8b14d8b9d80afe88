"""The folder that a claim works in, and how its content reaches the task's folder.

Everything an attempt writes lies in its own folder, which carries the number of its claim. A successor renames the
folder to its own number: an owner that wakes late finds its paths gone, and what it may still write through an open
file is an inode that the successor has replaced (logs are rewritten when they are opened). Publishing comes after the
entry `done`, renames item by item, and may be repeated by anybody at any time: whoever comes second finds nothing left.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from unnorm.foundation import atomic
from unnorm.study import events
from unnorm.study.lease import Entry, Lease, TaskFolder, entries, newest

_CHECKPOINTS = "checkpoints"
_DROPPED = (_CHECKPOINTS, "attempt.json")
"""What serves an attempt alone, and is not published."""


def open_attempt(lease: Lease) -> None:
    """Make the lease's folder out of what the last attempt for the same key left, or afresh."""
    lease.check()
    earlier = [path for number, path in lease.task.attempts() if number < lease.number]
    with atomic.disk_errors(lease.attempt):
        if earlier and _key_of(lease.task, earlier[-1]) == lease.key:
            os.replace(earlier.pop(), lease.attempt)
        else:
            lease.attempt.mkdir(parents=True, exist_ok=True)
        for path in earlier:
            shutil.rmtree(path, ignore_errors=True)


def publish(task: TaskFolder) -> None:
    """Move what the committed attempt made into the task's folder, if that has not happened yet."""
    last = newest(task)
    if last is None or not is_unpublished(task, last):
        return
    made = task.attempt(last.content["of"])
    with atomic.disk_errors(task.path):
        for item in sorted(made.iterdir()) if made.is_dir() else []:
            if item.name not in _DROPPED:
                with suppress(FileNotFoundError):  # somebody else has just moved it
                    os.replace(item, task.path / item.name)
    events.record_end(task, last)
    for _, path in task.attempts():
        shutil.rmtree(path, ignore_errors=True)


def is_unpublished(task: TaskFolder, last: Entry) -> bool:
    """Whether `last`, the newest entry, committed an attempt that is not yet wholly in the task's folder."""
    return last.kind == "done" and task.attempt(last.content.get("of", 0)).is_dir()


def working_folder(task: TaskFolder) -> Path:
    """Where the task's files are now: its attempt's folder while there is one, else its own."""
    last = newest(task)
    found = task.attempts()
    return found[-1][1] if found and last is not None and last.kind != "done" else task.path


def reached(task: TaskFolder) -> str:
    """The name of the newest checkpoint, or before there is one of the last block that a recovery finished, to tell an
    attempt that got further from one that did not."""
    found = task.attempts()
    for kept in (f"{_CHECKPOINTS}/step-*", "blocks/block-*.safetensors") if found else ():
        names = sorted(path.name for path in found[-1][1].glob(kept))
        if names:
            return names[-1]
    return ""


def _key_of(task: TaskFolder, attempt: Path) -> str | None:
    number = int(attempt.name.rpartition("-")[2])
    return next((entry.content.get("key") for entry in entries(task) if entry.number == number), None)
