"""One cell: a base is swapped, fine-tuned and measured, into one folder that can be resumed at any moment.

OUT/cell.json          the resolved configuration, its hash, and the state: running, done or failed
OUT/trainable.json     what trains, by group
OUT/calibration.json   how the new norms were fitted
OUT/recovery.json      how they were recovered, where they were
OUT/steps.jsonl        the log of every step;  OUT/evaluations.jsonl  the held-out loss at intervals
OUT/checkpoints/       to go on from;  OUT/scores.parquet  the held-out scores of each conversation, at the end
OUT/model/             the artefact, at the end;  OUT/result.json  the numbers
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from unnorm.artefacts.saving import save
from unnorm.data.prepare import Rows
from unnorm.data.settings import DataSettings
from unnorm.data.sources import counts_in_words
from unnorm.evaluation.conversation_scores import score_conversations, write_sums
from unnorm.evaluation.held_out import evaluate_rows
from unnorm.foundation import atomic
from unnorm.foundation.errors import ArtefactError, Interrupted, SettingsError
from unnorm.foundation.hashing import hash_json
from unnorm.study.arms import Arm
from unnorm.study.environment import run_environment
from unnorm.study.workbench import Workbench
from unnorm.surgery.patterns import select
from unnorm.surgery.recover import RecoverReport
from unnorm.surgery.sites import find_sites
from unnorm.surgery.swap import SwapReport
from unnorm.tuning.run_log import RunLog
from unnorm.tuning.settings import Strategy, TrainingSettings
from unnorm.tuning.site_monitor import SiteMonitor
from unnorm.tuning.strategies import Trainable, apply_strategy

Say = Callable[[str], None]


class CellSettings(BaseModel):
    """Everything that shapes a cell's result."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str
    arm: Arm
    strategy: Strategy = "frozen"
    data: DataSettings
    training: TrainingSettings = TrainingSettings()
    evaluation_tokens: int = Field(default=100_000, gt=0)
    evaluate_every_tokens: int = Field(default=200_000, gt=0)
    checkpoint_every_tokens: int = Field(default=200_000, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**32)
    epochs: int | None = Field(default=None, gt=0, description="until the data is read: stands for training.tokens")

    @property
    def model_name(self) -> str:
        """A hub id as it is; of a folder its last part."""
        return short_name(self.model)

    @property
    def dataset_name(self) -> str:
        return self.data.name or short_name(self.data.source)

    def resolved(self, base_hash: str, data_hash: str, encoding: dict[str, Any]) -> dict[str, Any]:
        """The configuration as plain values: its hash is the cell's name.

        Base and data are named by their content, not by where they lie; how often the run is saved changes no result.
        encoding: what else shapes the data's rows (`Source.encoding`).
        """
        left_out = {"model", "checkpoint_every_tokens", "data", "epochs"}
        return {
            "format": 1,
            "model": {"name": self.model_name, "hash": base_hash},
            "data": {
                "name": self.dataset_name,
                "hash": data_hash,
                **encoding,
            },
            **self.model_dump(exclude=left_out),
        }

    def rows_per_step(self) -> int:
        """Rows a step: batch_tokens / max_length, which must come out whole."""
        rows, rest = divmod(self.training.batch_tokens, self.data.max_length)
        if rest or not rows:
            raise SettingsError(
                f"batch_tokens ({self.training.batch_tokens}) must be a multiple of max_length "
                f"({self.data.max_length}): a step is made of whole rows."
            )
        return rows


def short_name(name: str) -> str:
    """A hub id as it is; of a path its last part, without a file's suffix."""
    path = Path(name).expanduser()
    return path.resolve().stem if path.is_file() else path.resolve().name if path.is_dir() else name


def settled(settings: CellSettings, bench: Workbench) -> CellSettings:
    """The same cell with its length in tokens, however the file gives it. Reads base and data."""
    if settings.epochs is None:
        return settings
    tokens = settings.epochs * bench.source(settings.data, settings.model).epoch_tokens()
    training = settings.training.model_copy(update={"tokens": tokens})
    return settings.model_copy(update={"training": training, "epochs": None})


