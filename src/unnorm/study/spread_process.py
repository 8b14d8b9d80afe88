"""One of the processes that a cell, or a start, is spread over; `spread.py` starts them.

It does what it is told over a connection, together with the others. The main one tells what happens; the first one
that fails says why, and no other. When whoever started them is gone, they end.
"""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

import orjson

from unnorm.foundation import ranks
from unnorm.foundation.errors import Interrupted, RunError
from unnorm.foundation.processes import is_main
from unnorm.study.failures import failure_of
from unnorm.study.spread import ADDRESS, KEY, TOLD

_INTERRUPTED = 130
_SECONDS_ALONE = 20


def main() -> int:
    """Do the job; the exit code."""
    try:
        return _work()
    except KeyboardInterrupt:  # it was asked to stop while it was failing: another one has said why
        return _INTERRUPTED


def _work() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    with Client(os.environ[ADDRESS], authkey=os.environ[KEY].encode()) as connection:
        job = orjson.loads(connection.recv_bytes())
        try:
            ranks.join()
            result = _made(job, _teller(connection))
            if is_main():
                _teller(connection)("done", result)
            ranks.leave()
        except BaseException as error:
            first = ranks.fails_first()
            for number in (signal.SIGINT, signal.SIGTERM):  # which comes as soon as another one has ended
                signal.signal(number, signal.SIG_IGN if first else signal.SIG_DFL)
            if first:
                _say_why(connection, error)
            else:
                time.sleep(_SECONDS_ALONE)  # so that the first one can say it
            return _INTERRUPTED if isinstance(error, Interrupted | KeyboardInterrupt) else 1
    return 0


def _made(job: dict[str, Any], tell: Callable[..., None]) -> Any:
    """The cell, or the start, in its folder; only the main process tells."""
    from unnorm.study.cell import CellSettings
    from unnorm.study.fine_tune import fine_tune
    from unnorm.study.hooks import Hooks
    from unnorm.study.make_start import make_start
    from unnorm.study.recovered_start import StartSettings
    from unnorm.study.workbench import Workbench

    def kind(name: str) -> Callable[..., None]:
        return (lambda *content: tell(name, *content)) if is_main() else (lambda *content: None)

    quiet = job["quiet"] or not is_main()
    hooks = Hooks(**{name: kind(name) for name in TOLD}, report_to=tuple(job.get("report_to", ())), quiet=quiet)
    folder, bench = Path(job["folder"]), Workbench(quiet=quiet)
    if job["kind"] == "start":
        return make_start(StartSettings.model_validate(job["settings"]), folder, bench, hooks)
    start = Path(job["start"]) if job["start"] else None
    return fine_tune(CellSettings.model_validate(job["settings"]), job["cell"], folder, bench, hooks, start)


def _teller(connection: Connection) -> Callable[..., None]:
    def tell(kind: str, *content: Any) -> None:
        connection.send_bytes(orjson.dumps([kind, *content], option=orjson.OPT_NON_STR_KEYS))
        if not orjson.loads(connection.recv_bytes()):
            raise RunError("whoever started this run has stopped it.")

    return tell


def _say_why(connection: Connection, error: BaseException) -> None:
    memory = failure_of(error) == "out_of_memory"
    trace = "".join(traceback.format_exception(error))
    try:
        _teller(connection)("failed", type(error).__name__, str(error), memory, trace)
    except (OSError, EOFError):
        sys.stderr.write(trace)  # nobody listens any more


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_SECONDS_ALONE)
    os._exit(1)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # gloo's threads now and then abort a process that ends in the interpreter's own way
