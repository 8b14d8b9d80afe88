"""One forward pass for what its hooks see: eval mode, no cache, no gradient, and no logits beyond a single one."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from unnorm.metrics.batches import inputs_of
from unnorm.metrics.token_sums import head_only_at
from unnorm.surgery.packed_attention import packed_attention

_CAPTURES = "_output_capturing_hooks_installed"
"""Where transformers notes that a model has such hooks."""


class Stop(Exception):
    """Raised by a hook that has seen enough: the rest of the pass is not run."""


@contextmanager
def in_eval(model: nn.Module) -> Iterator[None]:
    """While open, `model` is in eval mode; each module's own mode is put back afterwards."""
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in training:
            module.training = mode


@contextmanager
def hooked(handles: list[Any]) -> Iterator[None]:
    """Takes the hooks away when closed."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def no_hooks_left(model: nn.Module) -> Iterator[None]:
    """Takes the forward hooks away that came while it was open. Where hidden states are asked for once, transformers
    leaves a hook on every block and attention for good, and each later call takes longer."""
    before = [(module, set(module._forward_hooks), _CAPTURES in vars(module)) for module in model.modules()]
    try:
        yield
    finally:
        for module, hooks, captured in before:
            for new in module._forward_hooks.keys() - hooks:
                del module._forward_hooks[new]
                module._forward_hooks_with_kwargs.pop(new, None)
                module._forward_hooks_always_called.pop(new, None)
            if not captured:
                vars(module).pop(_CAPTURES, None)


@contextmanager
def watched(
    model: nn.Module, paths: Iterable[str], see: Callable[[str, torch.Tensor, Any], Any], *, prepend: bool = False
) -> Iterator[None]:
    """While open, `see` is told path, input and output of whatever module at `paths` has run.

    What it returns, unless that is None, takes the output's place. prepend: before what other hooks do to the output.
    """
    with hooked(
        [
            model.get_submodule(path).register_forward_hook(
                lambda module, args, out, path=path: see(path, args[0], out), prepend=prepend
            )
            for path in paths
        ]
    ):
        yield


@torch.no_grad()
def run(model: Any, inputs: Mapping[str, torch.Tensor]) -> None:
    """Run `model` on `inputs`, for its hooks' sake alone; a hook may end it with `Stop`."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    first = torch.zeros(inputs["input_ids"].shape, dtype=torch.bool, device=inputs["input_ids"].device)
    first[0, 0] = True
    given = inputs_of(inputs)
    with in_eval(model), packed_attention(model):
        try:
            if head is None:
                model(**given, **_no_cache(model))
            else:
                with head_only_at(head, first):
                    model(**given, **_no_cache(model))
        except Stop:
            pass


def _no_cache(model: Any) -> dict[str, bool]:
    # An encoder's forward has no such argument, and refuses it.
    return {"use_cache": False} if hasattr(model.config.get_text_config(), "use_cache") else {}
