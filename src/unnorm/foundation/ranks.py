"""The processes that one cell is spread over, as torchrun or `accelerate launch` start them: joined, and in step.

A process that was started alone is a launch of one, for which everything here does nothing.
"""

import os
import warnings
from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

import torch

from unnorm.foundation.errors import SettingsError
from unnorm.foundation.processes import cores, is_main

T = TypeVar("T")
_store: list[Any] = []
"""What all processes of the launch can read and write, once they are joined."""
_PATIENCE = timedelta(hours=2)
"""For a process that others wait for: the main one may be encoding data."""


def number() -> int:
    """Which process of the launch this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """How many processes the launch has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def devices_here() -> int:
    """How many processes this machine can serve: one a GPU, or one a core where there is none."""
    if torch.accelerator.is_available():
        return torch.accelerator.device_count()
    return cores()


def check_devices(wanted: int) -> None:
    """A `SettingsError` where this machine has fewer than `wanted` devices."""
    here = devices_here()
    if wanted > here:
        kind = "GPU" if torch.accelerator.is_available() else "core"
        raise SettingsError(
            f"{wanted} devices were asked for, and this machine has {here} {kind}{'s' * (here != 1)}. "
            f"Use {here} at most."
        )


def join() -> None:
    """Connect the processes of this launch, each with a device of its own. Nothing where there is one, or again.

    Raises `SettingsError` where there are more processes on this machine than devices.
    """
    if count() == 1 or torch.distributed.is_initialized():
        return
    backend = "gloo"
    if torch.accelerator.is_available():
        check_devices(int(os.environ.get("LOCAL_WORLD_SIZE", count())))
        torch.accelerator.set_device_index(int(os.environ.get("LOCAL_RANK", "0")))
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
    from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

    store, rank, world = next(rendezvous("env://", timeout=_PATIENCE))
    torch.distributed.init_process_group(
        backend, store=PrefixStore("group", store), rank=rank, world_size=world, timeout=_PATIENCE
    )
    _store.append(store)
    if not is_main():
        warnings.simplefilter("ignore")  # the main process warns of the same


def leave() -> None:
    """Part from the others, once all have come here."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def joined() -> int:
    """How many processes work together from here on: 1 until `join`."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return 1


def fails_first() -> bool:
    """Whether this process, which is about to fail, is the first of its launch to do so: it alone says why.

    The others fail because it did, or in the same way.
    """
    if not _store:
        return is_main()
    try:
        return int(_store[0].add("failed", 1)) == 1
    except RuntimeError:  # it went with the process that held it
        return False


def of_all(own: T) -> list[T]:
    """What every process gives, in their order; all of them must ask."""
    if joined() == 1:
        return [own]
    gathered: list[Any] = [None] * joined()
    torch.distributed.all_gather_object(gathered, own)
    return gathered


def of_main(own: T) -> T:
    """What the main process gives; all of them must ask."""
    return of_all(own if is_main() else None)[0]  # type: ignore[return-value]


def shared(batches: Iterable[T]) -> Iterator[tuple[T, bool]]:
    """This process's part of `batches`, which all processes have alike: one of each `joined()` that follow another.

    Every process gets equally many, since a model that is sharded over them runs in all of them or in none: where
    fewer are left than there are processes, it gets one that another has. Yields (batch, whether it counts).
    """
    world, batches = joined(), iter(batches)
    own = torch.distributed.get_rank() if world > 1 else 0
    while group := list(islice(batches, world)):
        yield group[min(own, len(group) - 1)], own < len(group)
