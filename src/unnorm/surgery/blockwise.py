"""Calibration block by block, for more tokens than memory holds: what is between two blocks lies on disk.

The first pass, with the original model, notes what each block is given besides the hidden states and writes the first
block's hidden states to disk. Then, block by block: for each site in it the block runs over all batches, up to the
site, and the site is fitted to what it saw; at last the converted block's outputs replace its inputs on disk. Sites
outside of blocks (embedding norms, the final norm) are fitted in passes of the whole model.
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unnorm.foundation.progress import track
from unnorm.norms.spec import Norm
from unnorm.surgery.block_calls import Spill, block_of, call_block, split_call
from unnorm.surgery.inputs import counted, counted_rows
from unnorm.surgery.passes import Stop, hooked, in_eval, run, watched

FitSite = Callable[[str, torch.Tensor, torch.Tensor], Norm]


def fit_blockwise(
    model: nn.Module,
    paths: list[str],
    batches: list[dict[str, torch.Tensor]],
    fit: FitSite,
    norms: dict[str, Norm],
) -> None:
    """Fit every site of `paths`, in order, on all batches; the norms are kept in `norms` by `fit`.

    Norms that are there already stand at their sites from the start.
    """
    groups: list[tuple[str, list[str]]] = []
    for path in paths:
        block = block_of(path)
        if not groups or groups[-1][0] != block or not block:
            groups.append((block, []))
        groups[-1][1].append(path)

    def new_output(path: str, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor | None:
        """Of a site that has been fitted, what its new norm gives."""
        return norms[path](x) if path in norms else None

    with (
        tempfile.TemporaryDirectory(prefix="unnorm-") as folder,
        watched(model, [*norms, *paths], new_output),
    ):
        spill = Spill(Path(folder))
        given: list[dict[str, Any]] = []
        previous = ""
        for block, inside in track(groups, "calibrating"):
            if not block:
                _fit_sites(model, inside, [partial(run, model, batch) for batch in batches], batches, spill, fit)
                continue
            if not given or not _follows(previous, block):
                given = _enter(model, [name for name, _ in groups if name], block, batches, spill)
            module = model.get_submodule(block)
            runs = [partial(_call, module, block, calls) for calls in given]
            with in_eval(model):
                _fit_sites(model, inside, runs, batches, spill, fit)
                _advance(module, block, given)
            previous = block


def _fit_sites(
    model: nn.Module,
    paths: list[str],
    runs: Sequence[Callable[[], Any]],
    batches: list[dict[str, torch.Tensor]],
    spill: Spill,
    fit: FitSite,
) -> None:
    for path in paths:
        parts: list[tuple[torch.Tensor, torch.Tensor]] = []
        for go, batch in zip(runs, batches, strict=True):
            see = partial(_keep_and_stop, spill, parts, counted(batch))
            # Before the hook that gives the new norm's output: what is wanted is the old norm's.
            with watched(model, [path], see, prepend=True), suppress(Stop):
                go()
        if len(parts) == len(runs):  # else not reached, and the caller says so
            device = next(model.parameters()).device
            fit(
                path, spill.put("x", [x for x, _ in parts]).to(device), spill.put("y", [y for _, y in parts]).to(device)
            )


def _keep_and_stop(
    spill: Spill,
    parts: list[tuple[torch.Tensor, torch.Tensor]],
    keep: torch.Tensor | None,
    _path: str,
    x: torch.Tensor,
    y: torch.Tensor,
) -> None:
    """A site's input and output go to disk, and the pass ends."""
    x, y = counted_rows(keep, x, y)
    parts.append((spill.put(f"x{len(parts)}", [x]), spill.put(f"y{len(parts)}", [y])))
    raise Stop


def _enter(
    model: nn.Module, blocks: list[str], first: str, batches: list[dict[str, torch.Tensor]], spill: Spill
) -> list[dict[str, Any]]:
    """For each batch: block -> its `Call`, and under `hidden` what the first one is given, on disk."""
    later = blocks[blocks.index(first) :]
    given: list[dict[str, Any]] = []
    for index, batch in enumerate(batches):
        calls: dict[str, Any] = {}

        def see(
            _m: nn.Module, args: Any, kwargs: Any, block: str, calls: dict[str, Any] = calls, index: int = index
        ) -> None:
            hidden, call = split_call(args, kwargs)
            if block == first:
                stored = spill.put(f"hidden{index}", [hidden.flatten(0, -2)])
                calls["hidden"] = (stored.view(hidden.shape), hidden.device)
            calls[block] = call
            if block == later[-1]:
                raise Stop

        handles = [
            model.get_submodule(block).register_forward_pre_hook(
                lambda m, args, kwargs, block=block: see(m, args, kwargs, block), with_kwargs=True
            )
            for block in dict.fromkeys(later)
        ]
        with hooked(handles):
            run(model, batch)
        given.append(calls)
    return given


def _call(module: nn.Module, block: str, calls: dict[str, Any]) -> torch.Tensor:
    stored, device = calls["hidden"]
    return call_block(module, calls[block], stored.to(device, copy=True))


def _advance(module: nn.Module, block: str, given: list[dict[str, Any]]) -> None:
    """Put the converted block's outputs where its inputs were."""
    for calls in given:
        calls["hidden"][0].copy_(_call(module, block, calls))


def _follows(previous: str, block: str) -> bool:
    stem, _, number = block.rpartition(".")
    before, _, last = previous.rpartition(".")
    return stem == before and int(number) == int(last) + 1
