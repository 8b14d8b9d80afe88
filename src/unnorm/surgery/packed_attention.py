"""Attention over packed rows, text by text, in place of one product over the whole row and a mask.

A token of a packed row sees its own text up to itself. With a mask PyTorch computes the products of all pairs of a row
and throws away what the mask hides: of four texts alike seven eighths. Here each text is run by itself, which gives the
same sums but for rounding: on a CPU one after another, on a GPU all at once (`varlen.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch

from unnorm.surgery.varlen import varlen, varlen_serves

_NAME = "unnorm_packed"
_LONG, _SHORTEST = 512, 16
"""Tokens of a row, below which it gains nothing, and of its texts on average: others are run whole."""


class Texts(NamedTuple):
    """lengths: of the texts of each row; ends: how many tokens there are before each text of the batch, and in all,
    int32 [texts + 1], where the batch is; longest: tokens of the longest."""

    lengths: list[list[int]]
    ends: torch.Tensor
    longest: int


@contextmanager
def packed_attention(*models: Any) -> Iterator[None]:
    """While open, those of `models` that use PyTorch's attention (transformers' `sdpa`) run packed rows text by text.

    Whether a row's mask is that of packed texts is looked at; with any other, it is as before.
    """
    changed = [model for model in models if _uses_sdpa(model)]
    try:
        for model in changed:
            _register()
            model.set_attn_implementation(_NAME)
        yield
    finally:
        for model in changed:
            model.set_attn_implementation("sdpa")


def _uses_sdpa(model: Any) -> bool:
    can_change = getattr(model, "_can_set_attn_implementation", lambda: False)
    return getattr(getattr(model, "config", None), "_attn_implementation", None) == "sdpa" and can_change()


@cache
def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    whole, mask_of = AttentionInterface()["sdpa"], AttentionMaskInterface()["sdpa"]

    def masked(**arguments: Any) -> torch.Tensor | None:
        mask: torch.Tensor | None = mask_of(**arguments)
        if mask is not None:
            mask.texts = _texts(mask)  # type: ignore[attr-defined]
        return mask

    def attend(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **options: Any
    ) -> tuple[torch.Tensor, None]:
        """query: [B, heads, T, D]; key, value: with as many heads or fewer. Returns [B, T, heads, D]. The mask's name
        is the one that models know it by: Doge gives it by that."""
        texts: Texts | None = getattr(attention_mask, "texts", None)
        unusual = [options.get(name) for name in ("position_bias", "softcap", "s_aux", "cache")]
        if texts is None or any(each is not None for each in unusual):
            return whole(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
        if _on_cpu(query):
            return _one_by_one(whole, module, (query, key, value), texts, {**options, "is_causal": True}), None
        scale = options.get("scaling")
        query, key, value = _under_autocast(query, key, value)
        if options.get("dropout") or not varlen_serves(query, key, value, scale):
            return whole(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
        return varlen(query, key, value, texts.ends, texts.longest, scale), None

    AttentionInterface.register(_NAME, attend)
    AttentionMaskInterface.register(_NAME, masked)


def _on_cpu(x: torch.Tensor) -> bool:
    return x.device.type == "cpu"


def _under_autocast(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors as PyTorch's attention takes them under autocast, which casts for it and not for `varlen`: rotary
    models give it queries and keys in fp32."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(x if x.dtype == torch.float64 else x.to(dtype) for x in tensors)


def _one_by_one(
    whole: Any, module: Any, tensors: tuple[torch.Tensor, ...], texts: Texts, options: dict[str, Any]
) -> torch.Tensor:
    rows = []
    for row, lengths in enumerate(texts.lengths):
        parts = zip(*(x[row : row + 1].split(lengths, 2) for x in tensors), strict=True)
        rows.append(torch.cat([whole(module, *part, None, **options)[0] for part in parts], 1))
    return torch.cat(rows)


def _texts(mask: torch.Tensor) -> Texts | None:
    """The texts of a batch, if every token sees its own up to itself and nothing else; else None.

    mask: what each token sees, bool [B, 1, T, T].
    """
    queries, keys = mask.shape[-2:]
    if mask.dtype != torch.bool or mask.shape[1] != 1 or queries != keys or keys < _LONG:
        return None
    begins = torch.ones(mask[:, 0, 0].shape, dtype=torch.long, device=mask.device)
    begins[:, 1:] = ~mask[:, 0].diagonal(-1, 1, 2)
    text = begins.cumsum(1)
    if int(text[:, -1].sum()) * _SHORTEST > text.numel():
        return None
    if not torch.equal(mask[:, 0], (text[:, :, None] == text[:, None]).tril()):
        return None
    lengths = [row.bincount().tolist()[1:] for row in text]
    ends = torch.tensor([0, *(n for row in lengths for n in row)], device=mask.device).cumsum(0).int()
    return Texts(lengths, ends, max(map(max, lengths)))
