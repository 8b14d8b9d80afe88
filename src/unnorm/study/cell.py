"""One cell: a base is swapped, fine-tuned and measured, into one folder that can be resumed at any moment.

OUT/cell.json          the resolved configuration, its hash, and the state: running, done or failed
OUT/trainable.json     what trains, by group
OUT/calibration.json   how the new norms were fitted
OUT/steps.jsonl        the log of every step;  OUT/evaluations.jsonl  the held-out loss at intervals
OUT/checkpoints/       to go on from
OUT/model/             the artefact, at the end;  OUT/result.json  the numbers
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from unnorm.data.prepare import DataSettings, Source
from unnorm.evaluation.held_out import evaluate_rows
from unnorm.foundation import atomic
from unnorm.foundation.errors import ArtefactError, SettingsError, UnnormError
from unnorm.foundation.hashing import hash_json, hash_tensors
from unnorm.study.arms import Arm, arm_of
from unnorm.surgery.artefact import save
from unnorm.surgery.base import check_length, load_base, load_tokenizer
from unnorm.surgery.patterns import select
from unnorm.surgery.sites import find_sites
from unnorm.surgery.swap import SwapReport, swap_
from unnorm.tuning.packing_probe import packing_is_clean
from unnorm.tuning.run_log import RunLog
from unnorm.tuning.settings import Strategy, TrainingSettings
from unnorm.tuning.site_monitor import SiteMonitor
from unnorm.tuning.strategies import Trainable, apply_strategy

Say = Callable[[str], None]

_CALIBRATION_TOKENS = 4096


class CellSettings(BaseModel):
    """Everything that shapes a cell's result. Its hash is the cell's name."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str
    arm: str = "dyt"
    alpha: Literal["scalar", "channel"] = "scalar"
    calibration_tokens: int = Field(default=_CALIBRATION_TOKENS, gt=0)
    strategy: Strategy = "frozen"
    data: DataSettings
    training: TrainingSettings = TrainingSettings()
    evaluation_tokens: int = Field(default=100_000, gt=0)
    evaluate_every_tokens: int = Field(default=200_000, gt=0)
    checkpoint_every_tokens: int = Field(default=200_000, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**32)

    def resolved(self, base_hash: str) -> dict[str, Any]:
        """The configuration as plain values, with the base's identity. Where it is saved how often is no part of it."""
        return {**self.model_dump(exclude={"checkpoint_every_tokens"}), "base_hash": base_hash}


def run_cell(settings: CellSettings, out: Path, *, quiet: bool = False, say: Say = lambda text: None) -> dict[str, Any]:
    """Run the cell in the folder `out`, or go on with it, or hand back its result if it is done.

    Returns the numbers of result.json. say: called with a line for people at each stage. Raises `UnnormError`;
    what was finished stays, and the state in cell.json tells. Raises `Interrupted` when asked to stop.
    """
    rows_per_step = steps_of(settings)
    arm = arm_of(settings.arm, settings.alpha)
    model = load_base(settings.model)
    tokenizer = load_tokenizer(settings.model)
    check_length(model, settings.data.max_length)
    resolved = settings.resolved(hash_tensors(model.state_dict()))
    cell, out = hash_json(resolved), Path(out)
    if _is_finished(out, cell, resolved):
        say(f"{out} is finished already; nothing to do")
        return atomic.read_json(out / "result.json")  # type: ignore[no-any-return]
    # Whatever the user may have got wrong shows up to here, or while this is prepared; nothing is written before it.
    ready = _prepare(settings, arm, model, tokenizer, rows_per_step, cell, out, quiet, say)
    _write_state(out, cell, resolved, "running", None)
    try:
        result = _train(settings, ready, tokenizer, cell, out, say)
    except UnnormError as error:
        _write_state(out, cell, resolved, "failed", f"{type(error).__name__}: {error}")
        raise
    atomic.write_json(out / "result.json", result)
    _write_state(out, cell, resolved, "done", None)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return result


def steps_of(settings: CellSettings) -> int:
    """Rows a step: batch_tokens / max_length, which must come out whole."""
    rows, rest = divmod(settings.training.batch_tokens, settings.data.max_length)
    if rest or not rows:
        raise SettingsError(
            f"batch_tokens ({settings.training.batch_tokens}) must be a multiple of max_length "
            f"({settings.data.max_length}): a step is made of whole rows."
        )
    return rows


