import threading
import time

import pytest

from unnorm.cli.output import say
from unnorm.foundation import first_word
from unnorm.foundation.progress import Bar


@pytest.fixture
def lines(monkeypatch):
    """What is said to somebody who waits since now."""
    monkeypatch.setattr(first_word, "_said", threading.Event())
    found: list[str] = []
    first_word.say_unless_said(found.append, 0.4)
    return found


def later() -> None:
    time.sleep(0.8)


def test_who_waits_is_told(lines):
    later()
    assert lines == [first_word.WORD]


def test_who_was_told_something_is_not(lines):

    say("something")
    later()
    assert lines == []


def test_a_bar_is_something(lines):
    Bar("counting", 3)
    later()
    assert lines == []


def test_a_bar_that_nobody_sees_is_nothing(lines):
    Bar("counting", 3, quiet=True)
    later()
    assert lines == [first_word.WORD]
