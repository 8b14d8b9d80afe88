"""What a study keeps of itself beside its cells: study.json (what it is about), audit.json and the results' tables."""

from pathlib import Path
from typing import Any

from unnorm.artefacts.manifest import library_versions
from unnorm.foundation import atomic
from unnorm.study import ledger as ledger_module
from unnorm.study.after.stages import folders_of
from unnorm.study.plan import CellPair, Plan, Planned, place_of, starts_of
from unnorm.study.sections import After
from unnorm.study.spec import StudyFile
from unnorm.study.tables import write_results
from unnorm.study.tune import Choice
from unnorm.study.view import STUDY, read_study


def write_study(folder: Path, spec: StudyFile, source: str, plan: Plan, pairs: list[CellPair]) -> None:
    """Write study.json. source: the study file's text. Cells and pairs have the folders of their stages with them."""
    content = {
        "format": ledger_module.FORMAT,
        "name": spec.name,
        "source": source,
        "arms": [arm.id for arm in spec.resolved_arms()],
        "strategies": list(spec.strategies),
        "models": spec.model_names,
        "datasets": spec.dataset_names,
        "seeds": list(spec.seeds),
        "cells": _in_order(spec, plan),
        "starts": _starts([*plan.search, *plan.cells]),
        "search": [{**_entry(one), "learning_rate": one.settings.training.learning_rate} for one in plan.search],
        "choices": [_choice(choice) for choice in plan.choices],
        "pairs": [_pair(pair, spec.after) for pair in pairs],
        "versions": library_versions(),
    }
    atomic.write_json(folder / STUDY, content)


def conclude(folder: Path) -> None:
    """Write what follows from the cells as they stand: the audit, for people, and the results' tables."""
    study = read_study(folder, logs=False)
    atomic.write_json(folder / "audit.json", study.audit)
    write_results(study)


def _starts(planned: list[Planned]) -> list[dict[str, Any]]:
    """An entry a start, and which arms begin from it."""
    return [
        {
            "key": start.key,
            "model": start.settings.model_name,
            "arms": sorted({p.settings.arm.id for p in planned if p.start is not None and p.start.key == start.key}),
            "data": start.settings.data_names,
            "tokens": start.settings.wanted.tokens,
            "train": start.settings.wanted.train,
            "seed": start.settings.wanted.seed,
        }
        for start in starts_of(planned)
    ]


def _in_order(spec: StudyFile, plan: Plan) -> list[dict[str, Any]]:
    """An entry a cell, in the matrix's order; of those whose learning rate is not known yet without hash and folder."""
    entries = {place_of(one.settings): {**_entry(one), "stages": folders_of(one, spec.after)} for one in plan.cells}
    entries |= {place: {**place._asdict(), "cell": "", "folder": ""} for place in map(place_of, plan.pending)}
    return [entries[place_of(settings)] for settings in spec.cells()]


def _entry(planned: Planned) -> dict[str, Any]:
    return {"cell": planned.cell, "folder": planned.folder.name, **place_of(planned.settings)._asdict()}


def _pair(pair: CellPair, after: After) -> dict[str, Any]:
    about = {"against": pair.against.settings.arm.id, "folder": pair.folder.name}
    return {**pair.place._asdict(), **about, "stages": folders_of(pair, after)}


def _choice(choice: Choice) -> dict[str, Any]:
    tries = [{"learning_rate": one.learning_rate, "loss": one.loss} for one in choice.tries]  # JSON: inf is null
    return {**choice.slot._asdict(), "learning_rate": choice.learning_rate, "at_edge": choice.at_edge, "tries": tries}
