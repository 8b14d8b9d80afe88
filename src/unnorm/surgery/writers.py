"""What adds to the residual stream, found by behaviour: the stream is the sum of what was written to it.

The stream at its last reader is `s + Σ c_j o_j`, s being the embeddings or what an earlier norm read, and o_j the
outputs of the modules that write to it: linear layers, and norms that stand behind one (post-norms, as in Gemma and
OLMo 2). Every linear layer of the stream's width is a candidate, with every norm whose output is added to the stream. A
regression over a few tokens finds the c_j, and what remains unexplained tells whether the model is of this form at all
(fused experts write too, and BERT's stream is a norm's output). Most models have c = 1; Granite scales.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from unnorm.surgery.base import context_length
from unnorm.surgery.linears import is_linear, weight_of
from unnorm.surgery.passes import hooked, run
from unnorm.surgery.sites import Site

_TOKENS = 64  # a power of two, so that any shorter context divides it
_UNEXPLAINED = 0.02
"""Of the growth's size: above bf16's rounding over dozens of layers, far below a single layer's share."""


@dataclass(frozen=True)
class StreamSum:
    """`start + Σ c o`: writers is the path of each module that writes -> its c, in the order in which they write."""

    start: str
    """A module: `start` is what it is given, or `scale` times what it gives."""
    start_is_input: bool
    scale: float
    writers: dict[str, float]


@dataclass(frozen=True, eq=False)
class _Seen:
    path: str
    kind: str
    """`reads`, `writes` or `embeddings`."""
    values: torch.Tensor
    begun: bool
    """Whether a norm that is swapped had been called before."""


@torch.no_grad()
def stream_sum(model: nn.Module, sites: Sequence[Site], swapped: Sequence[str]) -> StreamSum | None:
    """The stream from the first of the sites `swapped` on; None if more than linear layers and norms writes to it.

    sites: all sites of `model`, in execution order; swapped: the paths of some of them.
    """
    reading = [site for site in sites if site.residual == "reads"]
    if not reading:
        return None
    seen = _watch(model, sites, swapped, reading[-1].width)
    reads = [one for one in seen if one.kind == "reads"]
    if not reads:
        return None
    writes = [one for one in seen if one.kind == "writes" and one.values.shape == reads[-1].values.shape]
    if not writes:
        return None
    before = [one for one in seen[: seen.index(writes[0])] if one.kind == "reads"]
    embeddings = [one for one in seen if one.kind == "embeddings"]
    start = before[0] if before else embeddings[0] if embeddings else None
    if start is None or start.values.shape != reads[-1].values.shape:
        return None
    growth = reads[-1].values - (start.values if before else 0)
    outputs = [one.values for one in writes] + ([] if before else [start.values])
    found = _coefficients(growth, torch.stack(outputs, dim=1))
    if found is None:
        return None
    all_writers = {one.path: c for one, c in zip(writes, found, strict=False) if abs(c) > 0.02}
    kept = [one for one in writes if one.begun and one.path in all_writers]
    if kept and (later := [one for one in seen[: seen.index(kept[0])] if one.kind == "reads"]):
        return StreamSum(later[-1].path, True, 1.0, {one.path: all_writers[one.path] for one in kept})
    scale = 1.0 if before else found[-1]
    return StreamSum(start.path, bool(before), scale, {one.path: all_writers[one.path] for one in kept})


def _watch(model: nn.Module, sites: Sequence[Site], swapped: Sequence[str], width: int) -> list[_Seen]:
    """What reads and may write the stream of `width` channels, in the order of a pass over a few tokens."""
    seen: list[_Seen] = []
    begun = False

    def begin(*_: Any) -> None:
        nonlocal begun
        begun = True

    def see(path: str, kind: str, tensor: Any) -> None:
        if tensor.shape[-1] == width:
            seen.append(_Seen(path, kind, tensor.double().flatten(), begun))

    embedding: Any = getattr(model, "get_input_embeddings", lambda: None)()
    handles: list[Any] = [model.get_submodule(path).register_forward_pre_hook(begin) for path in swapped]
    for path, module in model.named_modules():
        site = next((site for site in sites if site.path == path), None)
        if site is not None and site.residual == "reads":
            handles.append(module.register_forward_pre_hook(lambda m, args, path=path: see(path, "reads", args[0])))
        if (site is not None and site.residual == "writes") or (
            is_linear(module) and weight_of(module).shape[0] == width
        ):
            handles.append(module.register_forward_hook(lambda m, a, out, path=path: see(path, "writes", out)))
        if module is embedding:
            handles.append(module.register_forward_hook(lambda m, a, out, path=path: see(path, "embeddings", out)))
    with hooked(handles):
        config: Any = model.config
        vocabulary = getattr(config.get_text_config(), "vocab_size", _TOKENS)
        length = 2 ** int(math.log2(min(_TOKENS, context_length(model) or _TOKENS)))
        device = next(model.parameters()).device
        ids = torch.arange(_TOKENS, device=device).view(-1, length) * 7919 % vocabulary
        run(model, {"input_ids": ids})
    return seen


def _coefficients(wanted: torch.Tensor, outputs: torch.Tensor) -> list[float] | None:
    """c [J] with Σ c_j outputs[:, j] = wanted [M], or None where no c gives it."""
    scale = outputs.norm(dim=0).clamp_min(1e-30)
    outputs, wanted = (outputs / scale).cpu(), wanted.cpu()
    solution = torch.linalg.lstsq(outputs, wanted[:, None], driver="gelsd").solution[:, 0]
    unexplained = (wanted - outputs @ solution).norm() / wanted.norm().clamp_min(1e-30)
    return (solution / scale.cpu()).tolist() if unexplained < _UNEXPLAINED else None