class _Ready(NamedTuple):
    """Everything that a cell's training needs."""

    trainer: Any
    swap: SwapReport | None
    trainable: Trainable
    evaluations: RunLog
    evaluated: dict[int, dict[str, Any]]


def _prepare(
    settings: CellSettings,
    arm: Arm,
    model: Any,
    tokenizer: Any,
    rows_per_step: int,
    cell: str,
    out: Path,
    quiet: bool,
    say: Say,
) -> _Ready:
    from unnorm.tuning.trainer import TokenTrainer

    packed = packing_is_clean(model)
    if not packed:
        say(f"rows packed into {type(model).__name__} would leak into each other: padding instead, one row each")
    source = Source(settings.data, tokenizer, quiet=quiet)
    validation = source.validation(settings.evaluation_tokens, packed)
    train = source.train(settings.training.tokens, settings.seed, packed)
    say(
        f"{train.tokens:,} tokens to train on in {len(train.rows):,} rows, {validation.tokens:,} to evaluate on; "
        f"dropped: {', '.join(f'{n} {reason}' for reason, n in source.dropped.items()) or 'none'}"
    )
    swap = _swap(model, arm, train, settings, say) if arm.spec is not None else None
    sites = find_sites(model)
    paths = [site.path for site in sites]
    chosen = settings.training.train_sites
    trained_paths = [site.path for site in select(sites, chosen)] if chosen is not None else paths
    model, trainable = apply_strategy(
        model, settings.strategy, site_paths=trained_paths, lora=settings.training.lora, seed=settings.seed
    )
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
        rows_per_step=rows_per_step,
        run=cell,
        folder=out,
        seed=settings.seed,
        monitor=SiteMonitor(model, paths),
        evaluate=evaluate_at,
        evaluate_every=max(1, settings.evaluate_every_tokens // settings.training.batch_tokens),
        checkpoint_every=max(1, settings.checkpoint_every_tokens // settings.training.batch_tokens),
        quiet=quiet,
    )
    return _Ready(trainer, swap, trainable, evaluations, evaluated)


def _train(settings: CellSettings, ready: _Ready, tokenizer: Any, cell: str, out: Path, say: Say) -> dict[str, Any]:
    if ready.swap is not None:
        atomic.write_json(out / "calibration.json", ready.swap.to_dict())
    atomic.write_json(out / "trainable.json", ready.trainable.to_dict())
    ready.trainer.evaluate_now(0)
    say(f"held-out loss before training {ready.evaluated[0]['loss']:.4f}")
    ready.trainer.fit()
    save(ready.trainer.model, out / "model", tokenizer)
    return _result(settings, cell, ready.trainable, ready.trainer.log_file.read(), ready.evaluated)


def _swap(model: Any, arm: Arm, train: Any, settings: CellSettings, say: Say) -> SwapReport:
    rows = max(1, settings.calibration_tokens // settings.data.max_length)
    batch = train.collate(train.rows[:rows]) if arm.calibrated else None
    assert arm.spec is not None
    report = swap_(model, arm.spec, calibrate_on=batch)
    fit = report.calibration
    if fit is None:
        say(f"swapped {len(report.sites)} sites, bare")
    else:
        worst = min(fit.sites, key=lambda site: site.r2)
        say(
            f"swapped {len(report.sites)} sites, calibrated on {fit.tokens:,} tokens in {fit.seconds:.1f} s; "
            f"lowest R² {worst.r2:.3f} at {worst.path}"
        )
    return report


def _result(
    settings: CellSettings, cell: str, trainable: Any, steps: list[dict[str, Any]], evaluations: dict[int, Any]
) -> dict[str, Any]:
    first, last = evaluations[0], evaluations[max(evaluations)]
    wall = sum(
        step["tokens_per_second"] and _tokens_of(steps, i) / step["tokens_per_second"] for i, step in enumerate(steps)
    )
    return {
        "model": settings.model,
        "dataset": settings.data.source,
        "arm": settings.arm,
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


def _write_state(out: Path, cell: str, resolved: dict[str, Any], state: str, error: str | None) -> None:
    content = {"cell": cell, "state": state, "settings": resolved, "error": error}
    atomic.write_json(out / "cell.json", content)
