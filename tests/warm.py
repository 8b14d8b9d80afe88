"""Processes of their own that are ready at once: torch and transformers are imported here once, and each is forked off.

For tests that kill, interrupt or restart what they run; a process that begins from nothing takes many seconds before it
does anything. Nothing has computed where the fork happens, so there are no threads to lose.

`run` and `start` are for programs of a test's own. `interpreter` is for what starts processes by itself: a file to put
in place of `sys.executable`. It hands its arguments, environment, streams and signals on to a process that is forked.
What depends on how an interpreter begins, or on what libraries read when they are imported, needs a real one.
"""

import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache
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
        if self.poll() is None:
            pidfd = os.pidfd_open(self.pid)  # readable when it ends; asking again and again would take its time away
            try:
                ended, _, _ = select.select([pidfd], [], [], timeout)
            finally:
                os.close(pidfd)
            if not ended:
                self.send_signal(signal.SIGKILL)
                raise TimeoutError(f"the process has not ended within {timeout:.0f} s; it said {self.stderr[-2000:]}")
        while self.poll() is None:
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
    folder = Path(tempfile.mkdtemp(dir=_home()))
    out, err = folder / "out", folder / "err"
    told = {"program": program, "argv": ["-c", *map(str, arguments)], "out": str(out), "err": str(err)}
    return Process(_ask({**told, "env": {**os.environ, **(env or {})}}), out, err)


def run(program: str, *arguments: object, env: Mapping[str, str] | None = None) -> Done:
    process = start(program, *arguments, env=env)
    code = process.wait()
    return Done(code, process.stdout, process.stderr)


STAND_IN = """#!{python} -IS
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [b"fds"], [0, 1, 2])
told = {{"argv": sys.argv, "env": dict(os.environ), "cwd": os.getcwd(), "leads": os.getsid(0) == os.getpid()}}
server.sendall(json.dumps(told).encode() + b"\\n")
answers = server.makefile("rb")
child = int(answers.readline())
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, lambda number, frame: os.kill(child, number))
code = int(answers.readline())
if code < 0:
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""
"""What stands in for an interpreter, and costs next to nothing; when it is killed, the forked process is too."""


def interpreter() -> str:
    """The path of a Python that is ready at once: it understands -m, -c and a script, and those alone."""
    _ask({})
    return str(_home() / "python")


_server: subprocess.Popen | None = None


@cache
def _home() -> Path:
    """A folder of this process, which goes with it."""
    folder = tempfile.TemporaryDirectory(prefix="unnorm-warm-", ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    return Path(folder.name)


def _ask(question: dict) -> int | None:
    global _server
    if _server is None:
        stand_in = _home() / "python"
        stand_in.write_text(STAND_IN.format(python=sys.executable, address=str(_home() / "socket")))
        stand_in.chmod(0o755)
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "warm", str(_home() / "socket")]
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
    import scipy.stats  # noqa: F401
    import torch
    import torch.distributed.run
    import transformers.trainer  # noqa: F401
    from transformers import GPT2LMHeadModel, GPTNeoXForCausalLM, LlamaForCausalLM  # noqa: F401

    import unnorm.artefacts.loading
    import unnorm.cli.main
    import unnorm.study.run_cell
    import unnorm.study.run_study  # noqa: F401

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # what is there to stay is not walked through by each collection of each process
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    listener.listen()
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ, "asked")
    selector.register(listener, selectors.EVENT_READ, "stand-in")
    children: dict[int, int | None] = {}
    stood_in: dict[int, int] = {}  # of a connection or a pidfd -> its process
    while True:
        for key, _ in selector.select():
            if key.data == "asked":
                line = _line(0)
                if not line:
                    for pid in [*(p for p, code in children.items() if code is None), *set(stood_in.values())]:
                        os.kill(pid, signal.SIGKILL)
                    return
                answers.write(json.dumps(_answer(json.loads(line), children)).encode() + b"\n")
            elif key.data == "stand-in":
                connection, _ = listener.accept()
                _, streams, *_ = socket.recv_fds(connection, 3, 3)
                question = json.loads(_line(connection.fileno()))
                pid = os.fork()
                if not pid:
                    _become_python(question, streams)
                for stream in streams:
                    os.close(stream)
                connection.sendall(b"%d\n" % pid)
                pidfd = os.pidfd_open(pid)
                stood_in |= {pidfd: pid, connection.fileno(): pid}
                selector.register(pidfd, selectors.EVENT_READ, connection)
                selector.register(connection, selectors.EVENT_READ, "left")
            elif key.data == "left":  # it was killed
                os.kill(stood_in[key.fd], signal.SIGKILL)
                selector.unregister(key.fileobj)
            else:
                connection = key.data
                _, status = os.waitpid(stood_in.pop(key.fd), 0)
                selector.unregister(key.fd)
                os.close(key.fd)
                stood_in.pop(connection.fileno())
                with contextlib.suppress(KeyError):
                    selector.unregister(connection)
                with contextlib.suppress(OSError), connection:
                    connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _line(descriptor: int) -> bytes:
    """Up to the end of a line, and no byte more; nothing at the end."""
    found = b""
    while not found.endswith(b"\n") and (piece := os.read(descriptor, 1 << 16)):
        found += piece
    return found


def _answer(question: dict, children: dict[int, int | None]) -> int | None:
    if "poll" in question:
        pid = question["poll"]
        if children[pid] is None:
            ended, status = os.waitpid(pid, os.WNOHANG)
            children[pid] = os.waitstatus_to_exitcode(status) if ended else None
        return children[pid]
    if not question:  # whether it is there
        return 0
    pid = os.fork()
    if not pid:
        names = (
            (os.devnull, os.O_RDONLY),
            *((question[n], os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for n in ("out", "err")),
        )
        _become(question, [os.open(*name) for name in names], lambda: _exec(question["program"]))
    children[pid] = None
    return pid


def _become_python(question: dict, streams: list[int]) -> None:
    """Do in this process, which has just been forked, what an interpreter with these arguments does."""
    stand_in, *rest = question["argv"]
    if rest[0] == "-u":
        del rest[0]
    what, rest = (rest[0], rest[1:]) if rest[0] in ("-m", "-c") else ("", rest)

    def run() -> None:
        import torch

        sys.executable = stand_in
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        found = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        sys.path[:0] = [os.getcwd() if what else str(Path(rest[0]).parent), *filter(None, found)]
        if what == "-m":
            sys.modules.pop(rest[0], None)
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif what == "-c":
            _exec(rest[0])
        else:
            runpy.run_path(rest[0], run_name="__main__")

    if question["leads"]:
        os.setsid()
    os.chdir(question["cwd"])
    _become({**question, "argv": ["-c", *rest[1:]] if what == "-c" else rest}, streams, run)


def _exec(program: str) -> None:
    exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})


def _become(question: dict, streams: list[int], run: Callable[[], None]) -> None:
    """Run what is asked for in this process, which has just been forked, and end."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for descriptor, stream in enumerate(streams):
            os.dup2(stream, descriptor)
            os.close(stream)
        encoding = question["env"].get("PYTHONIOENCODING", "utf-8")
        sys.stdin, sys.stdout = open(0, encoding=encoding), open(1, "w", encoding=encoding)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace")  # noqa: SIM115
        os.environ.clear()
        os.environ.update(question["env"])
        sys.argv = question["argv"]
        run()
        code = 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
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
