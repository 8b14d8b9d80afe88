"""What a run says of how far it is, by a clock of its own."""

import pytest

from unnorm.study import drive as module
from unnorm.study.drive import drive
from unnorm.study.engines.interface import Ended
from unnorm.study.lease import TaskFolder
from unnorm.study.tasks import Task, perform

CELLS = ["tiny / rows / original / full / seed 0", "tiny / rows / dyt / full / seed 0"]


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0

        @classmethod
        def monotonic(cls):
            return cls.now

        sleep = staticmethod(lambda seconds: None)

    monkeypatch.setattr(module, "time", Clock)
    return Clock


class Engine:
    """Does a task at once, in as many seconds as its name is given."""

    here = True

    def __init__(self, clock, seconds):
        self.clock, self.seconds, self.labels, self.ended = clock, seconds, [], []

    def has_room(self, wants):
        return not self.ended

    def submit(self, task, label):
        self.labels.append(label)
        perform(task, self.say)
        self.clock.now += self.seconds[task.name]
        self.ended.append(Ended(task.id))

    def finished(self):
        ended, self.ended = self.ended, []
        return ended

    def say(self, line):
        pass

    def cancel(self):
        pass


def task(folder, name, stage="", needs=()):
    return Task(name, TaskFolder(folder, stage), name, lambda lease: "made", needs)


def test_a_long_start_says_nothing_of_the_cells_time(tmp_path, clock):
    start = task(tmp_path / "starts" / "s", "recovered start of dyt")
    cells = [task(tmp_path / "cells" / name.replace("/", "-"), name) for name in CELLS]
    after = [task(cell.at.path, f"completions of {cell.name}", "completions") for cell in cells]
    seconds = {start.name: 3600, **dict.fromkeys(CELLS, 60), **{each.name: 30 for each in after}}
    engine = Engine(clock, seconds)
    drive([start, *cells, *after], engine)
    assert engine.labels == [
        "1/5 recovered start of dyt",
        "2/5 original / full / seed 0",
        "3/5 (over 1 min left) dyt / full / seed 0",
        "4/5 completions of original / full / seed 0",
        "5/5 (about 30 s left) completions of dyt / full / seed 0",
    ]


def test_names_keep_what_tells_them_apart():
    two = [CELLS[0], CELLS[1].replace("rows", "lines")]
    assert module._shared(two) == ""
    assert module._shared(CELLS) == "tiny / rows / "