def cell_of(settings: CellSettings, bench: Workbench) -> tuple[str, dict[str, Any]]:
    """(hash, resolved configuration) of a cell. Reads base and data, trains nothing; the user's mistakes show here."""
    settings.rows_per_step()
    base = bench.base(settings.model)
    source = bench.source(settings.data, settings.model)
    resolved = settings.resolved(base.hash, source.hash, source.encoding)
    return hash_json(resolved), resolved


def run_cell(
    settings: CellSettings,
    out: Path,
    *,
    bench: Workbench | None = None,
    quiet: bool = False,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Run the cell in the folder `out`, or go on with it, or hand back its result if it is done.

    Returns the numbers of result.json. bench: what the cell may share with others. say: called with a line for people
    at each stage. Raises `UnnormError`; what was finished stays, and the state in cell.json tells. Raises
    `Interrupted` when asked to stop.
    """
    bench = bench or Workbench(quiet=quiet)
    out = Path(out)
    cell, resolved = cell_of(settings, bench)
    if _is_finished(out, cell, resolved):
        say(f"{out} is finished already; nothing to do")
        return atomic.read_json(out / "result.json")  # type: ignore[no-any-return]
    # Whatever the user may have got wrong shows up to here, or while this is prepared; nothing is written before it.
    ready = _prepare(settings, bench, cell, out, quiet, say)
    write_state(out, cell, resolved, "running", None)
    try:
        result = _train(settings, ready, bench.base(settings.model).tokenizer, cell, out, say)
    except (Interrupted, KeyboardInterrupt) as stop:  # the latter outside of training, where there is nothing to save
        raise Interrupted from stop
    except Exception as error:
        write_state(out, cell, resolved, "failed", f"{type(error).__name__}: {error}")
        raise
    atomic.write_json(out / "result.json", result)
    write_state(out, cell, resolved, "done", None)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return result


def set_up(model: Any, settings: CellSettings) -> tuple[Any, Trainable, list[str]]:
    """Make a start train what the cell's strategy says: the model, what trains, and the paths of all its norm sites."""
    sites = find_sites(model)
    chosen = settings.training.train_sites
    trained = select(sites, chosen) if chosen is not None else sites
    model, trainable = apply_strategy(
        model,
        settings.strategy,
        site_paths=[site.path for site in trained],
        lora=settings.training.lora,
        seed=settings.seed,
    )
    return model, trainable, [site.path for site in sites]


class _Ready(NamedTuple):
    """Everything that a cell's training needs."""

    trainer: Any
    swap: SwapReport | None
    recovery: RecoverReport | None
    trainable: Trainable
    evaluations: RunLog
    evaluated: dict[int, dict[str, Any]]
    validation: Rows


def _prepare(settings: CellSettings, bench: Workbench, cell: str, out: Path, quiet: bool, say: Say) -> _Ready:
    from unnorm.tuning.trainer import TokenTrainer

    if not bench.base(settings.model).packs:
        say(f"rows packed into {settings.model_name} would leak into each other: padding instead, one row each")
    source = bench.source(settings.data, settings.model)
    validation = bench.validation_rows(settings.data, settings.model, settings.evaluation_tokens)
    train = bench.train_rows(settings.data, settings.model, settings.training.tokens, settings.seed)
    say(f"data understood as {', '.join(sorted(set(source.reading.formats.values())))}")
    say(
        f"{train.tokens:,} tokens to train on in {len(train.rows):,} rows, {validation.tokens:,} to evaluate on; "
        f"dropped: {counts_in_words(source.dropped)}; changed: {counts_in_words(source.changed)}"
    )
    model, swap, recovery = bench.start(
        settings.model, settings.arm, settings.data, settings.training.tokens, settings.seed
    )
    if swap is not None:
        say(_describe(swap))
    if recovery is not None:
        say(recovery.describe())
    model, trainable, paths = set_up(model, settings)
    say(trainable.describe())
    evaluations = RunLog(out / "evaluations.jsonl")
    evaluated = {record["step"]: record for record in evaluations.read()}

    def evaluate_at(step: int) -> None:
        if step not in evaluated:
            held_out = evaluate_rows(model, validation, quiet=True)
            evaluated[step] = {"step": step, "train_tokens": trainer.train_tokens, **held_out.to_dict()}
            evaluations.append(evaluated[step])

    trainer = TokenTrainer(
        model,
        settings.training,
        rows=train.rows,
        collate=train.collate,
        rows_per_step=settings.rows_per_step(),
        run=cell,
        folder=out,
        seed=settings.seed,
        monitor=SiteMonitor(model, paths),
        evaluate=evaluate_at,
        evaluate_every=max(1, settings.evaluate_every_tokens // settings.training.batch_tokens),
        checkpoint_every=max(1, settings.checkpoint_every_tokens // settings.training.batch_tokens),
        quiet=quiet,
    )
    return _Ready(trainer, swap, recovery, trainable, evaluations, evaluated, validation)


def _train(settings: CellSettings, ready: _Ready, tokenizer: Any, cell: str, out: Path, say: Say) -> dict[str, Any]:
    if ready.swap is not None:
        atomic.write_json(out / "calibration.json", ready.swap.to_dict())
    if ready.recovery is not None:
        atomic.write_json(out / "recovery.json", ready.recovery.to_dict())
    atomic.write_json(out / "trainable.json", ready.trainable.to_dict())
    ready.evaluations.cut_after(2**62)  # mends a line that a kill cut short
    ready.trainer.evaluate_now(0)
    say(f"held-out loss before training {ready.evaluated[0]['loss']:.4f}")
    ready.trainer.fit()
    write_sums(out / "scores.parquet", score_conversations(ready.trainer.model, tokenizer, ready.validation))
    save(ready.trainer.model, out / "model", tokenizer)
    return _result(settings, cell, ready.trainable, ready.trainer.log_file.read(), ready.evaluated)


def _describe(swap: SwapReport) -> str:
    fit = swap.calibration
    if fit is None:
        return f"swapped {len(swap.sites)} sites, bare"
    worst = min(fit.sites, key=lambda site: site.r2)
    corrected = f"; {len(fit.corrections)} linear layers corrected" if fit.corrections else ""
    return (
        f"swapped {len(swap.sites)} sites, calibrated on {fit.tokens:,} tokens in {fit.seconds:.1f} s; "
        f"lowest R² {worst.r2:.3f} at {worst.path}{corrected}"
    )


def _result(
    settings: CellSettings, cell: str, trainable: Any, steps: list[dict[str, Any]], evaluations: dict[int, Any]
) -> dict[str, Any]:
    first, last = evaluations[0], evaluations[max(evaluations)]
    wall = sum(
        step["tokens_per_second"] and _tokens_of(steps, i) / step["tokens_per_second"] for i, step in enumerate(steps)
    )
    return {
        "model": settings.model_name,
        "dataset": settings.dataset_name,
        "arm": settings.arm.id,
        "strategy": settings.strategy,
        "seed": settings.seed,
        "steps": steps[-1]["step"],
        "train_tokens": steps[-1]["train_tokens"],
        "trainable_parameters": trainable.trainable_parameters,
        "total_parameters": trainable.total_parameters,
        "start_eval_loss": first["loss"],
        "eval_loss": last["loss"],
        "loss_drop": 1 - last["loss"] / first["loss"],
        "eval_token_accuracy": last["token_accuracy"],
        "eval_tokens": last["tokens"],
        "grad_norm_last": steps[-1]["grad_norm"],
        "tokens_per_second": steps[-1]["train_tokens"] / wall,
        "wall_seconds": wall,
        "cell": cell,
        "environment": run_environment(),
    }


def _tokens_of(steps: list[dict[str, Any]], index: int) -> int:
    before = steps[index - 1]["train_tokens"] if index else 0
    return int(steps[index]["train_tokens"] - before)


def _is_finished(out: Path, cell: str, resolved: dict[str, Any]) -> bool:
    """Whether this cell is done in the folder `out`. An `ArtefactError` if the folder is another run's, or no run's."""
    state = out / "cell.json"
    if not state.is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ArtefactError(f"{out} is not empty and holds no run. Give another --out.")
        return False
    found = atomic.read_json(state)
    if found["cell"] != cell:
        different = [key for key in resolved if found["settings"].get(key) != resolved[key]]
        raise ArtefactError(
            f"{out} holds another run: it differs in {', '.join(different) or 'its version'}. "
            "Give another --out, or delete the folder."
        )
    return bool(found["state"] == "done")


def write_state(out: Path, cell: str, resolved: dict[str, Any], state: str, error: str | None) -> None:
    """Put a cell into a state, by one rename."""
    content = {"cell": cell, "state": state, "settings": resolved, "error": error}
    atomic.write_json(out / "cell.json", content)
