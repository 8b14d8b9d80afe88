"""Several workers on one machine: started, watched, replaced when they die, stopped in order.

Each is a process of its own (`worker.py`) that runs cells one after another, so that import and base are paid once. The
death of one costs the cell at hand, which the others or its replacement go on with from its last checkpoint.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import IO

import orjson

from unnorm.foundation.errors import Interrupted, RunError
from unnorm.foundation.processes import this_process
from unnorm.study.lease import newest
from unnorm.study.tasks import Say, Timing, record_death
from unnorm.study.work import Work, folders_of
from unnorm.study.worker import INTERRUPTED, TOLD
from unnorm.study.worker_lines import Lines

_IDLE_DEATHS = 3
"""So many deaths in a row without a task in hand mean that workers cannot live here at all."""


def worker_count(asked: str) -> int:
    """`auto`: one a GPU, or one where there is none; else the number. A `SettingsError` for anything else."""
    from unnorm.foundation.errors import SettingsError

    if asked == "auto":
        return max(1, len(_gpus()))
    if not asked.isdigit() or int(asked) < 1:
        raise SettingsError(f"--workers is a number from 1, or auto, not {asked!r}.")
    return int(asked)


def run_workers(
    work: Work, count: int, *, say: Say, ended: Callable[[], None] = lambda: None, timing: Timing | None = None
) -> None:
    """Have `count` processes do the work. Returns when nothing is open.

    ended: called from time to time when results may have changed. Raises `Interrupted` after Ctrl-C, when all have
    stopped; `RunError` with a worker's message if one cannot go on.
    """
    with Lines(count, say, quiet=work.quiet) as lines:
        told = orjson.dumps(
            {"work": work.to_dict(), "timing": list(timing or Timing()), "progress_seconds": lines.progress_seconds}
        )
        workers = [_Worker(number, count, told, lines) for number in range(count)]
        try:
            _watch(work, workers, lines, ended)
        except KeyboardInterrupt as stop:
            lines.show("stopping: each worker ends its step and saves; once more to stop at once")
            raise Interrupted from stop
        finally:
            _stop(workers)


class _Worker:
    """A worker's process, the next one after it died, and the threads that read what it says."""

    def __init__(self, number: int, count: int, told: bytes, lines: Lines) -> None:
        self.number, self.count, self.told, self.lines = number, count, told, lines
        self.idle_deaths = 0
        self.finished = False
        self.start()

    def start(self) -> None:
        self.last: deque[str] = deque(maxlen=5)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "unnorm.study.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **_share(self.number, self.count)},
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on once
        )
        pipes = (self.process.stdout, self.process.stderr)
        shows = (self.lines.say, self.lines.progress)
        self.readers = [
            threading.Thread(target=self._read, args=(pipe, show), daemon=True)
            for pipe, show in zip(pipes, shows, strict=True)
        ]
        for reader in self.readers:
            reader.start()
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(self.told + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it died at once, which is seen when it is looked at

    def _read(self, pipe: IO[bytes], show: Callable[[int, str], None]) -> None:
        for line in pipe:
            text = line.decode("utf-8", "replace").rstrip()
            if text:
                self.last.append(text)
                show(self.number, text)

    def end_reading(self) -> None:
        for reader in self.readers:
            reader.join(timeout=5)


def _watch(work: Work, workers: list[_Worker], lines: Lines, ended: Callable[[], None]) -> None:
    written = time.monotonic()
    while not all(worker.finished for worker in workers):
        time.sleep(0.1)
        if time.monotonic() - written > 10:
            written = time.monotonic()
            ended()
        for worker in workers:
            code = worker.process.poll()
            if code is None or worker.finished:
                continue
            worker.end_reading()
            if code == 0:
                worker.finished = True
            elif code == TOLD:
                raise RunError(worker.last[-1] if worker.last else "a worker ended without saying why.")
            elif code == INTERRUPTED:
                raise Interrupted
            else:
                _replace(work, worker, code, lines)


def _replace(work: Work, worker: _Worker, code: int, lines: Lines) -> None:
    how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
    held = _record_deaths(work, worker.process.pid)
    worker.idle_deaths = 0 if held else worker.idle_deaths + 1
    if worker.idle_deaths >= _IDLE_DEATHS:
        raise RunError(
            f"worker {worker.number + 1} {how}, {_IDLE_DEATHS} times without a cell in hand. "
            f"It said last: {' | '.join(worker.last) or 'nothing'}"
        )
    lines.show(f"worker {worker.number + 1} {how}{' at ' + ', '.join(held) if held else ''}; another takes its place")
    worker.start()


def _record_deaths(work: Work, pid: int) -> list[str]:
    """Say of what the process held that it is lost; the names of it."""
    place = this_process()["place"]
    held = []
    for task in folders_of(work):
        last = newest(task)
        if (
            last is not None
            and last.kind == "claimed"
            and (last.content.get("place"), last.content.get("pid"))
            == (
                place,
                pid,
            )
        ):
            record_death(task, last)
            held.append(task.path.name)
    return held


def _stop(workers: list[_Worker]) -> None:
    """Ask all to stop, wait for them; a second Ctrl-C asks again, a third one kills."""
    asked = 0
    while running := [worker for worker in workers if worker.process.poll() is None]:
        try:
            if asked == 0:
                _signal(running, signal.SIGINT)
                asked = 1
            for worker in running:
                worker.process.wait()
        except KeyboardInterrupt:
            asked += 1
            _signal(running, signal.SIGINT if asked == 2 else signal.SIGKILL)
    for worker in workers:
        worker.end_reading()


def _signal(workers: list[_Worker], number: signal.Signals) -> None:
    for worker in workers:
        worker.process.send_signal(number)


def _share(number: int, count: int) -> dict[str, str]:
    """The part of the machine that is a worker's: its threads, and its GPU."""
    share = {"OMP_NUM_THREADS": str(max(1, _cores() // count))}
    gpus = _gpus()
    return share | ({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {})


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> list[str]:
    import torch

    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:count] if named else [str(number) for number in range(count)]
