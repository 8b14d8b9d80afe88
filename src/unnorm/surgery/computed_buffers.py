"""Buffers that no file holds, such as rotary frequencies: a model computes them from its configuration.

transformers computes some in the dtype of the weights: Gemma's scale of the embeddings is 25.298 in fp32 and 25.25 in
bf16. unnorm keeps them in fp32 whatever the weights are in, so that a model is the same before and after it is saved,
and in fp32 and widened from bf16. In bf16 they are rounded where they are used.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

HALF = (torch.bfloat16, torch.float16)


def computed(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and value of each such buffer."""
    for path, module in model.named_modules():
        for name in module._non_persistent_buffers_set:
            buffer = module._buffers.get(name)
            if buffer is not None:
                yield f"{path}.{name}", buffer


def rounded(model: nn.Module) -> list[str]:
    """Names of those that are in half precision."""
    return [name for name, buffer in computed(model) if buffer.dtype in HALF]


def empty_model(auto: Any, config: Any, dtype: torch.dtype) -> Any:
    """A model of `dtype` that the class `auto` makes, without memory for its parameters; what it computes from its
    configuration is there, in fp32."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        model = auto.from_config(config, dtype=torch.float32)
    model.config.dtype = model.config.get_text_config().dtype = dtype
    return model


def widen_computed_(model: Any, auto: Any) -> dict[str, torch.Tensor]:
    """Compute in fp32 what `model`, which the class `auto` makes, has in half precision; what was there, by name."""
    names = rounded(model)
    if not names:
        return {}
    fresh = dict(computed(empty_model(auto, model.config, model.dtype)))
    return {name: replace_(model, name, fresh[name]) for name in names if name in fresh}


def replace_(model: nn.Module, name: str, buffer: torch.Tensor) -> torch.Tensor:
    """Put `buffer` in the place of the one of that name, on its device; what was there."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    old = module._buffers[leaf]
    assert old is not None
    module._buffers[leaf] = buffer.to(old.device)
    return old
