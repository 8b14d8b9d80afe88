"""A recovered start as a task: a base is swapped, fitted and distilled into one folder that can be gone on with.

The pretrained norms may stay, and it may be trained by cross-entropy instead: the controls are made in the same way.

start.json         the base, the data and what was hashed, written when it begins
calibration.json   how the new norms were fitted, if any;  recovery.json  what the recovery did, and from which data
steps.jsonl        the log of every step;  evaluations.jsonl  the held-out gap at intervals
checkpoints/       to go on from; the model before it learnt is one of them
attempt.json       rows a forward, if they are fewer than a step has; threads computed on
model/             the artefact that cells begin from, at the end
lease/, events.jsonl, attempt-N/   as of a cell
"""

import copy
from pathlib import Path
from typing import Any

from unnorm.artefacts.loading import load
from unnorm.artefacts.saving import is_artefact, save
from unnorm.data.mixture import Mixture
from unnorm.data.prepare import Rows
from unnorm.foundation import atomic, ranks
from unnorm.foundation.errors import StartError
from unnorm.foundation.processes import is_main
from unnorm.foundation.progress import Say
from unnorm.study import threads
from unnorm.study.hooks import Hooks
from unnorm.study.lease import Lease, TaskFolder
from unnorm.study.ledger import standing_of
from unnorm.study.recover_model import note_recovery
from unnorm.study.recovered_start import MODEL, PlannedStart, StartSettings
from unnorm.study.recovery import recover_run
from unnorm.study.spread import train
from unnorm.study.start import CHOICE_TOKENS, recoverable_
from unnorm.study.tasks import Task
from unnorm.study.workbench import Workbench
from unnorm.tuning.recover_report import RecoverReport

MEASURED_EVERY = 200_000
"""Tokens between two looks at the held-out gap, which are checkpoints too; fewer where a tenth of all is."""
_SWAPPED = "checkpoints/swapped"


def name_of_start(settings: StartSettings) -> str:
    """A start's name, for people."""
    return f"start of {settings.model_name} / {settings.arm.id}"


def start_task(planned: PlannedStart, bench: Workbench, hooks: Hooks, *, tell: Say) -> Task:
    """The task of making a start in its folder. hooks: its `say` hears every stage; tell: only what went wrong."""
    name, settings = name_of_start(planned.settings), planned.settings
    about = {"model": settings.model_name, "data": settings.data_names, "settings": planned.resolved}

    def work(lease: Lease) -> str:
        own = hooks.of_lease(lease, name, tell, planned.folder / "start.json", {"start": planned.key, **about})
        made = make_start(settings, ranks.of_main(lease.attempt), bench, own)
        return RecoverReport(**made).describe()

    return Task(name, TaskFolder(planned.folder), planned.key, work)


def check_made(folder: Path) -> None:
    """A `StartError` unless the start in `folder` is done."""
    standing = standing_of(folder)
    if standing.state != "done":
        why = f"failed: {standing.error}" if standing.state == "failed" else f"is {standing.state}"
        raise StartError(f"its start {folder.name} {why}. study retry makes it again, then what begins from it.")


def make_start(settings: StartSettings, folder: Path, bench: Workbench, hooks: Hooks) -> dict[str, Any]:
    """Make the start in `folder`, or go on with it. What a `RecoverReport` says; where the memory does not suffice, it
    begins once more with fewer rows (`spread.train`)."""
    length = settings.data[0][0].max_length
    whole = settings.recovery().settings.training(length).batch_tokens // length

    def run(rows: int) -> dict[str, Any]:
        base = bench.base(settings.model)
        threads.go_on(folder, base.hash, base.model)
        return _make_start(settings, folder, bench, hooks, rows).to_dict()

    job = {"kind": "start", "settings": settings.model_dump(mode="json")}
    return train(job, folder, whole, settings.devices, hooks, run)


def _make_start(
    settings: StartSettings, folder: Path, bench: Workbench, hooks: Hooks, rows_per_forward: int
) -> RecoverReport:
    base = bench.base(settings.model)
    bench.let_go_of_start()
    swapped = folder / _SWAPPED
    if is_main() and not is_artefact(swapped):
        _swap(settings, folder, bench, hooks)
    ranks.of_all(None)
    # Loaded also where it was just made: whoever goes on with it has the same, bit for bit.
    model = load(swapped)
    report, parts = recover_run(
        model,
        base.model,
        base.tokenizer,
        settings.recovery(),
        folder,
        hooks,
        rows_per_forward=rows_per_forward,
        evaluate_every=max(1, min(MEASURED_EVERY, settings.wanted.tokens // 10)),
    )
    hooks.say(report.describe())
    hooks.check()
    names = settings.data_names
    data = [{"name": n, "weight": p.weight, "tokens": p.tokens} for n, p in zip(names, parts, strict=True)]
    note_recovery(model, report, data)
    if is_main():
        save(model, folder / MODEL, base.tokenizer)
        atomic.write_json(folder / "recovery.json", {**report.to_dict(), "data": data})
    return report


def _swap(settings: StartSettings, folder: Path, bench: Workbench, hooks: Hooks) -> None:
    """The model that learns: swapped, and fitted to the first rows of what it will learn from, if its norms are new."""
    base = bench.base(settings.model)
    model: Any = copy.deepcopy(base.model)
    rows: Rows | None = None
    if settings.arm.calibration_tokens is not None:
        mixture = Mixture(settings.data, base.tokenizer, packed=base.packs, quiet=hooks.quiet)
        rows = mixture.train(settings.arm.calibration_tokens + CHOICE_TOKENS, settings.wanted.seed)
    started = recoverable_(model, settings.arm, rows)
    if started is not None:
        hooks.say(started.describe())
        hooks.check()
        atomic.write_json(folder / "calibration.json", started.to_dict())
    save(model, folder / _SWAPPED, base.tokenizer)
