"""Progress on stderr, for everything that takes over two seconds: a bar on a terminal, sparse lines elsewhere."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from unnorm.foundation import first_word

T = TypeVar("T")
Say = Callable[[str], None]
"""Who is told a line for people."""

_scope: ContextVar[str] = ContextVar("scope", default="")

_line_every_seconds = 10.0
_MARKS = 13
_WIDE = 100  # columns from which on there is room for everything


def time_in_words(seconds: float) -> str:
    """As in `40 s`, `1 min`, `2 h 10 min`."""
    if seconds < 55:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def lines_every(seconds: float) -> None:
    """From now on, where there is no terminal, a bar prints a line at most this often."""
    global _line_every_seconds
    _line_every_seconds = seconds


@contextmanager
def scope(text: str) -> Iterator[None]:
    """While open, every bar's title begins with `text`: which part of a longer work it belongs to."""
    token = _scope.set(text)
    try:
        yield
    finally:
        _scope.reset(token)


class Bar:
    """One running count with a note beside it. Use as a context manager; `quiet` shows nothing."""

    def __init__(self, title: str, total: int | None, *, quiet: bool = False) -> None:
        title = _scope.get() + title
        self.title, self.total, self.done, self.note = title, total, 0, ""
        self._progress: Progress | None = None
        self._lines = False
        self._last_line = time.monotonic()
        self._marks: deque[tuple[float, int]] = deque(maxlen=_MARKS)
        """When how much was done: after the first step, and at the last few lines."""
        if quiet or sys.stderr is None:
            return
        first_word.said()
        console = Console(file=sys.stderr)
        if console.is_terminal:
            wide = console.width >= _WIDE
            counted = "{task.completed:,.0f} of {task.total:,.0f}" if total else "{task.completed:,.0f}"
            title_column = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # gives way to all the others
            self._progress = Progress(
                TextColumn("{task.description}", table_column=title_column),
                BarColumn(bar_width=24 if wide else 8),
                TextColumn(counted, table_column=Column(no_wrap=True)),
                *([TimeElapsedColumn(), TimeRemainingColumn()] if wide else [TimeRemainingColumn()]),
                TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True)),
                console=console,
                transient=True,
                expand=True,
            )
            self._task = self._progress.add_task(title, total=total, note="")
        else:
            self._lines = True

    def __enter__(self) -> "Bar":
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.stop()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more as done, and show `note` (our own words, never text from a model or a file)."""
        self.done += count
        self.note = note or self.note
        if self._progress:
            self._progress.update(self._task, advance=count, note=self.note)
        elif self._lines:
            self._advance_lines(time.monotonic())

    def _advance_lines(self, now: float) -> None:
        due = now - self._last_line > _line_every_seconds
        if due:
            self._last_line = now
            total = f"/{self.total}" if self.total else ""
            line = f"{self.title}: {self.done}{total} {self.note}".rstrip()
            with suppress(OSError):  # that nobody can read it any longer ends no work
                print(", ".join(filter(None, [line, self._left(now)])), file=sys.stderr, flush=True)
        if due or not self._marks:  # the first is not from 0: what an earlier run has done is counted at once
            self._marks.append((now, self.done))

    def _left(self, now: float) -> str:
        """The time left at the pace of the last few lines; empty while that is not known, and at the end."""
        if not self.total or not self._marks:
            return ""
        began, had = self._marks[0]
        if self.done <= had or self.done >= self.total or now <= began:
            return ""
        return f"{time_in_words((self.total - self.done) * (now - began) / (self.done - had))} left"


def track(items: Iterable[T], title: str, total: int | None = None, *, quiet: bool = False) -> Iterator[T]:
    """Yield `items` while a bar counts them."""
    with Bar(title, total, quiet=quiet) as bar:
        for item in items:
            yield item
            bar.advance()
