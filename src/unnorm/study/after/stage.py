"""What a stage after training is: one record, made in a file of its own and listed in `stages.py`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Stage(NamedTuple):
    """name: its key in the study file under `after`. of_pairs: whether it is about a `Pair`, an arm and the reference,
    rather than a `Planned` cell.

    folder: from its subject and the study's `spec.After`, what its entries and attempts are called; where it is made
    again for other settings this says so. key: hash of what shapes it, where the folder does not tell. run: make it, in
    the folder that is given, in silence or not; returns a line for people. needs: stages of the same cells that come
    before. alone: it measures time, so nothing runs beside it.
    """

    name: str
    of_pairs: bool
    folder: Callable[[Any, Any], str]
    run: Callable[[Any, Any, Path, bool], str]
    needs: tuple[str, ...] = ()
    key: Callable[[Any, Any], str] | None = None
    alone: bool = False
