"""Recover: distil the original into a swapped model, on unlabelled text.

    minimize  Σ_tokens KL(p_original ‖ p_swapped)

over the new norms alone, over these and the layers that a correction changed, with LoRA, or over all weights. It runs
on the trainer that fine-tunes, with its logs, checkpoints and resume; norm parameters learn relatively. Tokens that are
held out are measured before and after: if they got worse, the start is put back and the report says so.

Two controls run the same way. A model whose pretrained norms stay can be distilled into itself; and with `ce` a model
is trained on every token of the same rows instead. Neither is put back: the one begins at a KL of 0, and the other
does not lower it.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unnorm.foundation import atomic, ranks
from unnorm.foundation.errors import DataError, NonFiniteError, SettingsError
from unnorm.foundation.hashing import hash_json, hash_tensors
from unnorm.foundation.processes import is_main
from unnorm.surgery.inputs import Inputs, as_one_batch, single_rows, tokens_in
from unnorm.surgery.swap import place_
from unnorm.tuning.learners import restored_flags, settled_, what_learns, without_dropout, without_gradients
from unnorm.tuning.objectives import objective_of
from unnorm.tuning.pair import check_base, norm_paths, record_beside, record_of_pair
from unnorm.tuning.recover_meter import Meter
from unnorm.tuning.recover_report import RecoverReport, between
from unnorm.tuning.recover_settings import RecoverSettings, recover_settings
from unnorm.tuning.settings import Sharding, TrainingSettings
from unnorm.tuning.site_monitor import SiteMonitor, active_norms
from unnorm.tuning.straighten import Straightening

HELD_OUT_TOKENS = 4096
_EVALUATIONS = 10
_SIZED_ROWS = 8
"""Rows of text that tell the typical sizes at each curve that is bent straight."""
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class RecoveryText:
    """What a recovery learns from, in order, and what it is measured on.

    rows: anything; collate: makes a batch [B, T] of some. row_tokens: the length of a row. held_out: batches.
    """

    rows: Sequence[Any]
    collate: Callable[[Sequence[Any]], Batch]
    row_tokens: int
    held_out: Sequence[Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class RecoveryRun:
    """Where a recovery keeps its logs and checkpoints, and whom it tells. Same meaning as for the trainer."""

    folder: Path
    name: str
    check: Callable[[], None] = lambda: None
    saved: Callable[[int], None] = lambda step: None
    quiet: bool = False
    evaluate_every: int | None = None
    """Tokens; a tenth of all unless given."""
    rows_per_forward: int | None = None
    sharding: Sharding = "ddp"


def recover_(
    model: nn.Module,
    original: nn.Module,
    batches: Inputs | Iterable[Inputs],
    *,
    held_out: Inputs | Iterable[Inputs] | None = None,
    folder: str | Path | None = None,
    seed: int = 0,
    quiet: bool = False,
    **settings: Any,
) -> RecoverReport:
    """Distil `original` into the swapped `model`, in place, by `settings`: those of `RecoverSettings`.

    The commonest: tokens (10 million at most; rows are gone through again if they run out), train (`all` weights,
    `lora`, `norms` alone, or `corrected`: norms and the layers that `swap_(correct=...)` changed), target (0.01: stop
    at a gap of 1 %), learning_rate, norm_learning_rate, batch_tokens, precision; straighten=0.7 bends the curves of DyT
    straight until 70 % of the steps are done, and leaves fixed scales; straighten_after=0.4 recovers for 40 % of them
    before; straighten_sites=["attention", "final"] bends those alone; objective="ce" trains on every token in place of
    distilling.

    batches: token ids [B, T] or model inputs, or an iterable of them. held_out: the same, measured and never learnt
    from; unless given, the first 4,096 tokens (a tenth, if there are fewer). folder: logs and checkpoints; the same
    call goes on from the last checkpoint in it, bit for bit on a CPU. Without it nothing is kept.

    Raises `ModelError` if nothing is swapped or `original` is not the model that was swapped, `DataError` for data that
    cannot be used, `NonFiniteError` if the loss stops being a number; then, and when interrupted, the model is as it
    was. Parameters' dtype and `requires_grad` are as before afterwards; LoRA is merged.
    """
    chosen = recover_settings(**settings)
    check_base(record_of_pair(model, original), original)
    rows = single_rows(batches)
    measured = _in_batches(single_rows(held_out), 4096) if held_out is not None else None
    if measured is None:
        first, rows = _split(rows)
        measured = _in_batches(first, 4096)
    length = max(row["input_ids"].shape[1] for row in rows)
    text = RecoveryText(_repeated(rows, chosen.tokens, seed), as_one_batch, length, measured)
    with ExitStack() as stack:
        place = Path(folder) if folder is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        decides = {"settings": chosen.model_dump(mode="json"), "seed": seed}
        name = "recover" if folder is None else _run_name(model, original, rows, measured, decides)
        return distil_(model, original, text, chosen, RecoveryRun(place, name, quiet=quiet), seed=seed)


def distil_(
    model: nn.Module,
    original: nn.Module,
    text: RecoveryText,
    settings: RecoverSettings,
    run: RecoveryRun,
    *,
    seed: int,
) -> RecoverReport:
    """The work of `recover_` on prepared rows, of a pair whose base was checked and in which nothing need be swapped.
    The same call goes on from the last checkpoint in `run.folder`."""
    from unnorm.tuning.trainer import TokenTrainer

    started = time.perf_counter()
    record = record_beside(model, original)
    training = settings.training(text.row_tokens).model_copy(update={"sharding": run.sharding})
    rows_per_step = training.batch_tokens // text.row_tokens
    devices = [next(m.parameters()).device for m in (model, original)]
    start = {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}
    paths = norm_paths(model, record)
    run.folder.mkdir(parents=True, exist_ok=True)  # before anything in the model changes
    straightening = None
    if settings.straighten is not None:
        if run.sharding == "fsdp":
            raise SettingsError("straighten does not go with sharding: fsdp. Use ddp.")
        sized = text.collate(text.rows[:_SIZED_ROWS])
        straightening = Straightening(
            model,
            record,
            sized,
            sites=settings.straighten_sites,
            after=settings.straighten_after,
            until=settings.straighten,
        )
    curves: dict[str, nn.Module] = {}
    done = False
    with restored_flags(model), without_gradients(original):
        learner: Any = model
        try:
            learner, trainable = what_learns(model, record, settings, seed)
            meter = Meter(learner, original, text.held_out, run.folder, broken_apart=straightening is not None)
            norms = active_norms(learner, paths)
            sizes = straightening.watch(dict(zip(paths, norms, strict=True))) if straightening else None

            def bend(done: float) -> None:
                if straightening is not None:
                    straightening.at(done)

            def begin() -> None:
                bend(0.0)
                meter.at(0, 0)

            trainer = TokenTrainer(
                learner,
                training,
                rows=text.rows,
                collate=text.collate,
                rows_per_step=rows_per_step,
                rows_per_forward=run.rows_per_forward or rows_per_step,
                run=run.name,
                folder=run.folder,
                seed=seed,
                monitor=SiteMonitor(learner, paths),
                norms=norms,
                objective=objective_of(settings.objective, learner, original, training.precision, sizes),
                evaluate=lambda step: meter.at(step, trainer.train_tokens),
                evaluate_every=_every(run.evaluate_every, training),
                checkpoint_every=_every(run.evaluate_every, training),
                before_step=bend,
                enough=None if settings.target is None else lambda found: found["gap"] <= settings.target,
                note=lambda: meter.note,
                check=run.check,
                saved=run.saved,
                quiet=run.quiet,
            )
            original.to(trainer.args.device)  # type: ignore[arg-type]
            with without_dropout(learner, norms):
                trainer.fit(begin=begin)
            before, last = meter.first_and_last()
            settled_(model, learner, start)
            if straightening is not None:
                curves = place_(model, straightening.straight())
            # A model that had to be sharded is not run whole.
            after = last if trainer.shards else meter.at_the_end(model)
            if not isfinite(after.loss):
                raise NonFiniteError("the recovered model's logits are not finite on held-out tokens.")
            steps = ranks.of_main(trainer.log_file.read())
            done = True
        finally:
            if not done:
                place_(model, curves)  # type: ignore[arg-type]
                settled_(model, learner, start)
                if straightening is not None:
                    place_(model, straightening.lines)  # type: ignore[arg-type]
                model.load_state_dict(start)
            model.to(devices[0])
            original.to(devices[1])
    record.specs |= {path: model.get_submodule(path).spec for path in curves}  # type: ignore[misc]
    as_it_comes = not record.sites or settings.objective == "ce" or straightening is not None
    kept = as_it_comes or after.no_farther_than(before)
    if not kept:
        model.load_state_dict(start)
    curve = ranks.of_main(meter.log.read())
    report = RecoverReport(
        **between(before, after, settings),
        kept=kept,
        steps=steps[-1]["step"],
        tokens=steps[-1]["train_tokens"],
        parameters=trainable,
        seconds=time.perf_counter() - started,
        losses=tuple(step["loss"] for step in steps),
        curve=tuple(curve),
        straightened=len(curves),
        broken=after.broken,
    )
    if is_main():
        atomic.write_json(run.folder / "recovery.json", report.to_dict())
    return report


def _run_name(
    model: nn.Module, original: nn.Module, rows: list[Batch], held_out: list[Batch], decides: Mapping[str, Any]
) -> str:
    """A hash of all that decides where a recovery ends: two models, the text, and what else `decides`."""
    text = {f"{i}/{name}": tensor for i, row in enumerate([*rows, *held_out]) for name, tensor in row.items()}
    content = {"text": text, "start": model.state_dict(), "original": original.state_dict()}
    return hash_json({**decides, "rows": len(rows), **{name: hash_tensors(what) for name, what in content.items()}})


def _every(tokens: int | None, training: TrainingSettings) -> int:
    """Steps between two looks at held-out tokens."""
    return max(1, (tokens or training.tokens // _EVALUATIONS) // training.batch_tokens)


def _split(rows: list[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Rows to measure on, and rows to learn from."""
    total = sum(tokens_in(row) for row in rows)
    wanted, held_out, taken = min(HELD_OUT_TOKENS, total / 10), 0, 0
    while taken < wanted:
        taken += tokens_in(rows[held_out])
        held_out += 1
    if len(rows) - held_out < 1:
        raise DataError("recover_ needs more than one row of tokens: some are held out. Give more, or shorter rows.")
    return rows[:held_out], rows[held_out:]


def _repeated(rows: list[Batch], tokens: int, seed: int) -> list[Batch]:
    """Rows of `tokens` tokens, in a fresh order each time that they are gone through."""
    generator = torch.Generator().manual_seed(seed)
    chosen: list[Batch] = []
    while tokens > 0:
        for index in torch.randperm(len(rows), generator=generator).tolist():
            chosen.append(rows[index])
            tokens -= tokens_in(rows[index])
            if tokens <= 0:
                break
    return chosen


def _in_batches(rows: list[Batch], tokens: int) -> list[Batch]:
    size = max(1, tokens // max(row["input_ids"].shape[1] for row in rows))
    return [as_one_batch(rows[i : i + size]) for i in range(0, len(rows), size)]
