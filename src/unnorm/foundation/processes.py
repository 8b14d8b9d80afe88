"""Which process this is, whether another one is surely gone, and who asks this one to stop: what can be told on one
machine without a clock."""

import hashlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """host, for people; `machine` and its `boot`; `place`, the pids' own world on it; pid; `started`, which tells it
    from a later process of the same pid."""
    pid = os.getpid()
    return {"host": socket.gethostname(), **_where(), "pid": pid, "started": _started(pid)}


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_main() -> bool:
    """Whether this is the process that writes, where torchrun has started several."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def own_handlers() -> Iterator[None]:
    """Once closed, signals have the handlers that they had before: a library that ran meanwhile may leave its own
    behind. Only the main thread can set any."""
    handled = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in handled}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def launch() -> str | None:
    """What the processes of one torchrun have in common, and no other's; None if there is one process."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return None
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT")
    return "/".join(os.environ.get(name, "") for name in names)


def is_gone(process: Mapping[str, Any]) -> bool:
    """Whether a process that `this_process` described is surely gone: from this machine before it was started again,
    or no longer among its pids. False where it cannot be seen from here."""
    here = _where()
    if process.get("machine") == here["machine"] and process.get("boot") != here["boot"]:
        return True
    if process.get("place") != here["place"] or not isinstance(process.get("pid"), int):
        return False
    return _started(process["pid"]) != process.get("started")


@cache
def _where() -> dict[str, str]:
    """machine: its name and what the system calls it, for names alone may be shared. boot: of Linux; elsewhere a
    process's own time of start tells it from those before. place: two containers may share a name and count the same
    pids, so the boot and the pid namespace decide."""
    machine = _digest(socket.gethostname(), _text("/etc/machine-id"))
    boot = _text("/proc/sys/kernel/random/boot_id")
    try:
        pids = os.readlink("/proc/self/ns/pid")
    except OSError:
        pids = ""
    return {"machine": machine, "boot": boot, "place": _digest(machine, boot, pids)}


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _digest(*parts: str) -> str:
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:16]


def _started(pid: int) -> str | None:
    """When the process started, as text to be compared; None if there is none, or it is dead and not yet reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return _started_by_psutil(pid) if not Path("/proc/self/stat").exists() else None
    except OSError:  # it went while it was read
        return None
    return None if fields[0] in "ZX" else fields[19]


def _started_by_psutil(pid: int) -> str | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return ""


@contextmanager
def stop_asked() -> Iterator[Callable[[], bool]]:
    """While open, the first Ctrl-C or SIGTERM only makes what is yielded say True; a second one interrupts at once."""
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: whoever runs us there handles signals
        before = {}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
