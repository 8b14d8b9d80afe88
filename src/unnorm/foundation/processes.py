"""Which process this is, and whether another one is surely gone: what can be told on one machine without a clock."""

import hashlib
import os
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """host, for people; `place`, the running system that the pid belongs to; pid; `started`, which tells it from a
    later process of the same pid."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "place": _place(), "pid": pid, "started": _started(pid)}


def is_main() -> bool:
    """Whether this is the process that writes, where torchrun has started several."""
    return os.environ.get("RANK", "0") == "0"


def launch() -> str | None:
    """What the processes of one torchrun have in common, and no other's; None if there is one process."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return None
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT")
    return "/".join(os.environ.get(name, "") for name in names)


def is_gone(process: Mapping[str, Any]) -> bool:
    """Whether a process that `this_process` described is surely gone. False where it cannot be seen from here."""
    if process.get("place") != _place() or not isinstance(process.get("pid"), int):
        return False
    return _started(process["pid"]) != process.get("started")


@cache
def _place() -> str:
    """Two containers may share a host's name and count the same pids, so the boot and the pid namespace decide."""
    try:
        parts = [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    except OSError:
        import psutil

        parts = [str(int(psutil.boot_time()))]
    return hashlib.sha256("/".join([socket.gethostname(), *parts]).encode()).hexdigest()[:16]


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
