"""Clipping of gradients whose norm may lie beyond fp32: those of a deep model with bare norms start at 1e30."""

from collections.abc import Iterable

import torch
from torch import nn


def clip_gradients_(parameters: Iterable[nn.Parameter], max_norm: float) -> torch.Tensor:
    """Scale all gradients in place so that their L2 norm is at most `max_norm`. Returns the norm before, a 0-d tensor.

    `torch.nn.utils.clip_grad_norm_` sums squares in fp32. From gradients of 1e19 on that sum is infinite, and it
    multiplies every gradient by 0: the model learns nothing, and nothing tells you. Here such a norm is summed in fp64,
    and fp64 is what comes back. A gradient that is itself infinite or NaN gives a norm that is so, too.
    """
    with_gradient = [p for p in parameters if p.grad is not None]
    gradients = [p.grad for p in with_gradient if p.grad is not None]
    norm: torch.Tensor = nn.utils.get_total_norm(gradients)
    if torch.isinf(norm):
        norms = [torch.linalg.vector_norm(g, dtype=torch.float64).to(norm.device) for g in gradients]
        norm = torch.linalg.vector_norm(torch.stack(norms))
    nn.utils.clip_grads_with_norm_(with_gradient, max_norm, norm)
    return norm
