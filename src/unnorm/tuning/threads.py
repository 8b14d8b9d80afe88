"""How many threads a model computes on, found by a few small forwards of it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from unnorm.foundation import threads
from unnorm.foundation.threads import Threads
from unnorm.surgery.base import context_length

_OPERATIONS = 5e9  # of a forward that is measured: a fifth of a second or so
_LARGE = 5e8  # parameters: each product has work for all threads
_MOST_TOKENS, _ROW = 512, 128
_WIDTH, _DEPTH = 160, 4


def threads_for(model: Any) -> Threads:
    """The threads that pay for `model`, which is left as it is; nothing is set. Nothing is measured where the
    environment decides, on an accelerator, or for a large model, which gets all."""
    decided = threads.decided()
    if decided is not None:
        return decided
    if torch.accelerator.is_available():
        return Threads(torch.get_num_threads(), "the accelerator computes")
    size = sum(parameter.numel() for parameter in model.parameters())
    if size > _LARGE:
        return Threads(torch.get_num_threads(), "the model is large")
    return threads.measure(_forward(model, size))


def threads_for_small() -> Threads:
    """What `threads_for` would find for a model of a million parameters, by layers that stand in for one."""
    decided = threads.decided()
    if decided is not None:
        return decided
    layers = [nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, 4 * _WIDTH), nn.GELU(), nn.Linear(4 * _WIDTH, _WIDTH)]
    stack = nn.Sequential(*layers * _DEPTH)
    x = torch.ones(_MOST_TOKENS, _WIDTH)

    @torch.no_grad()
    def step() -> None:
        stack(x)

    return threads.measure(step)


def _forward(model: Any, size: int) -> Callable[[], None]:
    """A forward of `model`, which has `size` parameters, on a few made-up rows."""
    tokens = max(16, min(_MOST_TOKENS, int(_OPERATIONS / (2 * max(1, size)))))
    row = min(_ROW, tokens, context_length(model) or _ROW)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(max(1, tokens // row) * row) * 7919 % vocabulary).view(-1, row)

    @torch.no_grad()
    def step() -> None:
        model(input_ids=ids, use_cache=False)

    return step
