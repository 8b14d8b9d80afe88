"""Training spread over several devices of this machine: as many processes as devices, started by torch's own launcher.

This process holds the claim and commits; the processes (`spread_process.py`) work in the attempt's folder and tell what
happens over a connection of their own. One that fails ends them all, and what the first one said is what is raised.
"""

import logging
import os
import secrets
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import orjson

from unnorm.foundation import errors, ranks
from unnorm.foundation.errors import Interrupted, RunError, SettingsError, UnnormError
from unnorm.foundation.processes import cores, own_handlers
from unnorm.study.fewer_rows import with_fewer_rows
from unnorm.study.hooks import Hooks
from unnorm.tuning.device_rows import check_shares

ADDRESS, KEY = "UNNORM_SPREAD_ADDRESS", "UNNORM_SPREAD_KEY"
_SECONDS_TO_STOP = 600
"""For a step and a checkpoint, after Ctrl-C."""
TOLD = ("check", "begun", "saved", "say", "warn")
"""The hooks that the processes call here."""
Told = Callable[..., object]


def check_launch(devices: int) -> None:
    """A `SettingsError` unless work for so many devices can be done from here: by this process, which starts others
    where this machine has the devices, or by as many processes as there are in its launch."""
    launched = ranks.count()
    if launched == 1:
        ranks.check_devices(devices)
    elif devices not in (1, launched):
        raise SettingsError(
            f"training.devices is {devices}, and {launched} processes were launched. Launch {devices}, or leave "
            "devices out."
        )


def train(
    job: dict[str, Any], folder: Path, whole: int, devices: int, hooks: Hooks, run: Callable[[int], dict[str, Any]]
) -> dict[str, Any]:
    """What `run`, given the rows of a forward, returns, `with_fewer_rows` where the memory does not suffice. Work of
    several devices is spread over processes, which are told `job`, unless this is one of several already.

    whole: rows a step. folder: of the attempt.
    """
    check_launch(devices)
    check_shares(whole, devices)

    def again(rows: int) -> None:
        hooks.check()
        hooks.retried(rows)

    if devices <= ranks.count():
        return with_fewer_rows(folder, whole, run, again=again)
    job = {**job, "folder": str(folder), "quiet": hooks.quiet}
    told = {name: getattr(hooks, name) for name in TOLD}
    return with_fewer_rows(folder, whole, lambda _: run_spread(job, devices, told), again=again, devices=devices)


def run_spread(job: dict[str, Any], devices: int, told: dict[str, Told]) -> Any:
    """Do `job`, plain values for `spread_process.py`, in `devices` processes; what their main one returns.

    told: what to call with what the main process tells, by kind; what one of them raises ends the processes and is
    raised here. Else raises what the first process that failed has raised, a `MemoryError` where one was killed, and
    `Interrupted` after Ctrl-C, once all have stopped and kept what they had reached.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        shutdown_timeout=_SECONDS_TO_STOP,
    )
    with _Desk(job, told) as desk, own_handlers(), _quiet_launcher(), _environment(desk, devices):
        try:
            elastic_launch(config, sys.executable)("-m", "unnorm.study.spread_process")
        except (SignalException, KeyboardInterrupt) as stop:
            raise Interrupted from stop
        except ChildFailedError as error:
            desk.close()
            raise _cause(desk.failure, error.failures, devices) from None
    if desk.failure is not None:
        raise desk.failure
    return desk.result


class _Desk:
    """Where the processes ask and tell."""

    def __init__(self, job: dict[str, Any], told: dict[str, Told]) -> None:
        self.job, self.told = job, told
        self.failure: BaseException | None = None
        self.result: Any = None
        self.key = secrets.token_hex(16)
        self.listener = Listener(authkey=self.key.encode())
        self.threads: list[threading.Thread] = []

    def __enter__(self) -> "_Desk":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Hear what was said last, and no more."""
        for thread in self.threads:
            thread.join(timeout=5)
        self.listener.close()

    def _accept(self) -> None:
        with suppress(OSError, EOFError):
            while True:
                connection = self.listener.accept()
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self.threads.append(thread)
                thread.start()

    def _serve(self, connection: Connection) -> None:
        with suppress(EOFError, OSError), connection:
            connection.send_bytes(orjson.dumps(self.job))
            while True:
                kind, *content = orjson.loads(connection.recv_bytes())
                connection.send_bytes(orjson.dumps(self._heard(kind, content)))

    def _heard(self, kind: str, content: list[Any]) -> bool:
        """Whether the processes may go on."""
        if kind == "done":
            [self.result] = content
        elif kind == "failed":
            self.failure = self.failure or _raised(*content)
        else:
            try:
                self.told.get(kind, lambda *_: None)(*content)
            except BaseException as error:
                self.failure = self.failure or error
                return False
        return True


def _raised(name: str, text: str, memory: bool, trace: str) -> BaseException:
    """An error like the one that a process raised."""
    if memory:
        return MemoryError(text)
    if name in ("Interrupted", "KeyboardInterrupt"):
        return Interrupted()
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, UnnormError):
        return kind(text)
    error = RuntimeError(f"{name}: {text}")
    error.add_note(trace)
    return error


def _cause(told: BaseException | None, ends: Mapping[int, Any], devices: int) -> BaseException:
    """What to raise where processes failed: what was told, unless one was killed, which the others hear of as a
    connection that ends, or by being asked to stop.

    ends: each process's `exitcode`, as the launcher keeps it.
    """
    killed = [rank for rank, end in ends.items() if end.exitcode == -signal.SIGKILL]
    if killed and (not isinstance(told, UnnormError) or isinstance(told, Interrupted)):
        return MemoryError(
            f"process {killed[0] + 1} of {devices} was killed (SIGKILL), as the system does where memory runs out."
        )
    if told is not None:
        return told
    rank, code = min((rank, end.exitcode) for rank, end in ends.items())
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return RunError(f"process {rank + 1} of {devices} ended without saying why ({how}).")


@contextmanager
def _quiet_launcher() -> Iterator[None]:
    """The launcher's own lines about processes that end say nothing that is not said better."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.elastic")]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, own in levels.items():
            logging.getLogger(name).setLevel(own)


@contextmanager
def _environment(desk: _Desk, devices: int) -> Iterator[None]:
    """What the processes find in their environment, and this one's as it was afterwards."""
    given = {ADDRESS: str(desk.listener.address), KEY: desk.key}
    chosen = {"OMP_NUM_THREADS": str(max(1, cores() // devices)), "TORCH_CPP_LOG_LEVEL": "ERROR"}
    if Path("/sys/class/net/lo").exists():  # all are on this machine
        chosen["GLOO_SOCKET_IFNAME"] = "lo"
    before = dict(os.environ)
    os.environ.update({**chosen, **os.environ, **given})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
