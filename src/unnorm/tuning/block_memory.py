"""What a recovery block by block will take, against what is free, before it starts."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unnorm.foundation.errors import SettingsError
from unnorm.foundation.memory import memory_free
from unnorm.tuning.block_learning import Recipe, taking_gradients
from unnorm.tuning.block_streams import Machine, StreamPart, Streams, on_device
from unnorm.tuning.block_work import BlockRows, Learning
from unnorm.tuning.memory_need import TRAINED_BYTES

_BACKWARD = 1.5  # gradients of activations beside those that are kept for them
_LOSS_COPIES = 6  # of a part's stream in fp32: what comes in, out, is wanted, and the loss's own


def check_device(
    model: nn.Module,
    learning: Mapping[str, Learning],
    row: Streams,
    row_part: StreamPart,
    rows: BlockRows,
    recipe: Recipe,
    machine: Machine,
) -> int:
    """Bytes that learning takes on the device; a `SettingsError` with the figures where less is free.

    The weights of the largest block, and its activations as measured on one row, `row`, before the first block.
    """
    path = max(learning, key=lambda path: _weight_bytes(model.get_submodule(path), learning[path], machine))
    module = model.get_submodule(path)
    device = machine.of(module)
    weights = _weight_bytes(module, learning[path], machine)
    _refuse(device, path, weights, 0, 0)
    positions = max(part.keep.numel() for part in rows.parts)
    share = positions / row_part.keep.numel()
    saved = _saved_bytes(module, path, learning[path], row, recipe, machine)
    activations = int(share * (_BACKWARD * saved + _LOSS_COPIES * 4 * row.hidden[0].numel()))
    _refuse(device, path, weights, activations, positions)
    return weights + activations


def _refuse(device: torch.device, path: str, weights: int, activations: int, positions: int) -> None:
    free = memory_free(device)
    if free is not None and weights + activations > free:
        rest = f", {_gb(activations)} for the activations of {positions:,} tokens" if activations else ""
        raise SettingsError(
            f"one block at a time takes about {_gb(weights + activations)} on {device}: {_gb(weights)} for the "
            f"weights, gradients and moments of {path}{rest}; {_gb(free)} are free. Train the norms alone, give a "
            "smaller batch_tokens or shorter rows, or free some memory."
        )


def check_streams(row: Streams, row_part: StreamPart, rows: BlockRows, folder: Path | None) -> None:
    """Refuse to start where the two streams find no room: in memory, or on the disk of `folder`."""
    a_token = row.hidden[0].numel() * row.hidden[0].element_size() / row_part.keep.numel()
    size = int(2 * a_token * sum(part.keep.numel() for part in rows.parts))
    free = memory_free(torch.device("cpu")) if folder is None else shutil.disk_usage(folder).free
    if free is not None and size > free:
        where, do = ("of memory", "a folder for them") if folder is None else (f"in {folder}", "another folder")
        raise SettingsError(
            f"the hidden states between blocks take {_gb(size)} {where}, and {_gb(free)} are free. "
            f"Give {do}, or fewer rows."
        )


def _weight_bytes(module: nn.Module, what: Learning, machine: Machine) -> int:
    learns = set(what.names)
    total = 0
    for name, parameter in module.named_parameters():
        total += parameter.numel() * (TRAINED_BYTES if name in learns else parameter.element_size())
        if machine.precision == "bf16" and parameter.ndim > 1:
            total += 2 * parameter.numel()  # autocast's copy
    return total


def _saved_bytes(module: nn.Module, path: str, what: Learning, row: Streams, recipe: Recipe, machine: Machine) -> int:
    """What a forward pass of one row keeps for the backward pass, weights and their copies left out."""
    device, wide = machine.of(module), recipe.train == "all"
    kept: dict[int, int] = {}
    with on_device(module, device, fresh=True, wide=wide):
        parameters = list(module.parameters())
        weights = {parameter.untyped_storage().data_ptr() for parameter in parameters}
        shapes = {tuple(p.shape) for p in parameters if p.ndim == 2}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            shape = tuple(tensor.shape)
            if storage.data_ptr() not in weights and shape not in shapes and shape[::-1] not in shapes:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        def unpack(tensor: torch.Tensor) -> Any:
            return tensor

        own = dict(module.named_parameters())
        with (
            taking_gradients([own[name] for name in what.names]),
            torch.autograd.graph.saved_tensors_hooks(pack, unpack),
            machine.autocast(device),
        ):
            row.through(module, path, 0, wide=wide)
    return sum(kept.values())


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
