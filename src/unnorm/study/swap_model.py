"""Swap a base's norms, measure the gap to the original on held-out tokens, and save it: `unnorm swap`."""

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unnorm.artefacts.saving import check_place, is_artefact, save
from unnorm.data.mixture import Mixture
from unnorm.data.prepare import Rows
from unnorm.data.settings import DataSettings
from unnorm.foundation.errors import ArtefactError, SettingsError
from unnorm.foundation.places import check_new_folder
from unnorm.foundation.precision import choose
from unnorm.study.arms import Arm
from unnorm.study.start import CHOICE_TOKENS, Started, check_rows, start_
from unnorm.surgery.base import load_base, load_tokenizer, row_length
from unnorm.surgery.dtypes import narrow_, stored_dtype, to_fp32_
from unnorm.surgery.swap import record_of
from unnorm.tuning.distance import Distance, distance
from unnorm.tuning.packing_probe import packing_is_clean

_TOKENS_AT_ONCE = 2048
_LOST_BY_ROUNDING = 0.01
"""Of the loss: beyond that a model is saved in fp32, whatever its base is saved in."""


class Swap(NamedTuple):
    """calibrate, measure: data to fit to and to measure on, each with its share; none where there is none. reading: how
    all are read, whatever the source. sites: patterns, or None for all."""

    calibrate: tuple[tuple[str, float], ...]
    measure: tuple[tuple[str, float], ...]
    measure_tokens: int
    reading: DataSettings
    sites: tuple[str, ...] | None
    seed: int


class Swapped(NamedTuple):
    """What was done, and how far the model is from its original as it is saved, computed in fp32; None where there was
    nothing to measure on. in_bf16: the same computed in bf16, where it is saved so and the device multiplies it."""

    started: Started
    distance: Distance | None
    in_bf16: Distance | None


def swap_model(
    name: str, arm: Arm, swap: Swap, out: Path, *, overwrite: bool, say: Callable[[str], None], quiet: bool = False
) -> Swapped:
    """Swap the base `name` as `arm` says and save it in `out`, with its gap in the manifest.

    Raises `SettingsError` for an artefact as base, `ArtefactError` where another artefact stands in `out`.
    """
    if is_artefact(name):
        raise SettingsError(f"{name} is an artefact of unnorm already. Swap its base instead.")
    check_new_folder(out)
    if is_artefact(out) and not overwrite:
        raise ArtefactError(f"{out} holds an artefact already. Give another --out, or --overwrite to replace it.")
    check_place(out)
    arm.spec()
    model, tokenizer = load_base(name), load_tokenizer(name)
    packs = packing_is_clean(model)
    length = row_length(model.config)

    @cache  # what is measured on is mostly what is calibrated on: read once
    def mixture(data: tuple[tuple[str, float], ...]) -> Mixture:
        own = {"max_length": length, "loss_on": "all", "too_long": "split"}
        each = [(swap.reading.model_copy(update={"source": name, **own}), weight) for name, weight in data]
        return Mixture(each, tokenizer, packed=packs, quiet=quiet)

    rows: Rows | None = None
    if swap.calibrate and arm.calibration_tokens is not None:
        if not packs:
            say("rows packed into this model would leak into each other: padding instead, one row each")
        rows = mixture(swap.calibrate).train(arm.calibration_tokens + CHOICE_TOKENS, swap.seed)
    held_out = None
    if swap.measure:
        held_out = mixture(swap.measure).held_out(swap.measure_tokens)
    check_rows(model, *(some for some in (rows, held_out) if some is not None))
    original = copy.deepcopy(model) if held_out is not None else None
    if rows is not None:
        tokens = f"up to {arm.calibration_tokens:,} tokens"
        say(f"fitting the new norms to {tokens}; a large model takes minutes on a processor")
    started = start_(model, arm, rows, sites=swap.sites)
    assert started is not None
    dtype = stored_dtype(name)
    found = in_bf16 = None
    if held_out is None:
        narrowed = narrow_(model, dtype)
    else:
        batches = list(held_out.batches(max(1, _TOKENS_AT_ONCE // length)))

        def measured(how: str) -> Distance:
            return distance(model, original, batches, quiet=quiet, title=f"measuring the gap in {how}")

        found, narrowed = _measured_as_saved(model, dtype, lambda: measured("fp32"), say)
        record = record_of(model)
        assert record is not None
        record.measured = found.to_dict()
        if narrowed and dtype == torch.bfloat16 and choose("auto", model.device).name == "bf16":
            in_bf16 = measured("bf16")
    if narrowed:
        say(f"saved in {_name(dtype)}, as the base is; the new norms' parameters stay fp32")
    save(model, out, tokenizer)
    return Swapped(started, found, in_bf16)


def _measured_as_saved(
    model: Any, dtype: torch.dtype, measure: Callable[[], Distance], say: Callable[[str], None]
) -> tuple[Distance, bool]:
    """(what `measure` says of `model` as it is to be saved, whether its weights are in `dtype` now).

    They are where that loses nothing: corrected layers may hold large weights that cancel, and rounding undoes it.
    """
    wide = [(tensor, tensor.data) for tensor in (*model.parameters(), *model.buffers())]
    configured = model.config.dtype
    found = measure()
    if not narrow_(model, dtype):
        return found, False
    to_fp32_(model)  # the rounded weights, computed with as all others are
    rounded = found if all(torch.equal(tensor, data) for tensor, data in wide) else measure()
    if rounded.loss <= (1 + _LOST_BY_ROUNDING) * found.loss:
        return rounded, narrow_(model, dtype)
    for tensor, data in wide:
        tensor.data = data
    model.config.dtype = model.config.get_text_config().dtype = configured
    say(f"saved in float32: in {_name(dtype)}, as the base is, its gap would be {rounded.gap:+.1%}")
    return found, False


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
