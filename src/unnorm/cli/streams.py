"""stdout and stderr as the shell gives them: closed, full, or of an encoding that has no Greek letters."""

import os
import sys
from typing import TextIO

from unnorm.foundation.errors import DiskError


def prepare() -> None:
    """Make printing safe. What an encoding lacks is replaced; a stream that is closed swallows what is printed.

    The number of a closed stream is taken at once: the next file to be opened would get it, and be printed into.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    if sys.stdout is None:
        sys.stdout = _nowhere()
    if sys.stderr is None:
        sys.stderr = _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict":
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def finish() -> None:
    """Bring what was printed to whoever reads it. A `DiskError` where it cannot be written.

    That the reader has gone, as `head` does, is nobody's mistake.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _give_up()
    except OSError as error:
        _give_up()
        raise DiskError(f"what was printed could not be written: {error.strerror}.") from error


def _give_up() -> None:
    """Let what is left go nowhere: Python would try once more on its way out, and complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8", errors="replace")
