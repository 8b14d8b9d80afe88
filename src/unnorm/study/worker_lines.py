"""Several workers' progress in one terminal: a line a worker, which changes; what is said stays above.

Where there is no terminal, every line is printed with its worker's number.
"""

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from unnorm.foundation.terminal import plain, shorten


class Lines:
    """Shows the workers' lines while open. `quiet` hides progress; what is said goes to `say` in any case."""

    def __init__(self, count: int, say: Callable[[str], None], *, quiet: bool = False) -> None:
        self._say, self._quiet = say, quiet
        self._lock = threading.Lock()
        self._current = ["starting"] * count
        console = Console(file=sys.stderr)
        self._live = None if quiet or not console.is_terminal else Live(console=console, transient=True)
        self.progress_seconds = 1.0 if self._live else 10.0

    def __enter__(self) -> "Lines":
        if self._live:
            self._live.start()
            self._draw()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def say(self, number: int, text: str) -> None:
        """A line of worker `number` (from 0) that stays."""
        self.show(f"worker {number + 1}: {plain(text)}")

    def show(self, text: str) -> None:
        """A line that stays."""
        with self._lock:
            if self._live:
                self._live.console.print(Text(text))
            else:
                self._say(text)

    def progress(self, number: int, text: str) -> None:
        """What worker `number` is doing now."""
        with self._lock:
            self._current[number] = text
        if self._live:
            self._draw()
        elif not self._quiet:
            with suppress(OSError):  # that nobody can read it any longer ends no work
                print(f"worker {number + 1}: {plain(text)}", file=sys.stderr, flush=True)

    def _draw(self) -> None:
        assert self._live is not None
        with self._lock:
            width = self._live.console.width - 12
            lines = [f"worker {n + 1}: {shorten(text, width)}" for n, text in enumerate(self._current)]
        self._live.update(Text("\n".join(lines)))
