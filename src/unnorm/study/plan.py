"""What a study will do: its cells, each with its hash, resolved configuration and folder. Trains nothing."""

from pathlib import Path
from typing import Any, NamedTuple

from unnorm.study.cell import CellSettings, cell_of
from unnorm.study.ledger import cell_folder
from unnorm.study.spec import StudyFile
from unnorm.study.workbench import Workbench


class Planned(NamedTuple):
    """A cell of a study: its settings, hash, resolved configuration and folder."""

    settings: CellSettings
    cell: str
    resolved: dict[str, Any]
    folder: Path


def plan_cells(spec: StudyFile, ledger: Path, bench: Workbench) -> list[Planned]:
    """The study's cells. Loads bases and data, trains nothing; the user's mistakes in them show here."""
    planned = []
    for settings in spec.cells():
        cell, resolved = cell_of(settings, bench)
        planned.append(Planned(settings, cell, resolved, cell_folder(ledger, settings, cell)))
    return planned
