"""A model's blocks compiled while it trains (torch.compile): less time a step, for the compiler's time at the start.

One code serves all blocks that are alike, whatever their rows, so that a deep model takes no longer to compile. What is
measured on held-out tokens runs uncompiled, as everybody else will measure it.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn
from torch.nn.utils import parametrize

from unnorm.foundation.compilers import missing_compiler
from unnorm.foundation.errors import ModelError, SettingsError, first_line
from unnorm.foundation.precision import default_device
from unnorm.tuning.settings import Sharding
from unnorm.tuning.sharded import blocks_of

COMPILED = "the model's blocks are compiled at the first step, which takes up to some minutes"
_MOST_CODES = 64
"""Codes of one function: kinds of blocks, with and without a gradient, of one row and of several. PyTorch's 8 are soon
used up where an original is run as well, and what is beyond them runs uncompiled and says nothing."""


def check_blocks_compilable(sharding: Sharding) -> None:
    """`SettingsError` where blocks cannot be compiled on this machine, or by unnorm."""
    if sharding == "fsdp":
        raise SettingsError("compile does not go with sharding: fsdp. Use ddp, or train without compile.")
    missing = missing_compiler(default_device().type)
    if missing:
        raise SettingsError(f"compile needs {missing}. Install it, or train without compile.")


@contextmanager
def compiled_blocks(models: Sequence[nn.Module]) -> Iterator[None]:
    """While open, the repeated blocks of `models` run compiled, but for what is `uncompiled`.

    Raises `ModelError` if one does not compile, which shows when it is run.
    """
    blocks = [model.get_submodule(path) for model in models for path in blocks_of(model)]
    try:
        with _one_class_for_alike(blocks), torch._dynamo.config.patch(recompile_limit=_MOST_CODES):
            for block in blocks:
                # Dropout then draws what it draws uncompiled, and compared arms draw the same.
                block.compile(dynamic=True, options={"fallback_random": True})
            yield
    except torch._dynamo.exc.TorchDynamoException as error:
        raise ModelError(
            f"the model's blocks do not compile ({type(error).__name__}: {first_line(error)}). Train without compile."
        ) from error
    finally:
        for block in blocks:
            block._compiled_call_impl = None  # there is no public way back


def uncompiled() -> AbstractContextManager[None]:
    """While open, compiled blocks run as they are written."""
    return torch.compiler.set_stance("force_eager")  # type: ignore[no-any-return]


@contextmanager
def _one_class_for_alike(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Parametrizing a module gives it a class of its own, for which a compiler makes a code of its own. While open,
    modules of one kind, parametrized alike, have one class."""
    own = [(m, type(m)) for block in blocks for m in block.modules() if parametrize.is_parametrized(m)]
    first: dict[tuple[type, ...], type] = {}
    try:
        for module, kind in own:
            names = tuple(module.parametrizations)  # type: ignore[arg-type]
            module.__class__ = first.setdefault((*kind.__bases__, *names), kind)
        yield
    finally:
        for module, kind in own:
            module.__class__ = kind
