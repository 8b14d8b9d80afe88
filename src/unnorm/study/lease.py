"""Who may work on a task, and what became of it: numbered entries beside the task's files, each created only once.

    TASK/lease/00000001.json   `claimed`: who, where, for which key
    TASK/lease/00000002.json   what ended it: `done`, `failed`, `released`, `lost`, or another's `claimed`
    TASK/lease/beat-00000001   the owner's heartbeat: a count, no time

The newest entry is the truth. An entry's number can be taken once, by exclusive creation, and whoever wants to commit,
fail, release or take over what stands under number N must create N + 1. So of an owner that wakes late and the one
that took over exactly one gets the number; the other one gets `LeaseLost`. The number is the fencing token.

Whether an owner is dead is for its observer to say, by the observer's own clock: see `Watch`. A wrong verdict costs
work, never results, because what decides is the number.

Assumed of the filesystem: exclusive creation and rename are atomic across machines, and opening a file shows what was
closed before (NFS from version 3, Lustre, any local one). Links are used where there are any, so that an entry appears
with its content; without them an owner that dies within that instant leaves an empty entry, which counts as a claim
without heartbeat.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson

from unnorm.foundation import atomic
from unnorm.foundation.errors import RunError
from unnorm.foundation.processes import is_gone, launch, this_process

BEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 90.0
"""Long against a beat and against what NFS may take to show it (60 s at most by default)."""

Kind = Literal["claimed", "released", "lost", "reopened", "failed", "done"]


class LeaseLost(RunError):
    """Another runner has taken this task over; what is committed is its work."""


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
    """One entry: its number, what it says, and by whom (host, place, pid, started), when (time), for which key."""

    number: int
    kind: Kind
    content: dict[str, Any]


def entries(task: TaskFolder) -> list[Entry]:
    """All entries, oldest first."""
    return [_read(task, number) for number in _numbers(task)]


def newest(task: TaskFolder) -> Entry | None:
    """The entry that holds now."""
    numbers = _numbers(task)
    return _read(task, numbers[-1]) if numbers else None


def add_entry(task: TaskFolder, number: int, kind: Kind, **content: Any) -> bool:
    """Create the entry `number`; False if there is one already."""
    record = {"kind": kind, "time": time.time(), **this_process(), "launch": launch(), **content}
    return _create(_path(task, number), orjson.dumps(record, option=orjson.OPT_INDENT_2) + b"\n")


class Lease:
    """The right to work on a task, until another entry follows its own. Its heart beats in a thread."""

    def __init__(self, task: TaskFolder, number: int, key: str, *, beat_seconds: float = BEAT_SECONDS) -> None:
        self.task, self.number, self.key = task, number, key
        self._beat = _beat_path(task, number)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, args=(beat_seconds,), daemon=True)
        self._thread.start()

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

    def end(self, kind: Kind, **content: Any) -> None:
        """Say what became of it, once and for all. `LeaseLost` if another entry came first."""
        try:
            if not add_entry(self.task, self.number + 1, kind, key=self.key, of=self.number, **content):
                raise self._lost()
        finally:
            self.stop_beating()

    def _lost(self) -> LeaseLost:
        return LeaseLost(f"{self.task.path.name} was taken over by another runner while this process did not answer.")

    def stop_beating(self) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(OSError):
            self._beat.unlink(missing_ok=True)

    def _keep_beating(self, seconds: float) -> None:
        count = 0
        while True:
            with suppress(OSError):  # a heart that cannot beat loses the lease, and nothing else
                self._beat.write_bytes(b"%020d\n" % count)
            count += 1
            if self._stop.wait(seconds):
                return


class Watch:
    """What one observer has seen of others' heartbeats, by its own monotonic clock.

    An owner is dead at once if it ran on this system and its process is gone; else if its heartbeat has not changed
    over `dead_after` seconds of watching. Time between two looks counts only as far as looks are expected, so that an
    observer that was asleep itself does not take its own sleep for another's death. Clocks of two machines are never
    compared.
    """

    def __init__(self, dead_after: float = DEAD_AFTER_SECONDS, look_every: float = BEAT_SECONDS) -> None:
        self.dead_after, self.look_every = dead_after, look_every
        self._seen: dict[TaskFolder, tuple[int, bytes]] = {}
        self._looked: dict[TaskFolder, float] = {}
        self._unchanged: dict[TaskFolder, float] = {}

    def is_dead(self, task: TaskFolder, claim: Entry) -> bool:
        if is_gone(claim.content):
            return True
        now, seen = time.monotonic(), (claim.number, heartbeat(task, claim))
        if self._seen.get(task) != seen:
            self._seen[task], self._unchanged[task] = seen, 0.0
        else:
            self._unchanged[task] += min(now - self._looked[task], 2 * self.look_every)
        self._looked[task] = now
        return self._unchanged[task] >= self.dead_after

    def saw_alive(self, task: TaskFolder, claim: Entry) -> bool:
        """Whether this observer was there before the owner died."""
        return task in self._seen and self._seen[task][0] == claim.number

    def silent_for(self, task: TaskFolder) -> float:
        """Seconds since the heartbeat was last seen to change."""
        return self._unchanged.get(task, 0.0)


def claim(
    task: TaskFolder,
    key: str,
    watch: Watch,
    *,
    beat_seconds: float = BEAT_SECONDS,
    reached: Callable[[TaskFolder], str] = lambda task: "",
) -> Lease | None:
    """The lease on a task, or None if it is done or failed for this key, if somebody alive holds it, or was quicker.
    What a dead owner held is taken over.

    reached: how far the task has come; written down where this observer saw the owner alive before it died.
    """
    last = newest(task)
    number = last.number if last else 0
    if last is not None and last.kind in ("done", "failed") and last.content.get("key") == key:
        return None
    if last is not None and last.kind == "claimed":
        if not watch.is_dead(task, last):
            return None
        if watch.saw_alive(task, last):
            number += 1
            if not add_entry(task, number, "lost", of=last.number, reached=reached(task)):
                return None
    number += 1
    return Lease(task, number, key, beat_seconds=beat_seconds) if add_entry(task, number, "claimed", key=key) else None


def heartbeat(task: TaskFolder, claim: Entry) -> bytes:
    """What the owner's heartbeat holds now; nothing if there is none yet."""
    try:
        return heartbeat_file(task, claim).read_bytes()
    except OSError:
        return b""


def heartbeat_file(task: TaskFolder, claim: Entry) -> Path:
    return _beat_path(task, claim.number)


def _beat_path(task: TaskFolder, number: int) -> Path:
    return task.log / f"beat-{number:08d}"


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
        return Entry(number, "claimed", {})  # its writer is within the instant of writing it, or died there
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
