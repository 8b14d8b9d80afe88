"""Buffers that no file holds, such as rotary frequencies: a load computes them anew, in fp32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from unnorm.artefacts.whole import empty_model, outline_of


@contextmanager
def as_loaded(model: Any) -> Iterator[None]:
    """While open, `model` computes as it will once saved and loaded.

    `model.to(torch.bfloat16)` rounds rotary frequencies too, which a load does not: logits differ by more than noise.
    """
    rounded = [name for name, buffer in _passing(model) if buffer.dtype in (torch.bfloat16, torch.float16)]
    if not rounded:
        yield
        return
    auto, _ = outline_of(model.config, type(model).__name__)
    fresh = dict(_passing(empty_model(auto, model.config, model.dtype)))
    kept = {}
    for name in rounded:
        if name in fresh:
            kept[name] = _replace(model, name, fresh[name])
    try:
        yield
    finally:
        for name, buffer in kept.items():
            _replace(model, name, buffer)


def _passing(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for path, module in model.named_modules():
        for name in module._non_persistent_buffers_set:
            buffer = module._buffers.get(name)
            if buffer is not None:
                yield f"{path}.{name}", buffer


def _replace(model: nn.Module, name: str, buffer: torch.Tensor) -> torch.Tensor:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    old = module._buffers[leaf]
    assert old is not None
    module._buffers[leaf] = buffer.to(old.device)
    return old
