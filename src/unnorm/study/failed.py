"""What of a study failed: its cells, tries of its search that left a learning rate open, and stages after training."""

from typing import Literal, NamedTuple

from unnorm.study.slices import Slot
from unnorm.study.status import named_stages, stages_after
from unnorm.study.view import CellView, StudyView


class Failed(NamedTuple):
    """name: model, data set, arm, strategy and seed; then a try's learning rate, or the stage. cell: its hash."""

    kind: Literal["cell", "try", "stage"]
    name: tuple[str, ...]
    cell: str
    error: str


def failed_of(view: StudyView) -> list[Failed]:
    """Tries first, then cells in the plan's order, each with its stages; a pair's stages stand at its arm."""
    found = [
        Failed("try", (*_name(one), f"learning rate {one.tried_rate:g}"), one.cell, one.error or "")
        for tries in open_tries(view).values()
        for one in tries
        if one.state == "failed"
    ]
    pairs = {pair.place: pair.folder for pair in view.pairs}
    run = any(cell.folder is not None for cell in view.cells)
    named = named_stages(view) if run else {}
    for cell in view.cells:
        if cell.state == "failed":
            found.append(Failed("cell", _name(cell), cell.cell, cell.error or ""))
        for stage, standing in stages_after(cell, pairs.get(cell.place), named).items():
            if standing.state == "failed":
                found.append(Failed("stage", (*_name(cell), stage), cell.cell, standing.error or ""))
    return found


def open_tries(view: StudyView) -> dict[Slot, list[CellView]]:
    """The tries of each slot that got no learning rate; one that failed beside others is an answer, and no failure."""
    chosen = {Slot.of(choice) for choice in view.choices}
    tries: dict[Slot, list[CellView]] = {}
    for one in view.search:
        if one.place.slot not in chosen:
            tries.setdefault(one.place.slot, []).append(one)
    return tries


def _name(cell: CellView) -> tuple[str, ...]:
    return (cell.model, cell.dataset, cell.arm, cell.strategy, f"seed {cell.seed}")
