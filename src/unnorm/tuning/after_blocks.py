"""Swapped norms that stand after the blocks, the final one above all: fitted anew to the stream that they now get."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from unnorm.surgery.inputs import counted_rows
from unnorm.surgery.swap import record_of
from unnorm.tuning.block_streams import Returns, StreamPart, Streams, see_after, take_over

_TOKENS = 16384
"""To fit to: a regression a channel has enough with these."""


@dataclass(frozen=True)
class SiteRefit:
    """A norm after the blocks that was fitted anew, and its error against what the original's gives, held out: the mean
    square of the difference over that of the original's own. kept False: it got worse and is as it was."""

    path: str
    error_before: float
    error_after: float
    kept: bool


@torch.no_grad()
def refit_(
    model: nn.Module,
    original: nn.Module,
    path: str,
    returns: Returns,
    found: Streams,
    wanted: Streams,
    parts: Sequence[StreamPart],
    learn: Sequence[int],
    held_out: Sequence[int],
) -> SiteRefit:
    """Fit the norm at `path`, in closed form, to what the original's gives on the same input.

    found, wanted: the converted and the original stream after the last block. learn, held_out: parts by number.
    """
    record = record_of(model)
    assert record is not None
    norm, old = model.get_submodule(path), original.get_submodule(path)
    inputs, total = [], 0
    for i in learn:
        x, _ = see_after(model, returns, parts[i].inputs, found.hidden[i], path)
        inputs.append(counted_rows(parts[i].keep.to(x.device), x)[0])
        total += len(inputs[-1])
        if total >= _TOKENS:
            break
    x = torch.cat(inputs)[:_TOKENS]  # [N, C]
    weight = next(old.parameters(), x)
    y = old(x.to(weight.device)).to(x.device)
    fitted = copy.deepcopy(norm)
    record.specs[path].fit_(fitted, x, y)  # type: ignore[arg-type]
    errors = torch.zeros(2, dtype=torch.float64)
    size = 0.0
    for i in held_out:
        x, _ = see_after(model, returns, parts[i].inputs, found.hidden[i], path)
        _, y = see_after(original, returns, parts[i].inputs, wanted.hidden[i], path)
        x, y = counted_rows(parts[i].keep.to(x.device), x, y.to(x.device))
        for at, candidate in enumerate((norm, fitted)):
            errors[at] += float((candidate(x).float() - y.float()).square().sum(dtype=torch.float64))
        size += float(y.float().square().sum(dtype=torch.float64))
    before, after = (errors / max(size, 1e-30)).tolist()
    kept = after <= before
    if kept:
        take_over(norm, dict(fitted.named_parameters()))
    return SiteRefit(path, before, after, kept)
