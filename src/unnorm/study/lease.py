"""Who may work on a task, and what became of it: numbered entries beside the task's files, each created only once.

    TASK/lease/00000001.json   `claimed`: who, where, for which key
    TASK/lease/00000002.json   what ended it: `done`, `failed`, `released`, `lost`, or another's `claimed`

The newest entry is the truth. An entry's number can be taken once, by exclusive creation, and whoever wants to commit,
fail, release or take over what stands under number N must create N + 1. So of an owner that wakes late and the one
that took over exactly one gets the number; the other one gets `LeaseLost`. The number is the fencing token.

Whether an owner is gone is for its engine to say (`engines.is_gone`). A wrong verdict costs work, never results,
because what decides is the number.

Assumed of the filesystem: exclusive creation and rename are atomic across machines, and opening a file shows what was
closed before (NFS from version 3, Lustre, any local one). Links are used where there are any, so that an entry appears
with its content; without them an owner that dies within that instant leaves an empty entry, which is held by nobody
after some seconds.
"""

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson

from unnorm.foundation import atomic
from unnorm.foundation.errors import RunError
from unnorm.foundation.processes import launch, this_process

INSTANT = 5.0
"""Seconds that creating an entry may take without links."""

EntryKind = Literal["claimed", "released", "lost", "reopened", "failed", "done"]
Gone = Callable[[Mapping[str, Any]], bool]
"""Whether the owner that a claim's content tells of is surely gone."""


class LeaseLost(RunError):
    """Another has taken this task over; what is committed is its work."""


class TaskFolder(NamedTuple):
    """Where a task's entries, attempts and products lie. A stage of a cell has entries and attempts of its own."""

    path: Path
    stage: str = ""

    @property
    def log(self) -> Path:
        return self.path / self._named("lease")

    def attempt(self, number: int) -> Path:
        """What the claim of this number works in; nobody else writes there."""
        return self.path / self._named(f"attempt-{number:08d}")

    def attempts(self) -> list[tuple[int, Path]]:
        """(number, folder) of each attempt that is there, oldest first."""
        found = self.path.glob(self._named("attempt-*"))
        return sorted((int(path.name.rpartition("-")[2]), path) for path in found)

    def _named(self, name: str) -> str:
        return f"{self.stage}-{name}" if self.stage else name


class Entry(NamedTuple):
    """One entry: its number, what it says, and by whom (`this_process`, engine), when (time), for which key."""

    number: int
    kind: EntryKind
    content: dict[str, Any]


def entries(task: TaskFolder) -> list[Entry]:
    """All entries, oldest first."""
    return [_read(task, number) for number in _numbers(task)]


def newest(task: TaskFolder) -> Entry | None:
    """The entry that holds now."""
    numbers = _numbers(task)
    return _read(task, numbers[-1]) if numbers else None


def add_entry(task: TaskFolder, number: int, kind: EntryKind, /, **content: Any) -> bool:
    """Create the entry `number`; False if there is one already."""
    record = {"kind": kind, "time": time.time(), **this_process(), "launch": launch(), **content}
    return _create(_path(task, number), orjson.dumps(record, option=orjson.OPT_INDENT_2) + b"\n")


class Lease:
    """The right to work on a task, until another entry follows its own."""

    def __init__(self, task: TaskFolder, number: int, key: str) -> None:
        self.task, self.number, self.key = task, number, key
        self.after_kill = False
        """Whether the last attempt was killed for the memory it took."""

    @property
    def attempt(self) -> Path:
        return self.task.attempt(self.number)

    def holds(self) -> bool:
        """Whether nobody has taken over, as far as can be seen now."""
        return not _path(self.task, self.number + 1).exists()

    def check(self) -> None:
        """Raise `LeaseLost` if somebody has taken over."""
        if not self.holds():
            raise self._lost()

    def end(self, kind: EntryKind, **content: Any) -> None:
        """Say what became of it, once and for all. `LeaseLost` if another entry came first."""
        if not add_entry(self.task, self.number + 1, kind, key=self.key, of=self.number, **content):
            raise self._lost()

    def _lost(self) -> LeaseLost:
        return LeaseLost(f"{self.task.path.name} was taken over by another run while this process did not answer.")


def claim(task: TaskFolder, key: str, is_gone: Gone, /, **by: Any) -> Lease | None:
    """The lease on a task, or None if it is done or failed for this key, if somebody holds it, or was quicker. What an
    owner that is gone held is taken over. by: what its engine will want to know of this owner."""
    last = newest(task)
    if last is not None and last.kind in ("done", "failed") and last.content.get("key") == key:
        return None
    if held_by(task, last, is_gone) is not None:
        return None
    number = (last.number if last else 0) + 1
    return Lease(task, number, key) if add_entry(task, number, "claimed", key=key, **by) else None


def held_by(task: TaskFolder, last: Entry | None, is_gone: Gone) -> Entry | None:
    """The claim that holds a task whose newest entry is `last`; None if there is none, or its owner is gone."""
    if last is None or last.kind != "claimed":
        return None
    if last.content:
        return None if is_gone(last.content) else last
    time.sleep(INSTANT)  # its writer is within the instant of writing it, or died there
    return None if not _read(task, last.number).content else last


def _path(task: TaskFolder, number: int) -> Path:
    return task.log / f"{number:08d}.json"


def _numbers(task: TaskFolder) -> list[int]:
    try:
        names = os.listdir(task.log)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(name[:8]) for name in names if name.endswith(".json") and name[:8].isdigit())


def _read(task: TaskFolder, number: int) -> Entry:
    try:
        content = orjson.loads(_path(task, number).read_bytes())
    except orjson.JSONDecodeError:
        content = {}
    if not isinstance(content, Mapping) or "kind" not in content:
        return Entry(number, "claimed", {})
    return Entry(number, content["kind"], dict(content))


def _create(path: Path, content: bytes) -> bool:
    """Create `path` with `content` if there is no such file; whether it was created."""
    with atomic.disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".entry.")
        fresh = Path(name)
        try:
            os.chmod(fresh, 0o644)
            _write(handle, content)
            try:
                os.link(fresh, path)
            except FileExistsError:
                return os.stat(fresh).st_nlink == 2  # NFS may repeat a request whose answer was lost
            except OSError:
                return _create_without_link(path, content)
            return True
        finally:
            fresh.unlink(missing_ok=True)


def _create_without_link(path: Path, content: bytes) -> bool:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    _write(handle, content)
    return True


def _write(handle: int, content: bytes) -> None:
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
