"""The work of one cell: a base is swapped, fine-tuned and measured, into one folder that can be gone on with.

trainable.json     what trains, by group
calibration.json   how the new norms were fitted;  recovery.json  how the start was recovered, where it was
steps.jsonl        the log of every step;  evaluations.jsonl  the held-out loss at intervals
checkpoints/       to go on from
attempt.json       rows a forward, if they are fewer than a step has; threads computed on
scores.parquet     the held-out scores of each conversation, at the end
model/             the artefact, at the end;  result.json  the numbers
"""

from importlib.metadata import version
from math import log
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unnorm.artefacts.saving import save
from unnorm.data.prepare import warnings_of
from unnorm.data.sources import counts_in_words
from unnorm.evaluation.latency.machine import environment
from unnorm.evaluation.scores import score_rows, trained_sums, write_sums
from unnorm.foundation import atomic, ranks
from unnorm.foundation.hashing import code_digest
from unnorm.foundation.memory import OthersLoad
from unnorm.foundation.processes import is_main
from unnorm.study import threads
from unnorm.study.begun import Start
from unnorm.study.cell import CellSettings, set_up
from unnorm.study.hooks import Hooks
from unnorm.study.spread import train
from unnorm.study.start import check_rows
from unnorm.study.start_words import start_tokens
from unnorm.study.view import SCORES
from unnorm.study.workbench import Workbench
from unnorm.surgery.dtypes import stored_dtype
from unnorm.tuning import checkpoint
from unnorm.tuning.run_log import RunLog
from unnorm.tuning.site_monitor import SiteMonitor, active_norms
from unnorm.tuning.strategies import Trainable


def fine_tune(
    settings: CellSettings, cell: str, folder: Path, bench: Workbench, hooks: Hooks, start: Path | None = None
) -> dict[str, Any]:
    """Train and measure the cell in `folder`, or go on with it. Returns the numbers, which are in result.json too.

    start: the folder of the recovered start that the cell begins from, if its arm recovers. result.json says where it
    began once more with fewer rows (`spread.train`).
    """
    whole = settings.rows_per_step()

    def run(rows: int) -> dict[str, Any]:
        base = bench.base(settings.model)
        if threads.go_on(folder, base.hash, base.model) or rows < whole:
            bench.let_go_of_start()  # it was fitted on another number of threads, or is in the way
        return _fine_tune(settings, cell, folder, bench, hooks, rows, start)

    job: dict[str, Any] = {"kind": "cell", "settings": settings.model_dump(mode="json"), "cell": cell}
    job |= {"start": str(start) if start else None, "report_to": hooks.report_to}
    return train(job, folder, whole, settings.training.devices, hooks, run)


def _say_start(loss: float, settings: CellSettings, base: Any, hooks: Hooks) -> None:
    """The loss before training; and, of a swap that broke the model, that it did."""
    hooks.say(f"held-out loss before training {loss:.4f}")
    tokens = base.config.get_text_config().vocab_size
    if settings.arm.swaps and loss > log(tokens):
        hooks.say(
            f"warning: a guess among {tokens:,} tokens loses {log(tokens):.1f}. The swap broke this model, and "
            "fine-tuning alone rarely mends that: `unnorm sites` says why, and dyt-recovered distils the original first"
        )


class _Ready(NamedTuple):
    """Everything that a cell's training needs."""

    trainer: Any
    start: Start
    """Without its model, which trains."""
    trainable: Trainable
    evaluated: dict[int, dict[str, Any]]


def _fine_tune(
    settings: CellSettings,
    cell: str,
    folder: Path,
    bench: Workbench,
    hooks: Hooks,
    rows_per_forward: int,
    start: Path | None,
) -> dict[str, Any]:
    ready = _prepare(settings, bench, cell, folder, hooks, rows_per_forward, start)
    hooks.begun(cell)
    if is_main():
        atomic.write_json(folder / "trainable.json", ready.trainable.to_dict())
        for name, content in (("calibration", ready.start.calibration), ("recovery", ready.start.recovery)):
            if content is not None:
                atomic.write_json(folder / f"{name}.json", content)
    others: list[OthersLoad] = []

    def begin() -> None:
        ready.trainer.evaluate_now(0)
        _say_start(ready.evaluated[0]["loss"], settings, bench.base(settings.model).model, hooks)
        others.append(OthersLoad())

    ready.trainer.fit(begin)
    load = others[0].read()
    if not is_main():
        return {}
    hooks.check()
    if settings.strategy == "full" and (dtype := stored_dtype(settings.model)) != torch.float32:
        hooks.say(f"saved in float32, in which the weights learnt; the base is in {str(dtype).removeprefix('torch.')}")
    save(ready.trainer.model, folder / "model", bench.base(settings.model).tokenizer)
    result = _result(settings, cell, ready, ready.trainer.log_file.read(), rows_per_forward)
    result["environment"] = _environment(load)
    atomic.write_json(folder / "result.json", result)
    return result


