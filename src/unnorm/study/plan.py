"""What a study will do: its cells, each with its hash, resolved configuration and folder, and which of them are
compared in pairs. Trains nothing."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from unnorm.foundation.hashing import hash_json
from unnorm.foundation.precision import choose as choose_precision
from unnorm.study.arms import Arm
from unnorm.study.cell import CellSettings, cell_of, settled, start_of
from unnorm.study.failures import DIVERGED
from unnorm.study.ledger import cell_folder, folder_name, result_of, standing_of
from unnorm.study.recovered_start import PlannedStart, plan_start
from unnorm.study.slices import Place, Slot, without_hash
from unnorm.study.spec import StudyFile
from unnorm.study.tune import Choice, choose, slot_of, tries_of, with_rate
from unnorm.study.workbench import Workbench
from unnorm.surgery.base import check_length
from unnorm.surgery.patterns import select


class Planned(NamedTuple):
    """A cell of a study: its settings, hash, resolved configuration and folder; its start, where its arm recovers."""

    settings: CellSettings
    cell: str
    resolved: dict[str, Any]
    folder: Path
    start: PlannedStart | None = None


def starts_of(planned: Iterable[Planned]) -> list[PlannedStart]:
    """The starts that cells begin from, each once, in the cells' order."""
    return list({one.start.key: one.start for one in planned if one.start is not None}.values())


def place_of(settings: CellSettings) -> Place:
    return Place(settings.model_name, settings.dataset_name, settings.arm.id, settings.strategy, settings.seed)


def name_of(settings: CellSettings) -> str:
    """A cell's name, for people."""
    base, data = without_hash(settings.model_name), without_hash(settings.dataset_name)
    return " / ".join((base, data, settings.arm.id, settings.strategy, f"seed {settings.seed}"))


class Plan(NamedTuple):
    """search: the tries of the learning-rate search. cells: what the study is about, as far as their rates are known;
    pending: those whose rate is not, since a try of theirs is still to be run, for the first time or again, or all of
    theirs diverged. choices: the rates that were found."""

    search: list[Planned]
    cells: list[Planned]
    pending: list[CellSettings]
    choices: list[Choice]


def plan_study(spec: StudyFile, ledger: Path, bench: Workbench) -> Plan:
    """The study's cells. Loads bases and data, trains nothing; the user's mistakes in them show here."""
    wanted = spec.cells()
    with spec.blamed("training", "precision"):
        choose_precision(spec.training.precision)
    from unnorm.study.after.stages import check_stages  # which know what a planned cell is

    check_stages(spec)
    search = [_planned(spec, settings, ledger, bench) for settings in tries_of(spec, wanted)]
    choices = _choices(search)
    chosen = {choice.slot: choice.learning_rate for choice in choices}
    tuned = {slot_of(one.settings) for one in search}
    cells, pending = [], []
    for settings in wanted:
        slot = slot_of(settings)
        if slot not in tuned:
            cells.append(_planned(spec, settings, ledger, bench))
        elif slot in chosen:
            cells.append(_planned(spec, with_rate(settings, chosen[slot]), ledger, bench))
        else:
            pending.append(settings)
    return Plan(search, cells, pending, choices)


def _planned(spec: StudyFile, settings: CellSettings, ledger: Path, bench: Workbench) -> Planned:
    with spec.blamed("models", spec.model_names.index(settings.model_name)):
        base = bench.base(settings.model)
    with spec.blamed("training", "max_length"):
        check_length(base.model, settings.data.max_length)
    with spec.blamed("datasets", spec.dataset_names.index(settings.dataset_name)):
        bench.source(settings.data, settings.model)
    if settings.arm.artefact is not None:
        with spec.blamed("arms", _number_of(spec, settings.arm), "artefact"):
            bench.saved_identity(settings.model, settings.arm)
    _check_patterns(spec, settings, bench)
    settings = settled(settings, bench)
    _, resolved = cell_of(settings, bench)
    resolved = _as_it_was_begun(settings, resolved, ledger)
    cell = hash_json(resolved)
    wanted = start_of(settings)
    start = plan_start(wanted, bench, ledger) if wanted is not None else None
    return Planned(settings, cell, resolved, cell_folder(ledger, resolved, cell), start)


def _check_patterns(spec: StudyFile, settings: CellSettings, bench: Workbench) -> None:
    """A `SiteError` for a pattern of norm sites that means none of this base."""
    trained, recover = settings.training.train_sites, settings.arm.recover
    if trained is not None:
        with spec.blamed("training", "train_sites"):
            select(bench.sites(settings.model), trained)
    if recover is not None and recover.straighten_sites is not None:
        with spec.blamed("arms", _number_of(spec, settings.arm)):
            select(bench.sites(settings.model), list(recover.straighten_sites))


def _number_of(spec: StudyFile, arm: Arm) -> int:
    """Where the arm stands among the study's."""
    return [each.id for each in spec.resolved_arms()].index(arm.id)


def _as_it_was_begun(settings: CellSettings, resolved: dict[str, Any], ledger: Path) -> dict[str, Any]:
    """The configuration that the ledger has of the cell, if it was begun while a data set's given name was part of its
    hash; else `resolved`."""
    name = settings.data.name
    if name is None or cell_folder(ledger, resolved, hash_json(resolved)).is_dir():
        return resolved
    earlier = {**resolved, "data": {**resolved["data"], "name": name}}
    if settings.arm.recover is not None and settings.arm.recover.data is None:
        earlier["start"] = {**resolved["start"], "data": [name]}
    return earlier if cell_folder(ledger, earlier, hash_json(earlier)).is_dir() else resolved


def _choices(search: list[Planned]) -> list[Choice]:
    """A choice for every slot each of whose tries tells of its rate: it came to an end, as one did at least, or its
    training diverged. A try that failed in another way tells nothing, so its slot waits until the try is run again."""
    by_slot: dict[Slot, list[Planned]] = {}
    for one in search:
        by_slot.setdefault(slot_of(one.settings), []).append(one)
    found = []
    for slot, tries in by_slot.items():
        standings = [standing_of(one.folder) for one in tries]
        if all(standing.state == "done" or standing.failure == DIVERGED for standing in standings):
            losses = {
                one.settings.training.learning_rate: result_of(one.folder)["eval_loss"] if state == "done" else None
                for one, (state, *_) in zip(tries, standings, strict=True)
            }
            choice = choose(slot, losses)
            if choice is not None:
                found.append(choice)
    return found


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
