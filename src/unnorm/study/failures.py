"""Why a task failed, in a few classes, and how the memory of a failed attempt is let go."""

import errno
import gc
import traceback
from typing import Literal

from unnorm.foundation.errors import (
    ArtefactError,
    DataError,
    Interrupted,
    ModelError,
    NonFiniteError,
    SettingsError,
    SiteError,
    StartError,
    UnnormError,
)

Failure = Literal[
    "out_of_memory", "non_finite", "lost_node", "bad_data", "bad_settings", "no_start", "interrupted", "bug"
]

DIVERGED: Failure = "non_finite"
"""What a try of a learning rate fails of by that rate. Of any other class it says nothing about the rate."""

_OUT_OF_MEMORY = (
    "out of memory",  # CUDA, MPS, and what the C library says
    "can't allocate memory",  # torch's CPU allocator
    "not enough memory: you tried to allocate",
    "cannot allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def failure_of(error: BaseException) -> Failure:
    """The class of an error. What has no class of its own is a bug."""
    if _is_out_of_memory(error):
        return "out_of_memory"
    if isinstance(error, NonFiniteError):
        return "non_finite"
    if isinstance(error, StartError):
        return "no_start"
    if isinstance(error, DataError):
        return "bad_data"
    if isinstance(error, SettingsError | ModelError | SiteError | ArtefactError):
        return "bad_settings"
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return "interrupted"
    return "bug"


def describe(error: BaseException) -> str:
    """One line for the ledger."""
    return f"{type(error).__name__}: {error}"


def traceback_of(error: BaseException) -> str | None:
    """The traceback of a bug; what a user caused needs none."""
    return None if isinstance(error, UnnormError) else "".join(traceback.format_exception(error))


def let_go(error: BaseException) -> None:
    """Drop what the frames of an error keep alive. The error itself stays, without its traceback."""
    seen: set[int] = set()
    links: list[BaseException | None] = [error]
    while links:
        link = links.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        if link.__traceback__ is not None:
            traceback.clear_frames(link.__traceback__)
        link.__traceback__ = None
        links += [link.__cause__, link.__context__]


def free_memory() -> None:
    """Collect what is unreachable, cycles too, and give the accelerator's cached blocks back."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    return any(part.lower() in text for part in _OUT_OF_MEMORY)
