"""What a study will take: exact tokens and steps, and time and memory from one measured step of each kind of cell and
of each recovered start.

A step that is measured on one device stands for several of one machine: each of them has an equal part of a step's
rows, and the time in which they talk to each other is left out.
"""

import copy
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from unnorm.data.mixture import Mixture
from unnorm.data.prepare import warnings_of
from unnorm.evaluation.scores import score_batches
from unnorm.foundation.memory import forget_peak, peak_memory
from unnorm.foundation.precision import choose, default_device
from unnorm.foundation.processes import cores
from unnorm.foundation.progress import Bar, track
from unnorm.study.cell import CellSettings, set_up
from unnorm.study.make_start import MEASURED_EVERY
from unnorm.study.plan import Planned
from unnorm.study.recovered_start import PlannedStart
from unnorm.study.start import CHOICE_TOKENS, recoverable_
from unnorm.study.workbench import Workbench
from unnorm.surgery.swap import record_of
from unnorm.tuning.distance import distance
from unnorm.tuning.learners import what_learns, without_gradients
from unnorm.tuning.memory_need import MOST_KEPT_WIDTHS, TRAINED_BYTES
from unnorm.tuning.objectives import CrossEntropy, Objective, objective_of
from unnorm.tuning.parameter_groups import fusible, parameter_groups
from unnorm.tuning.settings import Sharding, TrainingSettings

_LIBRARIES = 2**30
"""Bytes of a process that has loaded torch and transformers, and its data."""

_SAME_STEP = {
    "tokens",
    "learning_rate",
    "schedule",
    "warmup",
    "weight_decay",
    "max_grad_norm",
    "norm_learning_rate",
    "adam_beta2",
}
"""Settings of training that change neither how long a step takes nor its memory. A setting that is new counts as one
that does: measuring too often costs seconds, and measuring too seldom gives wrong hours."""


class Estimate(NamedTuple):
    """Of a cell, or of making a start.

    tokens, steps: exact, of a start at most, since a target may end it early; trains: how many parameters learn, by
    group; seconds: learning and measuring, on as many devices as are asked for; memory_bytes: the most in measured
    steps, of each GPU, or of all processes where there is none; warnings: where the data is small for what is asked.
    """

    tokens: int
    steps: int
    trains: Mapping[str, int]
    total_parameters: int
    seconds: float
    memory_bytes: int
    warnings: list[str]

    @property
    def trainable_parameters(self) -> int:
        return sum(self.trains.values())


class _Measured(NamedTuple):
    """What one step tells of all: seconds of a step, and of a look at held-out tokens."""

    trains: Mapping[str, int]
    total_parameters: int
    step_seconds: float
    look_seconds: float
    memory_bytes: int


def memory_needed(cell: Planned, bench: Workbench, *, on_gpu: bool) -> int:
    """About how many bytes of the machine's memory the process that trains a cell takes, by formula: nothing is
    measured. on_gpu: what learns is on a GPU, and the base and its copy here."""
    settings, size = cell.settings, bench.size(cell.settings.model)
    held = _LIBRARIES + 2 * 4 * size.parameters
    if on_gpu:
        return held
    learns = (TRAINED_BYTES - 4) * size.parameters if settings.strategy == "full" else 0
    tokens = settings.rows_per_step() * settings.data.max_length
    return held + learns + 4 * tokens * (MOST_KEPT_WIDTHS * size.width * size.layers + 3 * size.vocabulary)


def estimates(planned: list[Planned], bench: Workbench) -> list[Estimate]:
    """One estimate a cell. A step is measured once for all cells whose steps are alike; nothing is kept of it."""
    measured: dict[Hashable, _Measured] = {}
    found = []
    kinds = [_kind(cell.settings, bench) for cell in planned]
    with Bar("measuring one step of each kind of cell", len(set(kinds)), quiet=bench.quiet) as bar:
        for cell, kind in zip(planned, kinds, strict=True):
            if kind not in measured:
                measured[kind] = _measure_cell(cell, bench)
                bar.advance(note=f"{cell.settings.arm.id} / {cell.settings.strategy}")
            found.append(_of_cell(cell, bench, measured[kind]))
    return found


def estimates_of_starts(starts: Sequence[PlannedStart], bench: Workbench) -> list[Estimate]:
    """One estimate a start. Swaps and fits each base, and measures a step of its distillation; nothing is kept."""
    shown = track(starts, "measuring one step of each recovered start", len(starts), quiet=bench.quiet)
    return [_of_start(start, bench) for start in shown]


def _kind(s: CellSettings, bench: Workbench) -> Hashable:
    """What is the same in cells whose steps, and looks at held-out tokens, take the same time and memory."""
    training = s.training.model_dump_json(exclude=_SAME_STEP)
    least = min(s.training.tokens, s.training.batch_tokens)  # a cell of fewer tokens than a step has one small step
    # packed rows are full whatever the data; others are as long as their conversations
    rows = s.data.max_length if bench.packs(s.model) else s.data.model_copy(update={"for_search": False})
    arm = s.arm.model_dump_json(exclude={"recover"})
    return s.model, arm, s.strategy, training, least, rows, s.evaluation_tokens


