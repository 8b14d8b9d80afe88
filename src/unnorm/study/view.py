"""A study as it stands on disk, for whoever draws or counts it: plain records, and the audit of its cells; nothing
written."""

from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from unnorm.foundation import atomic
from unnorm.foundation.errors import ArtefactError, DataError
from unnorm.study.attempt import working_folder
from unnorm.study.audit import audit_results
from unnorm.study.lease import TaskFolder
from unnorm.study.ledger import FORMAT, check_format, other_format, result_of, standing_of
from unnorm.study.recovered_start import STARTS
from unnorm.study.slices import Place, Slot, reference_of
from unnorm.study.start_words import read_recovery
from unnorm.tuning.run_log import RunLog

STUDY = "study.json"
COMPLETIONS = "completions.jsonl"
SCORES = "scores.parquet"
"""What the fine-tuned model scored on each held-out conversation."""
MARGIN = 0.01
"""The margin of the equivalence test where none is asked for: 1 % of the loss that is compared with."""
TASK_SCORES = "scores.parquet"
"""What it scored on each question of tasks, in the folder of that stage."""


@dataclass(frozen=True)
class CellView:
    """One cell. `result`, `steps`, `evaluations` and so on: what the files of its folder hold; empty where absent."""

    cell: str
    model: str
    dataset: str
    arm: str
    strategy: str
    seed: int
    state: str
    """As of `ledger.Standing`."""
    error: str | None
    result: dict[str, Any] | None
    """The numbers of result.json; only of a cell that is done."""
    steps: list[dict[str, Any]] = field(repr=False, default_factory=list)
    """One record a training step: step, train_tokens, loss, token_accuracy, grad_norm, alpha {path: value}, ..."""
    evaluations: list[dict[str, Any]] = field(repr=False, default_factory=list)
    """step, train_tokens, loss, token_accuracy, tokens."""
    calibration: dict[str, Any] | None = field(repr=False, default=None)
    """sites, specs, and `calibration` {tokens, seconds, sites: [{path, r2, alpha, saturation, seconds, sample}]} or
    None."""
    recovery: dict[str, Any] | None = field(repr=False, default=None)
    """`tuning.recover.RecoverReport.to_dict()` of the start, and `data` [{name, weight, tokens}]; None without one."""
    completions: list[dict[str, Any]] = field(repr=False, default_factory=list)
    """prompt_id, category, turn, prompt, text, finish_reason, ...; untrusted text."""
    failure: str | None = None
    """The class of the failure (`failures.Failure`), where there is one."""
    folder: Path | None = None
    """None while the cell's learning rate is still to be found."""
    tried_rate: float | None = None
    """Of a try of the search: its learning rate."""
    more: dict[str, Any] = field(repr=False, default_factory=dict)
    """What stages without a field of their own have left, by the names that they give it."""

    @property
    def place(self) -> Place:
        return Place(self.model, self.dataset, self.arm, self.strategy, self.seed)

    @property
    def done(self) -> bool:
        return self.state == "done"


@dataclass(frozen=True)
class PairView:
    """Two arms' cells that differ in the arm alone, compared after training; empty where a stage was not run."""

    model: str
    dataset: str
    strategy: str
    seed: int
    arm: str
    against: str
    judge: dict[str, Any] | None = None
    """`evaluation.preference.compare.Comparison.to_dict()`, A = arm, B = against."""
    verdicts: list[dict[str, Any]] = field(repr=False, default_factory=list)
    """One record a question judged as a whole: prompt_id, category, value (1 arm wins, 0.5, 0, None), score, a_length,
    b_length (characters)."""
    latency: dict[str, Any] | None = None
    """`evaluation.latency.LatencyReport.to_dict()`; the models in it are named by their arms."""
    folder: Path | None = None
    more: dict[str, Any] = field(repr=False, default_factory=dict)
    """As of a cell."""

    @property
    def place(self) -> Place:
        """Of the arm's cell."""
        return Place(self.model, self.dataset, self.arm, self.strategy, self.seed)


@dataclass(frozen=True)
class StartView:
    """A recovered start that cells of `arms` begin from. data: names; tokens: to learn from, at most."""

    key: str
    model: str
    arms: list[str]
    data: list[str]
    tokens: int
    train: str
    seed: int
    state: str
    """As of `ledger.Standing`."""
    error: str | None
    failure: str | None
    folder: Path
    recovery: dict[str, Any] | None = field(repr=False, default=None)
    """As `CellView.recovery`; None until it is made."""


