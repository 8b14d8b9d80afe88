"""What a study will take: exact tokens and steps, and time and memory from one measured step of each kind of cell."""

import time
from collections.abc import Hashable
from typing import NamedTuple

import torch

from unnorm.data.shares import warning_of_length
from unnorm.evaluation.scores import score_batches
from unnorm.foundation.memory import forget_peak, peak_memory
from unnorm.foundation.precision import choose
from unnorm.foundation.progress import Bar
from unnorm.metrics.token_sums import token_sums
from unnorm.study.cell import set_up
from unnorm.study.over_devices import crowded, memory_over
from unnorm.study.plan import Planned
from unnorm.study.workbench import Workbench
from unnorm.surgery.base import under_adapters
from unnorm.tuning.memory_need import MOST_KEPT_WIDTHS, TRAINED_BYTES
from unnorm.tuning.parameter_groups import parameter_groups
from unnorm.tuning.strategies import Trainable

_LIBRARIES = 2**30
"""Bytes of a process that has loaded torch and transformers, and its data."""


class CellEstimate(NamedTuple):
    """tokens, steps: exact; seconds: training and evaluation, on as many devices as the cell asks for; memory_bytes:
    the most in measured steps, of each GPU, or of all processes where there is none; warnings: where the data is small
    for what is asked of it."""

    tokens: int
    steps: int
    trainable: Trainable
    seconds: float
    memory_bytes: int
    warnings: list[str]


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


class _Measured(NamedTuple):
    trainable: Trainable
    step_seconds: float
    evaluation_seconds: float
    memory_bytes: int


def estimates(planned: list[Planned], bench: Workbench) -> list[CellEstimate]:
    """One estimate a cell. A step is measured once for each base, arm, strategy and spread; nothing is kept of it."""
    measured: dict[Hashable, _Measured] = {}
    found = []
    kinds = len({_kind(cell) for cell in planned})
    with Bar("measuring one step of each kind of cell", kinds, quiet=bench.quiet) as bar:
        for cell in planned:
            found.append(_estimate(cell, bench, measured, bar))
    return found


def _kind(cell: Planned) -> Hashable:
    s = cell.settings
    return s.model, s.arm.id, s.strategy, s.training.devices, s.training.sharding


def _estimate(cell: Planned, bench: Workbench, measured: dict[Hashable, _Measured], bar: Bar) -> CellEstimate:
    settings, key = cell.settings, _kind(cell)
    rows = bench.train_rows(settings.data, settings.model, settings.training.tokens, settings.seed)
    steps = -(-len(rows.rows) // settings.rows_per_step())
    if key not in measured:
        measured[key] = _measure(cell, bench)
        bar.advance(note=f"{settings.arm.id} / {settings.strategy}")
    one = measured[key]
    evaluations = 2 + rows.tokens // settings.evaluate_every_tokens
    seconds = steps * one.step_seconds + evaluations * one.evaluation_seconds
    held_out = bench.validation_rows(settings.data, settings.model, settings.evaluation_tokens)
    found = (
        rows.share.warning_of_training,
        held_out.share.warning_of_held_out,
        warning_of_length(rows.dropped, rows.share.conversations, settings.data.max_length),
    )
    warnings = [f"{settings.dataset_name}: {each}" for each in found if each]
    return CellEstimate(rows.tokens, steps, one.trainable, seconds, one.memory_bytes, warnings)


def _measure(cell: Planned, bench: Workbench) -> _Measured:
    settings, devices = cell.settings, cell.settings.training.devices
    rows = bench.train_rows(settings.data, settings.model, settings.training.tokens, settings.seed)
    swapped = settings.arm.model_copy(update={"recover": None})  # a step of what was recovered takes as long
    model, *_ = bench.start(settings.model, swapped, settings.data, settings.training.tokens, settings.seed)
    model, trainable, _ = set_up(model, settings)
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    model.to(device).train()
    inner = under_adapters(model)
    batch = {k: v.to(device) for k, v in rows.collate(rows.rows[: settings.rows_per_step() // devices]).items()}
    optimizer = torch.optim.AdamW(parameter_groups(model, settings.training.weight_decay))
    dtype = choose(settings.training.precision, device).dtype
    seconds = 0.0
    forget_peak(device)  # of the cells that were measured before
    for _ in range(2):  # the first one warms up
        started = time.perf_counter()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            sums = token_sums(model, inner.get_output_embeddings(), batch)
        (sums.nats / sums.tokens.clamp_min(1)).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds = time.perf_counter() - started
    one = score_batches(model, [batch]).seconds
    share = settings.evaluation_tokens / max(1, devices * int(batch["tokens"].sum()))
    longer = crowded(devices, device)
    memory = memory_over(peak_memory(device), model, devices, settings.training.sharding, device)
    return _Measured(trainable, longer * seconds, longer * one * share, memory)
