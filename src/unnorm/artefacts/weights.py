"""A model's tensors in safetensors files: written in shards, read back without a second copy in memory."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from unnorm.foundation import atomic
from unnorm.foundation.errors import ArtefactError, ModelError, first_line
from unnorm.foundation.progress import Bar

SHARD = "5GB"
SHOW_FROM = 2**31
"""Bytes from which on reading or writing them takes seconds."""


def stored_tensors(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """What of `model` must be stored (name -> tensor), and which names only share another one's tensor.

    Raises `ModelError` where a tensor is not in memory (offloaded to disk, or on the meta device).
    """
    tensors: dict[str, torch.Tensor] = {}
    tied: dict[str, str] = {}
    seen: dict[Any, str] = {}
    for name, tensor in model.state_dict().items():
        if tensor.is_meta:
            raise ModelError(f"the weights of {name} are not in memory. Load the model without offloading.")
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and place in seen:
            tied[name] = seen[place]
        else:
            seen[place] = name
            tensors[name] = tensor
    return tensors, tied


def write_tensors(tensors: dict[str, torch.Tensor], folder: Path, stem: str, shard: str = SHARD) -> None:
    """Write `tensors` as folder/STEM.safetensors; in shards with an index, as transformers does, if over `shard`."""
    from huggingface_hub import split_torch_state_dict_into_shards

    plan = split_torch_state_dict_into_shards(
        tensors, filename_pattern=f"{stem}{{suffix}}.safetensors", max_shard_size=shard
    )
    total = sum(tensor.nbytes for tensor in tensors.values())
    with Bar("writing weights (bytes)", total, quiet=total < SHOW_FROM) as bar:
        for file, names in plan.filename_to_tensors.items():
            part = {name: tensors[name].detach().contiguous() for name in names}
            save_file(_apart(part), str(folder / file), metadata={"format": "pt"})
            bar.advance(sum(tensor.nbytes for tensor in part.values()))
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        atomic.write_json(folder / f"{stem}.safetensors.index.json", index)


def _apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Views that share memory, each on its own: safetensors knows no shared memory."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return result


def shapes_in(files: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor in `files`, from their headers alone. A damaged file is an `ArtefactError`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        try:
            with safe_open(str(path), framework="pt") as file:
                shapes.update({name: tuple(file.get_slice(name).get_shape()) for name in file.keys()})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ArtefactError(f"{path} cannot be read: {first_line(error)} Save the model again.") from error
    return shapes


@torch.no_grad()
def read_into_(model: nn.Module, files: Iterable[Path], tied: dict[str, str]) -> None:
    """Put the tensors of `files` in the place of `model`'s parameters and buffers, mapped from disk, not copied.

    Names and shapes must have been compared before (`shapes_in`). Each parameter keeps its stored dtype.
    """
    for path in files:
        with safe_open(str(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                _put(model, name, file.get_tensor(name))
    for name, other in tied.items():
        parent, leaf = _parent(model, name)
        there, its = _parent(model, other)
        tensor = getattr(there, its)
        (parent._parameters if leaf in parent._parameters else parent._buffers)[leaf] = tensor


def _put(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    parent, leaf = _parent(model, name)
    if leaf in parent._parameters:
        trains = tensor.is_floating_point()
        parent._parameters[leaf] = nn.Parameter(tensor, requires_grad=trains)
    else:
        parent._buffers[leaf] = tensor


def _parent(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of one file. A damaged one is an `ArtefactError`."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ArtefactError(f"{path} cannot be read: {first_line(error)} Save the model again.") from error
