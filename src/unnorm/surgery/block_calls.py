"""Blocks of a model one at a time: what each is given, calling it alone, and hidden states kept between two of them.

A block is the part of a model that a path's first number names (`model.layers.3`). Its input is the hidden states and
whatever else the model hands it (masks, positions), which is a `Call`.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from unnorm.foundation.atomic import disk_errors
from unnorm.foundation.errors import ModelError

_BLOCK = re.compile(r"^(.*?\.\d+)\.")


def block_of(path: str) -> str:
    """The path of the block that holds the module at `path`; "" where it stands outside of blocks."""
    found = _BLOCK.match(path)
    return found.group(1) if found else ""


class Call(NamedTuple):
    """What a block is given besides the hidden states, and whether these come by position."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    positional: bool


def split_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[torch.Tensor, Call]:
    """(hidden states, the rest) of a block's arguments."""
    hidden = args[0] if args else kwargs.get("hidden_states")
    if not isinstance(hidden, torch.Tensor):
        raise ModelError("this model's blocks are not given hidden states, so they cannot be run one at a time.")
    rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
    return hidden, Call(args[1:], rest, bool(args))


def call_block(module: nn.Module, call: Call, hidden: torch.Tensor) -> torch.Tensor:
    """The hidden states that `module` gives on `hidden`, called as `call` says."""
    if call.positional:
        return stream_in(module(hidden, *call.args, **call.kwargs))
    return stream_in(module(*call.args, hidden_states=hidden, **call.kwargs))


def stream_in(out: Any) -> torch.Tensor:
    """The hidden states in what a block returns."""
    hidden: torch.Tensor = out[0] if isinstance(out, tuple) else out
    return hidden


@contextmanager
def standing_in(
    model: nn.Module, blocks: Sequence[str], make: Callable[[str, Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """While open, each block at `blocks` runs `make(path, its own forward)` as its forward."""
    modules = [model.get_submodule(path) for path in blocks]
    own = [module.__dict__.get("forward") for module in modules]
    try:
        for path, module in zip(blocks, modules, strict=True):
            module.__dict__["forward"] = make(path, module.forward)
        yield
    finally:
        for module, forward in zip(modules, own, strict=True):
            module.__dict__.pop("forward", None)
            if forward is not None:
                module.__dict__["forward"] = forward


class Spill:
    """Tensors in files, mapped into memory when they are wanted, so that the system decides what stays there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, name: str, parts: list[torch.Tensor]) -> torch.Tensor:
        """`parts` [n_i, C], one after another, as a tensor [Σ n_i, C] that lies in the file `name`.

        A full disk is a `DiskError`.
        """
        rows, width = sum(len(part) for part in parts), parts[0].shape[1]
        path = self.folder / name
        _reserve(path, rows * width * parts[0].element_size())
        stored = torch.from_file(str(path), shared=True, size=rows * width, dtype=parts[0].dtype).view(rows, width)
        for part, place in zip(parts, stored.split([len(part) for part in parts]), strict=True):
            place.copy_(part)
        return stored


def _reserve(path: Path, size: int) -> None:
    """Take the room now: writing into a mapped file for which there is none ends the process without a word."""
    with disk_errors(path), open(path, "ab") as file:
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
