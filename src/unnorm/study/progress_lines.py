"""What several tasks are at, in one terminal: a line each, which changes; what is said stays above.

Where there is no terminal, every line is printed.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

from unnorm.foundation.terminal import plain, shorten
from unnorm.tuning.run_log import RunLog

if TYPE_CHECKING:
    from unnorm.study.tasks import Task

_MOST = 16
"""Lines at once."""


class Lines:
    """Shows lines by name until it is closed. `quiet` hides progress; what is said goes to `say` in any case."""

    def __init__(self, say: Callable[[str], None], *, quiet: bool = False) -> None:
        self._say, self._quiet = say, quiet
        self._lock = threading.Lock()
        self._current: dict[str, str] = {}
        self._shown: set[str] = set()
        console = Console(file=sys.stderr)
        self._live = None if quiet or not console.is_terminal else Live(console=console, transient=True)
        self.seconds = 1.0 if self._live else 10.0
        self._looked = time.monotonic()
        if self._live:
            self._live.start()

    def close(self) -> None:
        if self._live:
            self._live.stop()

    def show(self, text: str) -> None:
        """A line that stays."""
        text = plain(text)
        with self._lock:
            if self._live:
                self._live.console.print(Text(text))
            else:
                self._say(text)

    def show_new(self, lines: Iterable[str]) -> None:
        """Lines that stay, but for those that stand there already: every task warns of the data that it shares."""
        for text in lines:
            if text not in self._shown:
                self._shown.add(text)
                self.show(text)

    def progress(self, name: str, text: str) -> None:
        """What `name` is at now."""
        with self._lock:
            self._current[name] = text
        if self._live:
            self._draw()
        elif not self._quiet:
            with suppress(OSError):  # that nobody can read it any longer ends no work
                print(f"{name}: {plain(text)}", file=sys.stderr, flush=True)

    def look(self, tasks: Iterable["Task"]) -> None:
        """Show the last step of each that is at work somewhere, as the ledger has it, from time to time."""
        if self._quiet or time.monotonic() - self._looked < self.seconds:
            return
        self._looked = time.monotonic()
        at_work = ((task, task.at.attempts()) for task in tasks)
        for task, attempts in islice((pair for pair in at_work if pair[1]), _MOST):
            last = RunLog(attempts[-1][1] / "steps.jsonl").last()
            self.progress(task.name, f"step {last['step']}, loss {last['loss']:.4f}" if last else "begun")

    def forget(self, name: str) -> None:
        """It is at nothing any more."""
        with self._lock:
            self._current.pop(name, None)
        if self._live:
            self._draw()

    def _draw(self) -> None:
        assert self._live is not None
        with self._lock:
            width = self._live.console.width - 12
            lines = [f"{name}: {shorten(text, width)}" for name, text in self._current.items()]
        more = [f"and {len(lines) - _MOST} more"] * (len(lines) > _MOST)
        self._live.update(Text("\n".join([*lines[:_MOST], *more])))
