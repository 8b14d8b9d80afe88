"""What making a recovered start will take: tokens and steps, and time and memory from one measured step."""

import copy
import time
from typing import Any, NamedTuple

import torch

from unnorm.data.mixture import Mixture
from unnorm.foundation.memory import forget_peak, peak_memory
from unnorm.study.make_start import MEASURED_EVERY
from unnorm.study.over_devices import crowded, memory_over
from unnorm.study.recovered_start import PlannedStart
from unnorm.study.start import CHOICE_TOKENS, recoverable_
from unnorm.study.workbench import LoadedBase, Workbench
from unnorm.surgery.swap import record_of
from unnorm.tuning.distance import distance
from unnorm.tuning.learners import what_learns
from unnorm.tuning.objectives import objective_of
from unnorm.tuning.parameter_groups import parameter_groups
from unnorm.tuning.recover import without_gradients


class StartEstimate(NamedTuple):
    """tokens, steps: at most, since a target may end it early; seconds: of distillation and its measurements;
    trainable_parameters: how many learn; memory_bytes: the most in measured steps, of each GPU, or of all processes
    where there is none."""

    tokens: int
    steps: int
    trainable_parameters: int
    seconds: float
    memory_bytes: int


def estimate_start(start: PlannedStart, bench: Workbench) -> StartEstimate:
    """Swaps and fits the base, and measures a step of its distillation. Nothing is kept of it."""
    settings = start.settings
    base, length = bench.base(settings.model), settings.data[0][0].max_length
    training = settings.recovery().settings.training(length)
    rows_per_step = training.batch_tokens // length
    mixture = Mixture(settings.data, base.tokenizer, packed=base.packs, quiet=bench.quiet)
    rows = mixture.train(max(training.batch_tokens, _fit_tokens(settings.arm)), settings.wanted.seed)
    model: Any = copy.deepcopy(base.model)
    recoverable_(model, settings.arm, rows)
    batch = rows.collate(rows.rows[: rows_per_step // settings.devices])
    with without_gradients(base.model):
        learns, seconds, measuring, memory = _measure(model, base, batch, start)
    steps = -(-training.tokens // training.batch_tokens)
    share = settings.recovery().measured_tokens / (settings.devices * batch["input_ids"].numel())
    looks = 2 + max(10, training.tokens // MEASURED_EVERY)
    whole = steps * seconds + looks * measuring * share
    return StartEstimate(training.tokens, steps, learns, whole, memory)


def _fit_tokens(arm: Any) -> int:
    return arm.calibration_tokens + CHOICE_TOKENS if arm.calibration_tokens is not None else 0


def _measure(
    model: Any, base: LoadedBase, batch: dict[str, torch.Tensor], start: PlannedStart
) -> tuple[int, float, float, int]:
    """(parameters that learn, seconds of a step, seconds of measuring the batch, bytes)."""
    recovery = start.settings.recovery()
    record = record_of(model)
    assert record is not None
    learner, learns = what_learns(model, record, recovery.settings, recovery.seed)
    training = recovery.settings.training(batch["input_ids"].shape[1])
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    here = next(base.model.parameters()).device
    learner.to(device)
    base.model.to(device)
    try:
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        objective = objective_of(recovery.settings.objective, learner, base.model, training.precision)
        optimizer = torch.optim.AdamW(parameter_groups(learner, training.weight_decay))
        seconds = 0.0
        forget_peak(device)
        for _ in range(2):  # the first one warms up
            started = time.perf_counter()
            sums = objective.sums(learner, batch)
            (sums.nats / objective.weight(batch).clamp_min(1)).backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds = time.perf_counter() - started
        started = time.perf_counter()
        distance(learner, base.model, [batch])
        devices, longer = start.settings.devices, crowded(start.settings.devices, device)
        memory = memory_over(peak_memory(device), learner, devices, start.settings.sharding, device)
        return learns, longer * seconds, longer * (time.perf_counter() - started), memory
    finally:
        base.model.to(here)
