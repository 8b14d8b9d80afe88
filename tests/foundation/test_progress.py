import io
import sys

import pytest
from rich.console import Console

from unnorm.foundation import progress
from unnorm.foundation.progress import Bar, scope, time_in_words


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("width", [80, 120])
def test_a_long_title_leaves_room_for_bar_and_count_and_time(monkeypatch, width):
    said = Terminal()
    monkeypatch.setattr(sys, "stderr", said)
    monkeypatch.setattr(progress, "Console", lambda file: Console(file=file, width=width, force_terminal=True))
    label = "12/21 (about 3 min left) a base of a long name / some data / dyt-recovered / selective / seed 0: "
    with scope(label), Bar("training", 1200) as bar:
        bar.advance(300, "loss 2.345")
        bar._progress.refresh()
    line = next(line for line in said.getvalue().split("\r") if "300 of" in line)
    assert "12/21 (about 3 min left)" in line
    for part in ("…", "━", "300 of 1,200", "-:--:--", "loss 2.345"):
        assert part in line, part


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (40, "40 s"), (56, "1 min"), (89, "1 min"), (600, "10 min"), (7_800, "2 h 10 min")],
)
def test_times_are_said_as_people_say_them(seconds, words):
    assert time_in_words(seconds) == words


def test_the_bars_of_libraries_are_off_for_a_while_and_then_as_they_were():
    from transformers.utils import logging

    from unnorm.foundation.quiet import without_bars

    for before in (True, False):
        (logging.enable_progress_bar if before else logging.disable_progress_bar)()
        with without_bars():
            assert not logging.is_progress_bar_enabled()
        assert logging.is_progress_bar_enabled() is before
    logging.enable_progress_bar()