def _prepare(
    settings: CellSettings,
    bench: Workbench,
    cell: str,
    folder: Path,
    hooks: Hooks,
    rows_per_forward: int,
    start: Path | None,
) -> _Ready:
    from unnorm.tuning.trainer import TokenTrainer

    say = hooks.say
    if not bench.base(settings.model).packs:
        say(f"rows packed into {settings.model_name} would leak into each other: padding instead, one row each")
    source = bench.source(settings.data, settings.model)
    validation = bench.validation_rows(settings.data, settings.model, settings.evaluation_tokens)
    train = bench.train_rows(settings.data, settings.model, settings.training.tokens, settings.seed)
    check_rows(bench.base(settings.model).model, train, validation)
    say(f"data understood as {', '.join(sorted(set(source.reading.formats.values())))}")
    say(f"{train.tokens:,} tokens to train on in {len(train.rows):,} rows: {train.share.trained}")
    say(f"to evaluate on: {validation.share.held_out}")
    dropped = source.reading.dropped + train.dropped + validation.dropped
    changed = source.reading.changed + train.changed + validation.changed
    say(f"dropped: {counts_in_words(dropped)}; changed: {counts_in_words(changed)}")
    for warning in warnings_of(train, validation):
        hooks.warn(f"{settings.dataset_name}: {warning}")
    if start is not None:
        begun = bench.recovered_start(start)
    else:
        begun = bench.start(settings.model, settings.arm, settings.data, settings.training.tokens, settings.seed)
    if begun.words:
        say(begun.words)
    model, trainable, paths = set_up(begun.model, settings)
    say(trainable.describe())
    evaluations = RunLog(folder / "evaluations.jsonl")
    if is_main():  # another process might read what is about to be cut
        evaluations.cut_after(checkpoint.step_of(checkpoint.latest(folder / "checkpoints")))
    evaluated = {record["step"]: record for record in ranks.of_main(evaluations.read())}

    def evaluate_at(step: int) -> dict[str, Any]:
        if step not in evaluated:
            scores = score_rows(model, validation)
            found = {name: getattr(scores, name) for name in ("loss", "token_accuracy", "tokens", "seconds")}
            evaluated[step] = {"step": step, "train_tokens": trainer.train_tokens, **found}
            if is_main():
                hooks.check()
                if step and step == trainer.state.max_steps:
                    write_sums(folder / SCORES, trained_sums(scores))
                evaluations.append(evaluated[step])
        return evaluated[step]

    trainer = TokenTrainer(
        model,
        settings.training,
        rows=train.rows,
        collate=train.collate,
        rows_per_step=settings.rows_per_step(),
        rows_per_forward=rows_per_forward,
        run=cell,
        folder=folder,
        seed=settings.seed,
        monitor=SiteMonitor(model, paths),
        norms=active_norms(model, paths),
        evaluate=evaluate_at,
        evaluate_every=max(1, settings.evaluate_every_tokens // settings.training.batch_tokens),
        checkpoint_every=max(1, settings.checkpoint_every_tokens // settings.training.batch_tokens),
        check=hooks.check,
        saved=hooks.saved,
        report_to=hooks.report_to,
        quiet=hooks.quiet,
    )
    return _Ready(trainer, begun._replace(model=None), trainable, evaluated)


def _result(
    settings: CellSettings,
    cell: str,
    ready: _Ready,
    steps: list[dict[str, Any]],
    rows_per_forward: int,
) -> dict[str, Any]:
    evaluations, trainable = ready.evaluated, ready.trainable
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
        "rows_per_forward": rows_per_forward,
        "rows_per_step": settings.rows_per_step(),
        "start_tokens": start_tokens(ready.start.recovery),
        "cell": cell,
    }


def _tokens_of(steps: list[dict[str, Any]], index: int) -> int:
    before = steps[index - 1]["train_tokens"] if index else 0
    return int(steps[index]["train_tokens"] - before)


def _environment(load: float) -> dict[str, Any]:
    """On what the cell was run; two arms are compared only on the same. device (its type), hardware (its name),
    versions of libraries, and unnorm's own version and digest; on a processor the threads computed on; devices: how
    many, where there were several. load: what `OthersLoad` read, kept as it is given."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    about = environment(device)
    return {
        "device": device.type,
        "hardware": about["gpu"]["name"] if "gpu" in about else about["processor"],
        **({"threads": torch.get_num_threads()} if device.type == "cpu" else {}),
        **({"devices": ranks.count()} if ranks.count() > 1 else {}),
        "load": load,
        "versions": {**about["versions"], "unnorm": version("unnorm")},
        "code": code_digest(),
    }
