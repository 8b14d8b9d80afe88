"""Which linear layers add to the residual stream, found by behaviour: the stream is the sum of what was written to it.

Between the first and the last site that read the stream, it grows by `Σ c_j o_j`, o_j being the outputs of the layers
that write to it. Every linear layer of the stream's width is a candidate, a regression over a few tokens finds the c_j,
and what remains unexplained tells whether the model is of this form at all (post-norm models and fused experts are
not). Most models have c = 1; Granite scales.
"""

import math
from typing import Any

import torch
from torch import nn

from unnorm.surgery.base import context_length
from unnorm.surgery.passes import hooked, run
from unnorm.surgery.sites import Site

_TOKENS = 64  # a power of two, so that any shorter context divides it
_UNEXPLAINED = 0.02
"""Of the growth's size: above bf16's rounding over dozens of layers, far below a single layer's share."""


def is_linear(module: nn.Module) -> bool:
    """A plain linear layer: torch's, or GPT-2's `Conv1D`, whose weight lies the other way round."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def weight_of(module: Any) -> torch.Tensor:
    """A view of the weight of a linear layer, [out, in]."""
    return module.weight if isinstance(module, nn.Linear) else module.weight.T  # type: ignore[no-any-return]


def shared_weights(model: nn.Module) -> set[int]:
    """Ids of the parameters that stand in several places, as a tied embedding does."""
    seen: set[int] = set()
    shared: set[int] = set()
    for _, parameter in model.named_parameters(remove_duplicate=False):
        (shared if id(parameter) in seen else seen).add(id(parameter))
    return shared


@torch.no_grad()
def stream_writers(model: nn.Module, sites: list[Site]) -> dict[str, float] | None:
    """Path -> coefficient c of every linear layer that writes to the stream; None if the stream is not their sum."""
    parameter = next(model.parameters())
    width = sites[-1].width
    reads: list[torch.Tensor] = []
    written: dict[str, torch.Tensor] = {}

    def read(module: nn.Module, args: Any) -> None:
        if args[0].shape[-1] == width:
            reads.append(args[0].double().flatten())

    handles = [model.get_submodule(site.path).register_forward_pre_hook(read) for site in sites]
    for path, module in model.named_modules():
        if is_linear(module) and weight_of(module).shape[0] == width:
            handles.append(
                module.register_forward_hook(
                    lambda m, a, out, path=path: written.update({path: out.double().flatten()})
                )
            )
    with hooked(handles):
        config: Any = model.config
        vocabulary = getattr(config.get_text_config(), "vocab_size", _TOKENS)
        length = min(_TOKENS, context_length(model) or _TOKENS)
        length = 2 ** int(math.log2(length))
        ids = torch.arange(_TOKENS, device=parameter.device).view(-1, length) * 7919 % vocabulary
        run(model, {"input_ids": ids})
    written = {path: out for path, out in written.items() if out.shape == reads[0].shape}
    if len(reads) < 2 or not written or any(read.shape != reads[0].shape for read in reads):
        return None
    growth = reads[-1] - reads[0]
    outputs = torch.stack(list(written.values()), dim=1)
    scale = outputs.norm(dim=0).clamp_min(1e-30)
    solution = torch.linalg.lstsq((outputs / scale).cpu(), growth[:, None].cpu(), driver="gelsd").solution[:, 0]
    unexplained = (growth.cpu() - (outputs / scale).cpu() @ solution).norm() / growth.norm().cpu().clamp_min(1e-30)
    if not unexplained < _UNEXPLAINED:
        return None
    coefficients = solution / scale.cpu()
    return {path: float(c) for path, c in zip(written, coefficients.tolist(), strict=True) if abs(c) > 0.02}
