"""A word for whoever waits while libraries load, before anything else has been said."""

import threading
from collections.abc import Callable

SECONDS = 2.0
WORD = "starting, which takes some seconds"
_said = threading.Event()


def said() -> None:
    """Something was shown: nobody waits for a first word any more."""
    _said.set()


def say_unless_said(say: Callable[[str], None], seconds: float = SECONDS) -> None:
    """Say `WORD` if nothing is said within `seconds`. Never keeps the process alive."""

    def late() -> None:
        if not _said.is_set():
            say(WORD)

    timer = threading.Timer(seconds, late)
    timer.daemon = True
    timer.start()
