"""Tasks done on this machine: in this process, or in workers that live as long as the run does.

A worker is a process of its own that does tasks one after another, so that import and base are paid once. It is told a
task a line on stdin, and answers on stdout; progress goes to stderr. When its stdin ends, whoever started it is gone,
and it stops in order. The death of one costs the task at hand.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from queue import Empty, Queue
from typing import IO, TYPE_CHECKING, Any

import orjson

from unnorm.foundation import progress, ranks
from unnorm.foundation.errors import Interrupted, RunError, SettingsError, UnnormError
from unnorm.foundation.processes import cores
from unnorm.foundation.progress import Say
from unnorm.study.engines.interface import Ended, Engine, Options, Setting, Wants
from unnorm.study.progress_lines import Lines

if TYPE_CHECKING:
    from unnorm.study.tasks import Task

OPTIONS = ("workers",)


def check(options: Options, devices: int) -> None:
    """The number of workers, and whether this machine has the devices that they want."""
    ranks.check_devices(devices)
    count = _count(options.workers, devices)
    if devices > 1:
        ranks.check_devices(devices * count)


def make(setting: Setting) -> Engine:
    """This process, or as many workers as are asked for."""
    count = _count(setting.options.workers, setting.devices)
    return _Workers(setting, count) if count > 1 else _ThisProcess(setting)


def is_gone(owner: Mapping[str, Any]) -> bool:
    """A process is all there is to ask for."""
    return False


class _ThisProcess:
    """Does each task at once, when it is submitted."""

    here = True

    def __init__(self, setting: Setting) -> None:
        self.say = setting.say
        self._done: list[Ended] = []

    def has_room(self, wants: Wants) -> bool:
        return not self._done

    def submit(self, task: "Task", label: str) -> None:
        from unnorm.study.tasks import perform

        with progress.scope(f"{label}: "):
            perform(task, self.say)
        self._done.append(Ended(task.id))

    def finished(self) -> list[Ended]:
        done, self._done = self._done, []
        return done

    def cancel(self) -> None:
        pass


class _Worker:
    """A worker's process, the task that it has, and the threads that read what it says."""

    def __init__(self, number: int, environment: dict[str, str], seconds: float, heard: "Queue[tuple[_Worker, Any]]"):
        self.number, self.heard = number, heard
        self.task = ""
        self.last: deque[str] = deque(maxlen=5)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "unnorm.study.engines.local_engine", str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment},
            start_new_session=True,  # Ctrl-C reaches the driver alone, which passes it on once
        )
        pipes = (self.process.stdout, self.process.stderr)
        self.readers = [threading.Thread(target=self._read, args=(pipe,), daemon=True) for pipe in pipes]
        for reader in self.readers:
            reader.start()

    def tell(self, task: "Task", label: str) -> None:
        assert self.process.stdin is not None
        self.task = task.id
        with suppress(BrokenPipeError):  # it has died, which is seen when it is looked at
            self.process.stdin.write(orjson.dumps({"told": task.told(), "task": task.id, "label": label}) + b"\n")
            self.process.stdin.flush()

    def _read(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            text = line.decode("utf-8", "replace").rstrip()
            if pipe is self.process.stdout:
                self.heard.put((self, orjson.loads(text)))
            elif text:
                self.last.append(text)
                self.heard.put((self, {"progress": text}))

    def end_reading(self) -> None:
        for reader in self.readers:
            reader.join(timeout=5)


class _Workers:
    """Workers that are started when they are needed, watched, replaced when they die, stopped in order."""

    here = False

    def __init__(self, setting: Setting, count: int) -> None:
        self.count, self.devices = count, setting.devices
        self.lines = Lines(setting.say, quiet=setting.quiet)
        self.say: Say = self.lines.show
        self.workers: dict[int, _Worker] = {}
        self.heard: Queue[tuple[_Worker, Any]] = Queue()
        self.alone = False

    def has_room(self, wants: Wants) -> bool:
        busy = sum(bool(worker.task) for worker in self.workers.values())
        return not busy if wants.alone or self.alone else busy < self.count

    def submit(self, task: "Task", label: str) -> None:
        free = (n for n in range(self.count) if n not in self.workers or not self.workers[n].task)
        number = self.count if task.wants.alone else next(free)  # what is timed has a worker with the whole machine
        if number not in self.workers:
            share = _share(0, 1, self.devices) if task.wants.alone else _share(number, self.count, self.devices)
            self.workers[number] = _Worker(number, share, self.lines.seconds, self.heard)
        self.alone = task.wants.alone
        self.workers[number].tell(task, label)

    def finished(self) -> list[Ended]:
        ended: list[Ended] = []
        deadline = time.monotonic() + 0.5
        while not ended and time.monotonic() < deadline:
            try:
                ended += self._hear(*self.heard.get(timeout=0.1))
            except Empty:
                ended += [end for worker in [*self.workers.values()] for end in self._bury(worker)]
        return ended

    def _hear(self, worker: _Worker, line: dict[str, Any]) -> list[Ended]:
        name = f"worker {worker.number + 1}"
        if "progress" in line:
            self.lines.progress(name, line["progress"])
        elif "say" in line:
            self.say(f"{name}: {line['say']}")
        elif "stopped" in line:
            raise RunError(line["stopped"]) if line["stopped"] else Interrupted
        else:
            worker.task = ""
            return [Ended(line["ended"])]
        return []

    def _bury(self, worker: _Worker) -> list[Ended]:
        """What died with a worker that is gone."""
        code = worker.process.poll()
        if code is None or not self.heard.empty():
            return []
        worker.end_reading()
        if not self.heard.empty():
            return []  # what it said last comes first
        del self.workers[worker.number]
        if not worker.task:
            return []
        how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
        said = f", having said last: {' | '.join(worker.last)}" if worker.last and code > 0 else ""
        return [Ended(worker.task, f"worker {worker.number + 1} {how}{said}")]

    def cancel(self) -> None:
        """Ask all to stop, wait for them; a second Ctrl-C asks again, a third one kills."""
        asked = 0
        while running := [worker for worker in self.workers.values() if worker.process.poll() is None]:
            try:
                if asked == 0:
                    asked = 1
                    for worker in running:
                        _stop(worker)
                for worker in running:
                    worker.process.wait()
            except KeyboardInterrupt:
                asked += 1
                for worker in running:
                    worker.process.send_signal(signal.SIGINT if asked == 2 else signal.SIGKILL)
        for worker in self.workers.values():
            worker.end_reading()
        while not self.heard.empty():
            worker, line = self.heard.get()
            if "say" in line:
                self.say(f"worker {worker.number + 1}: {line['say']}")
        self.lines.close()


def _stop(worker: _Worker) -> None:
    """One at work is asked to give its task back; one that waits ends when nobody can tell it any more."""
    if worker.task:
        worker.process.send_signal(signal.SIGINT)
        return
    assert worker.process.stdin is not None
    with suppress(BrokenPipeError):
        worker.process.stdin.close()


def _count(asked: str, devices: int) -> int:
    """`auto`: one for each GPU, or for each group of them that a task wants; one where there is none."""
    if asked == "auto":
        return max(1, len(_gpus()) // devices)
    if not asked.isdigit() or int(asked) < 1:
        raise SettingsError(f"--workers is a number from 1, or auto, not {asked!r}.")
    return int(asked)


def _share(number: int, count: int, devices: int) -> dict[str, str]:
    """The part of the machine that is a worker's: its threads, and its GPUs."""
    share = {"OMP_NUM_THREADS": str(max(1, cores() // count))}
    gpus = _gpus()
    own = [gpus[(number * devices + place) % len(gpus)] for place in range(min(devices, len(gpus)))]
    return share | ({"CUDA_VISIBLE_DEVICES": ",".join(own)} if own else {})


def _gpus() -> list[str]:
    import torch

    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:count] if named else [str(number) for number in range(count)]


def _work() -> None:
    """What a worker does: the tasks that it is told, until its stdin ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    told: Queue[bytes] = Queue()
    idle = threading.Event()

    def answer(**line: Any) -> None:
        answers.write(orjson.dumps(line) + b"\n")
        answers.flush()

    def listen() -> None:
        rest = b""
        while piece := os.read(0, 1 << 16):  # not through sys.stdin: a thread in there aborts the interpreter's end
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                idle.clear()
                told.put(line)
        told.put(b"")
        if not idle.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM):  # whoever started this may have left them ignored
        signal.signal(number, signal.default_int_handler)
    idle.set()
    threading.Thread(target=listen, daemon=True).start()
    progress.lines_every(float(sys.argv[1]))
    try:
        while line := told.get():
            from unnorm.study.task_list import do_told

            content = orjson.loads(line)
            with progress.scope(f"{content['label']}: "):
                do_told(content["told"], content["task"], lambda text: answer(say=text))
            idle.set()
            answer(ended=content["task"])
    except (Interrupted, KeyboardInterrupt):
        answer(stopped="")
    except UnnormError as error:
        answer(stopped=str(error))


if __name__ == "__main__":
    _work()
