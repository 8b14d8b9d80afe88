"""One worker process: it is told the work on stdin, and runs the same loop as anybody on the same ledger.

Lines for people go to stdout, progress to stderr. When stdin ends, whoever started it is gone, and it stops in order.
Started as `python -m unnorm.study.worker` by `workers.py`.
"""

import os
import signal
import sys
import threading

import orjson

from unnorm.foundation import progress
from unnorm.foundation.errors import Interrupted, UnnormError

INTERRUPTED, TOLD = 130, 3
"""Exit codes: asked to stop; ended by an error that the last line on stdout tells."""


def main() -> int:
    """Work until nothing is open; the exit code."""
    for stream in (sys.stdout, sys.stderr):  # a pipe to whoever started this, which reads UTF-8
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    for number in (signal.SIGINT, signal.SIGTERM):  # whoever started this may have left them ignored
        signal.signal(number, signal.default_int_handler)
    try:
        content = orjson.loads(sys.stdin.buffer.readline())
        threading.Thread(target=_stop_with_parent, daemon=True).start()
        progress.lines_every(content["progress_seconds"])
        _work(content)
    except (Interrupted, KeyboardInterrupt):
        return INTERRUPTED
    except UnnormError as error:
        _say(str(error))
        return TOLD
    return 0


def _work(content: dict[str, object]) -> None:
    from unnorm.study.tasks import Timing
    from unnorm.study.work import work_from, work_through
    from unnorm.study.workbench import Workbench

    work = work_from(content["work"])  # type: ignore[arg-type]
    work_through(work, Workbench(quiet=work.quiet), say=_say, timing=Timing(*content["timing"]))  # type: ignore[misc]


def _say(text: str) -> None:
    print(text, flush=True)


def _stop_with_parent() -> None:
    while os.read(0, 4096):  # not through sys.stdin: a thread that waits in there aborts the interpreter's end
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
