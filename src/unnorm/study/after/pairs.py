"""Pairs of cells that differ in the arm alone: an arm and the reference, with the same seed and all else."""

from pathlib import Path
from typing import NamedTuple

from unnorm.foundation.hashing import hash_json
from unnorm.study.ledger import folder_name
from unnorm.study.plan import Planned, place_of
from unnorm.study.slices import Place


class CellPair(NamedTuple):
    """place: that of the arm. folder: of all that the two are compared by, shared by every study that has both."""

    arm: Planned
    against: Planned
    place: Place
    folder: Path


def pairs_of(cells: list[Planned], reference: str) -> list[CellPair]:
    """Each cell of another arm with the reference's cell at its place, where there is one."""
    at = {place_of(cell.settings): cell for cell in cells}
    found = []
    for place, arm in at.items():
        against = at.get(place._replace(arm=reference))
        if place.arm != reference and against is not None:
            own = place._replace(model=arm.resolved["model"]["name"], dataset=arm.resolved["data"]["name"])
            name = folder_name(own, hash_json([arm.cell, against.cell]))
            found.append(CellPair(arm, against, place, arm.folder.parent.parent / "pairs" / name))
    return found
