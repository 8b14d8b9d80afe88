"""Blocks that learn one at a time, before the whole model does or in its stead.

A block that gives the original's stream more nearly need not make the model a better one: what the model says is
measured before and after, and a model that ended farther from the original is put back.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from unnorm.data.prepare import Rows
from unnorm.foundation import atomic
from unnorm.foundation.atomic import disk_errors
from unnorm.foundation.precision import default_device
from unnorm.tuning.blockwise import BlockwiseReport, recover_blockwise_
from unnorm.tuning.distance import distance
from unnorm.tuning.recover_report import RecoverReport, between
from unnorm.tuning.recover_settings import RecoverSettings

BLOCK_TOKENS, BLOCK_STEPS = 98_304, 80
_ROWS_AT_ONCE = 16
_RATES = (3e-4, 5e-3)
"""Of a block's weights, and of its norms, which learn relatively."""


def blocks_first_(
    model: Any,
    original: Any,
    rows: Rows,
    held_out: Sequence[Mapping[str, torch.Tensor]],
    settings: RecoverSettings,
    length: int,
    folder: Path,
    *,
    precision: str,
    seed: int,
    quiet: bool,
    check: Callable[[], None],
) -> tuple[BlockwiseReport, RecoverReport]:
    """Let the blocks of `model` learn in place, each from up to `BLOCK_TOKENS` of `rows`, of `length` tokens each.

    held_out: batches that the models are compared on. Returns what the blocks learnt and what that made of the model:
    it is as it was where it ended farther from the original. FOLDER/blocks holds finished blocks, and the model's
    parameters as they were until it is known which are better; FOLDER/blocks.json says both. Raises as
    `recover_blockwise_`.
    """
    chosen = rows.rows[: max(2, BLOCK_TOKENS // length)]
    before = distance(model, original, held_out)
    start = folder / "blocks" / "start.safetensors"
    with disk_errors(start):
        start.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.detach().contiguous() for name, tensor in model.named_parameters()}, start)
    try:
        learnt = recover_blockwise_(
            model,
            original,
            [rows.collate(chosen[i : i + _ROWS_AT_ONCE]) for i in range(0, len(chosen), _ROWS_AT_ONCE)],
            steps=BLOCK_STEPS,
            batch_tokens=_ROWS_AT_ONCE * length,
            norm_learning_rate=_RATES[1],
            learning_rate=_RATES[0],
            train=settings.train,  # type: ignore[arg-type]
            folder=start.parent,
            device=default_device(),
            precision=precision,
            seed=seed,
            quiet=quiet,
            check=check,
        )
        after = distance(model, original, held_out)
        kept = after.no_farther_than(before)
        if not kept:
            was = load_file(start)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(was[name])
    finally:
        start.unlink(missing_ok=True)
    told = {"kl_before": before.kl, "kl_after": after.kl, "kept": kept}
    atomic.write_json(folder / "blocks.json", {**learnt.to_dict(), **told})
    return learnt, RecoverReport(
        **between(before, after, settings),
        kept=kept,
        steps=sum(block.steps for block in learnt.blocks),
        tokens=max(block.tokens for block in learnt.blocks),
        parameters=sum(block.parameters for block in learnt.blocks),
        seconds=learnt.seconds,
        losses=(),
        curve=(),
    )
