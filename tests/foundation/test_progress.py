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


def test_lines_say_the_time_left_at_the_pace_of_this_run(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Bar("training", 100) as bar:
        bar.advance(40)  # done by an earlier run
        for seconds in (20, 40, 100, 160):
            now[0] = seconds
            bar.advance(10, "loss 2.345")
        now[0] = 180
        bar.advance(20)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "training: 50/100 loss 2.345, 2 min left",
        "training: 60/100 loss 2.345, 1 min left",
        "training: 70/100 loss 2.345, 2 min left",
        "training: 80/100 loss 2.345, 1 min left",
        "training: 100/100 loss 2.345",
    ]


def test_lines_without_a_total_or_a_pace_say_no_time(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_line_every_seconds", -1.0)
    with Bar("reading", None) as bar:
        bar.advance(2)
        bar.advance(2)
    with Bar("training", 4) as bar:
        bar.advance(2)
        bar.advance(2)
    assert capsys.readouterr().err.splitlines() == ["reading: 2", "reading: 4", "training: 2/4", "training: 4/4"]


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