@dataclass(frozen=True, eq=False)
class StudyView:
    """A study: its name, its file as it was run, its arms and strategies and so on in order, its cells, its audit."""

    name: str
    folder: Path
    source: str
    arms: list[str]
    strategies: list[str]
    models: list[str]
    datasets: list[str]
    seeds: list[int]
    cells: list[CellView]
    audit: dict[str, Any]
    """What `audit_results` says of the cells that are done."""
    versions: dict[str, str]
    pairs: list[PairView] = field(default_factory=list)
    search: list[CellView] = field(default_factory=list)
    """The tries of the learning-rate search, where there was one."""
    choices: list[dict[str, Any]] = field(default_factory=list)
    """model, dataset, arm, strategy, learning_rate, at_edge, tries [{learning_rate, loss}]."""
    starts: list[StartView] = field(default_factory=list)
    margin: float = MARGIN
    """The gap in held-out loss, above or below, relative, that counts as none: whoever asks for comparisons sets it."""
    tasks: str | None = None
    """The folder in each cell's that holds its scores on tasks (`TASK_SCORES`), where the study asks for any."""

    @property
    def reference(self) -> str:
        """The arm that the others are compared with."""
        return reference_of(self.arms)

    @cached_property
    def done(self) -> dict[Place, CellView]:
        """The cells that are done."""
        return {cell.place: cell for cell in self.cells if cell.done}

    @property
    def tuned(self) -> set[Slot]:
        """What the search chose a learning rate for."""
        return {Slot.of(choice) for choice in self.choices}

    def beside(self, cell: CellView) -> CellView | None:
        """The reference's cell that one is compared with; None where it is not done, or where it is the same."""
        return self.done.get(cell.place._replace(arm=self.reference)) if cell.arm != self.reference else None

    @property
    def strata(self) -> list[tuple[str, str, str]]:
        """Every one (`Place.stratum`), in order."""
        return list(product(self.models, self.datasets, self.strategies))


def read_study(folder: Path, *, logs: bool = True, margin: float = MARGIN) -> StudyView:
    """The study in `folder` (LEDGER/STUDY). logs: read steps, evaluations and completions too. margin: see `StudyView`.

    The audit is made from the cells as they are: audit.json, which a run writes at its end, may be of other cells.

    A folder that holds no study, a damaged or a newer ledger: `ArtefactError`.
    """
    folder = Path(folder)
    path = folder / STUDY
    if not path.is_file():
        raise ArtefactError(
            f"{folder} holds no {STUDY}, so no study was run there. Give the folder that a run printed."
        )
    ledger = folder.resolve().parent
    check_format(ledger)
    try:
        content = atomic.read_json(path)
        found = content["format"]
        if found != FORMAT:
            raise ArtefactError(f"{path} {other_format(found)}")
        cells = [_cell(ledger / "cells", entry, logs) for entry in content["cells"]]
        done = {cell.place: cell.folder for cell in cells if cell.done and cell.folder is not None}
        choices = content.get("choices", [])
        return StudyView(
            name=content["name"],
            folder=folder,
            source=content["source"],
            arms=content["arms"],
            strategies=content["strategies"],
            models=content["models"],
            datasets=content["datasets"],
            seeds=content["seeds"],
            cells=cells,
            audit=audit_results(done, content["arms"], tuned={Slot.of(choice) for choice in choices}),
            versions=content["versions"],
            search=[_cell(ledger / "cells", entry, False) for entry in content.get("search", [])],
            choices=choices,
            starts=[_start(ledger / STARTS, entry) for entry in content.get("starts", [])],
            pairs=[_pair(ledger / "pairs", entry, logs) for entry in content.get("pairs", [])],
            margin=margin,
            tasks=next((entry["stages"].get("tasks") for entry in content["cells"] if entry["cell"]), None),
        )
    except DataError as error:
        raise ArtefactError(str(error)) from error
    except (KeyError, TypeError) as error:
        raise ArtefactError(f"{path} is damaged ({error!r}). Run the study again; finished cells are kept.") from error


def _start(starts: Path, entry: dict[str, Any]) -> StartView:
    folder = starts / Path(entry["key"]).name
    state, error, failure, _ = standing_of(folder)
    return StartView(**entry, state=state, error=error, failure=failure, folder=folder, recovery=read_recovery(folder))


def _pair(pairs: Path, entry: dict[str, Any], logs: bool) -> PairView:
    folder = pairs / Path(entry["folder"]).name
    named = Place.of(entry)._asdict()
    return PairView(**named, against=entry["against"], folder=folder, **_found(PairView, entry, folder, logs))


def _found(kind: type, entry: dict[str, Any], folder: Path, logs: bool) -> dict[str, Any]:
    """What stages have left, as fields of `kind`."""
    from unnorm.study.after.stages import read_stages  # which know this module

    found = read_stages(entry.get("stages", {}), folder, logs=logs)
    own = {name: value for name, value in found.items() if name in {each.name for each in fields(kind)}}
    return {**own, "more": {name: value for name, value in found.items() if name not in own}}


def _cell(cells: Path, entry: dict[str, Any], logs: bool) -> CellView:
    named = Place.of(entry)._asdict()
    if not entry["cell"]:
        return CellView(**named, cell="", state="waiting", error="its learning rate is not found yet", result=None)
    folder = cells / Path(entry["folder"]).name
    state, error, failure, _ = standing_of(folder)
    files = working_folder(TaskFolder(folder))
    calibration = files / "calibration.json"
    return CellView(
        **named,
        cell=entry["cell"],
        state=state,
        error=error,
        result=result_of(folder) if state == "done" else None,
        steps=RunLog(files / "steps.jsonl").read() if logs else [],
        evaluations=RunLog(files / "evaluations.jsonl").read() if logs else [],
        calibration=atomic.read_json(calibration) if calibration.is_file() else None,
        recovery=read_recovery(files),
        failure=failure,
        folder=folder,
        tried_rate=entry.get("learning_rate"),
        **_found(CellView, entry, folder, logs),
    )