def _of_cell(cell: Planned, bench: Workbench, one: _Measured) -> Estimate:
    settings = cell.settings
    rows = bench.train_rows(settings.data, settings.model, settings.training.tokens, settings.seed)
    held_out = bench.validation_rows(settings.data, settings.model, settings.evaluation_tokens)
    warnings = [f"{settings.dataset_name}: {each}" for each in warnings_of(rows, held_out)]
    steps, looks = -(-len(rows.rows) // settings.rows_per_step()), 2 + rows.tokens // settings.evaluate_every_tokens
    return _estimate(rows.tokens, steps, looks, one, warnings)


def _measure_cell(cell: Planned, bench: Workbench) -> _Measured:
    settings = cell.settings
    rows = bench.train_rows(settings.data, settings.model, settings.training.tokens, settings.seed)
    swapped = settings.arm.model_copy(update={"recover": None})  # a step of what was recovered takes as long
    model, *_ = bench.start(settings.model, swapped, settings.data, settings.training.tokens, settings.seed)
    model, trainable, _ = set_up(model, settings)
    model.to(default_device()).train()
    batch = _here(rows.collate(rows.rows[: settings.rows_per_step() // settings.training.devices]))
    share = settings.evaluation_tokens / max(1, settings.training.devices * int(batch["tokens"].sum()))
    return _measured(
        model,
        CrossEntropy(model),
        batch,
        lambda: share * score_batches(model, [batch]).seconds,
        settings.training,
        trainable.parameters,
        trainable.total_parameters,
    )


def _of_start(start: PlannedStart, bench: Workbench) -> Estimate:
    settings, recovery = start.settings, start.settings.recovery()
    base, length = bench.base(settings.model), settings.data[0][0].max_length
    training = recovery.settings.training(length).model_copy(
        update={"devices": settings.devices, "sharding": settings.sharding}
    )
    rows_per_step = training.batch_tokens // length
    fitted_to = settings.arm.calibration_tokens
    mixture = Mixture(settings.data, base.tokenizer, packed=base.packs, quiet=bench.quiet)
    tokens = max(training.batch_tokens, fitted_to + CHOICE_TOKENS if fitted_to is not None else 0)
    rows = mixture.train(tokens, settings.wanted.seed)
    model: Any = copy.deepcopy(base.model)
    recoverable_(model, settings.arm, rows)
    record = record_of(model)
    assert record is not None
    device, here = default_device(), next(base.model.parameters()).device
    learner, learns = what_learns(model, record, recovery.settings, recovery.seed)
    learner.to(device)
    batch = _here(rows.collate(rows.rows[: rows_per_step // settings.devices]))
    share = recovery.measured_tokens / (settings.devices * batch["input_ids"].numel())

    def look() -> float:
        started = time.perf_counter()
        distance(learner, base.model, [batch])
        return share * (time.perf_counter() - started)

    with without_gradients(base.model):
        base.model.to(device)
        try:
            objective = objective_of(recovery.settings.objective, learner, base.model, training.precision)
            one = _measured(learner, objective, batch, look, training, {settings.wanted.train: learns}, learns)
        finally:
            base.model.to(here)
    steps, looks = -(-training.tokens // training.batch_tokens), 2 + max(10, training.tokens // MEASURED_EVERY)
    return _estimate(training.tokens, steps, looks, one, [])


def _estimate(tokens: int, steps: int, looks: int, one: _Measured, warnings: list[str]) -> Estimate:
    seconds = steps * one.step_seconds + looks * one.look_seconds
    return Estimate(tokens, steps, one.trains, one.total_parameters, seconds, one.memory_bytes, warnings)


def _measured(
    model: Any,
    objective: Objective,
    batch: dict[str, torch.Tensor],
    look: Callable[[], float],
    training: TrainingSettings,
    trains: Mapping[str, int],
    total: int,
) -> _Measured:
    """look: measures as it is done at intervals, and says how many seconds that takes."""
    device = default_device()
    groups = parameter_groups(model, training.weight_decay)
    optimizer = torch.optim.AdamW(groups, fused=fusible(groups))
    dtype = choose(training.precision, device).dtype
    seconds = 0.0
    forget_peak(device)  # of what was measured before
    for _ in range(2):  # the first one warms up
        started = time.perf_counter()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            sums = objective.sums(model, batch)
        (sums.nats / objective.weight(batch).clamp_min(1)).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds = time.perf_counter() - started
    longer, looking = crowded(training.devices, device), look()
    memory = memory_over(peak_memory(device), model, training.devices, training.sharding, device)
    return _Measured(trains, total, longer * seconds, longer * looking, memory)


def _here(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.to(default_device()) for name, tensor in batch.items()}


def crowded(devices: int, device: torch.device) -> float:
    """By how much a step takes longer with `devices` of them at work: GPUs are each on their own, and processes on the
    processor share its cores."""
    return max(1.0, devices * torch.get_num_threads() / cores()) if device.type == "cpu" else 1.0


def memory_over(measured: int, model: Any, devices: int, sharding: Sharding, device: torch.device) -> int:
    """Bytes of each GPU, or on the processor of all processes together. measured: of one process with its part of the
    rows and the whole of what `model`, which learns, holds: with fsdp each device has a part of that."""
    held = sum(p.numel() * (TRAINED_BYTES if p.requires_grad else p.element_size()) for p in model.parameters())
    spared = held - held // devices if sharding == "fsdp" else 0
    return max(0, measured - spared) * (devices if device.type == "cpu" else 1)
