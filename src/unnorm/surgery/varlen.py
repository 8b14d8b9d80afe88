"""Causal attention over texts that lie one behind another: PyTorch's `varlen_attn`, where it serves."""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

_LENGTHS = (37, 91)
"""Of the texts that it is tried on."""
_TOLERANCE = 0.02
"""‖found − wanted‖ / ‖wanted‖ of what bf16 may round differently."""


def varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ends: torch.Tensor, longest: int, scale: float | None
) -> torch.Tensor:
    """Each text's tokens attend to those of it up to themselves: [B, T, heads, D].

    query: [B, heads, T, D]; key, value: with as many heads, or a part of them that divides it. ends: int32 [texts + 1],
    from 0 to B T: where texts end in the rows laid one behind another. longest: tokens of the longest text.
    """
    from torch.nn.attention.varlen import varlen_attn

    rows, heads, length, size = query.shape
    q, k, v = (x.transpose(1, 2).reshape(rows * length, -1, size) for x in (query, key, value))
    grouped: dict[str, Any] = {"enable_gqa": True} if k.shape[1] != heads else {}
    out = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scale, window_size=(-1, 0), **grouped)
    assert isinstance(out, torch.Tensor)
    return out.view(rows, length, heads, size)


def varlen_serves(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None) -> bool:
    """Whether this PyTorch has it for tensors like these, and its output and gradients are those with a mask."""
    if query.dtype not in (torch.bfloat16, torch.float16) or not query.dtype == key.dtype == value.dtype:
        return False
    return value.shape[-1] == key.shape[-1] and _serves(
        query.device, query.dtype, query.shape[1], key.shape[1], query.shape[-1], scale
    )


@cache
def _serves(
    device: torch.device, dtype: torch.dtype, heads: int, key_heads: int, size: int, scale: float | None
) -> bool:
    """Tried once, on a few random texts."""
    try:
        with torch.inference_mode(False), torch.enable_grad():
            pairs = _compared(device, dtype, heads, key_heads, size, scale)
    except (ImportError, AttributeError, TypeError, ValueError, RuntimeError):  # another PyTorch, or another device
        return False
    return all(float((a - b).norm()) <= _TOLERANCE * float(b.norm()) for a, b in pairs)


def _compared(
    device: torch.device, dtype: torch.dtype, heads: int, key_heads: int, size: int, scale: float | None
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What it gives and what a mask gives: the output, and the gradients of query, key and value; in fp32."""
    generator = torch.Generator().manual_seed(0)
    length = sum(_LENGTHS)
    drawn = [torch.randn(1, n, length, size, generator=generator) for n in (heads, key_heads, key_heads)]
    q, k, v = (x.to(device, dtype).requires_grad_() for x in drawn)
    ends = torch.tensor([0, *_LENGTHS], device=device).cumsum(0).int()
    text = torch.repeat_interleave(torch.arange(len(_LENGTHS)), torch.tensor(_LENGTHS)).to(device)
    keys, values = (x.repeat_interleave(heads // key_heads, 1) for x in (k, v))
    mask = (text[:, None] == text).tril()
    outs = [
        varlen(q, k, v, ends, max(_LENGTHS), scale),
        F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=scale).transpose(1, 2),
    ]
    weights = torch.randn(outs[0].shape, generator=generator).to(outs[0])
    found, wanted = ((out, *torch.autograd.grad((out * weights).sum(), (q, k, v))) for out in outs)
    return [(a.detach().float(), b.detach().float()) for a, b in zip(found, wanted, strict=True)]
