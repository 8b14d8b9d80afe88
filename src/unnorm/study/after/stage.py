"""What a stage after training is: one record, made in a file of its own and listed in `stages.py`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from unnorm.artefacts.loading import load
from unnorm.artefacts.loading import merged as with_adapter_merged
from unnorm.study.plan import Planned
from unnorm.study.recovered_start import MODEL
from unnorm.study.spec import StudyFile


class Stage(NamedTuple):
    """name: its key in the study file under `after`. of_pairs: whether it is about a `CellPair`, an arm and the
    reference, rather than a `Planned` cell.

    folder: from its subject and the study's `sections.After`, what its entries and attempts are called; where it is
    made again for other settings this says so. key: hash of what shapes it, where the folder does not tell. run: make
    it, in the folder that is given, in silence or not; returns a line for people. needs: stages of the same cells that
    come before. alone: it measures time, so nothing runs beside it.

    read: from the cell's or pair's folder, what `folder` said, and whether logs are wanted, what a `CellView` or
    `PairView` shows of it: field -> value, or a name of its own, which is kept under `more`. rows: of the table that
    `study export` writes under its name. check: a mistake in its settings, before anything is trained. settings: what
    stands under its key, where `sections.After` has no field for it.
    """

    name: str
    of_pairs: bool
    folder: Callable[[Any, Any], str]
    run: Callable[[Any, Any, Path, bool], str]
    needs: tuple[str, ...] = ()
    key: Callable[[Any, Any], str] | None = None
    alone: bool = False
    read: Callable[[Path, str, bool], dict[str, Any]] = lambda folder, at, logs: {}
    rows: Callable[[Any], Sequence[Any]] = lambda study: ()
    check: Callable[[StudyFile], None] = lambda spec: None
    settings: type[BaseModel] | None = None


def load_model(cell: Planned, *, merged: bool = False) -> Any:
    """The fine-tuned model of a cell that is done. merged: with its adapter, if it has one, in its weights."""
    below = str(cell.start.folder / MODEL) if cell.start else cell.settings.arm.artefact or cell.settings.model
    base = None if cell.settings.strategy == "full" else below
    model = load(cell.folder / "model", base=base)
    return with_adapter_merged(model) if merged else model
