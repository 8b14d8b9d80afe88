"""In which dtype a base lies on disk, and how a model that was computed with in fp32 goes back to it."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from unnorm.surgery.base import load_pretrained, unwrapped
from unnorm.surgery.computed_buffers import HALF
from unnorm.surgery.data_flow import dummy_inputs, unnoticed
from unnorm.surgery.swap import record_of


def stored_dtype(name: str) -> torch.dtype:
    """The dtype in which the weights of the base `name` (a folder or hub id) lie, as its configuration says it; fp32
    where it says nothing. Raises `ModelError` if there is no such base."""
    from transformers import AutoConfig

    config = load_pretrained(AutoConfig, name, "the configuration of")
    found = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    dtype = getattr(torch, found.removeprefix("torch."), None) if isinstance(found, str) else found
    return dtype if dtype in (*HALF, torch.float64) else torch.float32


@torch.no_grad()
def narrow_(model: Any, dtype: torch.dtype) -> bool:
    """Put the fp32 weights of `model` into `dtype`, in place; whether that was done.

    The swapped norms' own parameters stay in fp32, and so does what the architecture keeps there and what no file
    holds. Nothing is done for a `dtype` that is not narrower than fp32, nor for a model that would not run so (Mamba
    casts what it computes to its norms' dtype).
    """
    model = unwrapped(model)
    if dtype not in HALF:
        return False
    before = [(tensor, tensor.data) for tensor in _narrowed(model, dtype)]
    for tensor, data in before:
        tensor.data = data.to(dtype)
    if not _runs(model):
        for tensor, data in before:
            tensor.data = data
        return False
    model.config.dtype = model.config.get_text_config().dtype = dtype
    return True


@torch.no_grad()
def to_fp32_(model: Any) -> Any:
    """Put whatever of `model` is in bf16 or fp16 into fp32, in place; the model."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dtype in HALF and not tensor.is_meta:
            tensor.data = tensor.data.float()
    return model


def _narrowed(model: Any, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Each fp32 tensor that goes into `dtype`, once."""
    record = record_of(model)
    ours = {site.path for site in record.sites} if record else set()
    wide = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == torch.float16:
        wide |= set(getattr(model, "_keep_in_fp32_modules", None) or ())
    seen = set()
    for path, module in model.named_modules():
        if path in ours or wide.intersection(path.split(".")):
            continue
        stored = [t for n, t in module._buffers.items() if n not in module._non_persistent_buffers_set]
        for tensor in (*module._parameters.values(), *stored):
            if tensor is not None and tensor.dtype == torch.float32 and id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor


def _runs(model: nn.Module) -> bool:
    device = next(model.parameters()).device
    inputs = {n: v[:, :2] if isinstance(v, torch.Tensor) else v for n, v in dummy_inputs(model, device).items()}
    try:
        with unnoticed(model, device):
            model(**inputs)
    except RuntimeError:
        return False
    return True
