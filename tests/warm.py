"""Processes of their own that are ready at once: torch and transformers are imported here once, and each is forked off.

For tests that kill, interrupt or restart what they run; a process that begins from nothing takes many seconds before it
does anything. Nothing has computed where the fork happens, so there are no threads to lose.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


class Process:
    """As `subprocess.Popen` has it, as far as tests need it."""

    def __init__(self, pid: int, out: Path, err: Path) -> None:
        self.pid, self._out, self._err, self.returncode = pid, out, err, None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float = 600.0) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.send_signal(signal.SIGKILL)
                raise TimeoutError(f"the process has not ended within {timeout:.0f} s; it said {self.stderr[-2000:]}")
            time.sleep(0.002)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()


def start(program: str, *arguments: object, env: Mapping[str, str] | None = None) -> Process:
    """Run Python text in a fresh process, with `arguments` in sys.argv[1:]. SIGINT interrupts it, whatever the shell
    does. env: variables beside those of this process."""
    folder = Path(tempfile.mkdtemp(prefix="unnorm-warm-"))
    out, err = folder / "out", folder / "err"
    told = {"program": program, "argv": ["-c", *map(str, arguments)], "out": str(out), "err": str(err)}
    return Process(_ask({**told, "env": {**os.environ, **(env or {})}}), out, err)


def run(program: str, *arguments: object, env: Mapping[str, str] | None = None) -> Done:
    process = start(program, *arguments, env=env)
    code = process.wait()
    return Done(code, process.stdout, process.stderr)


_server: subprocess.Popen | None = None


def _ask(question: dict) -> int | None:
    global _server
    if _server is None:
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "warm"]
        _server = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        atexit.register(_server.stdin.close)
    _server.stdin.write(json.dumps(question).encode() + b"\n")
    _server.stdin.flush()
    return json.loads(_server.stdout.readline())


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever prints does not disturb the answers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C at the terminal is for pytest
    import peft  # noqa: F401
    import torch

    import unnorm
    import unnorm.artefacts.loading
    import unnorm.study.run_cell  # noqa: F401

    torch.set_num_threads(1)
    children: dict[int, int | None] = {}
    for line in sys.stdin.buffer:
        question = json.loads(line)
        if "poll" in question:
            pid = question["poll"]
            if children[pid] is None:
                ended, status = os.waitpid(pid, os.WNOHANG)
                children[pid] = os.waitstatus_to_exitcode(status) if ended else None
            answer = children[pid]
        else:
            answer = os.fork()
            if not answer:
                answers.close()
                _become(question)
            children[answer] = None
        answers.write(json.dumps(answer).encode() + b"\n")
    for pid, code in children.items():
        if code is None:
            os.kill(pid, signal.SIGKILL)


def _become(question: dict) -> None:
    """Run the program in this process, which has just been forked, and end."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for descriptor, name in ((1, "out"), (2, "err")):
            file = os.open(question[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        os.environ.clear()
        os.environ.update(question["env"])
        sys.argv = question["argv"]
        exec(compile(question["program"], "<program>", "exec"), {"__name__": "__main__"})
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
