"""Silence what a library says by its logger, and its progress bars."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def errors_alone(name: str) -> Iterator[None]:
    """While open, the logger `name` passes on nothing below an error."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def without_bars() -> Iterator[None]:
    """While open, transformers and the hub's client draw no progress bars; what takes long here draws its own."""
    from transformers.utils import logging as bars

    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()
