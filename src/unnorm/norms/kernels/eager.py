"""The kernels with autograd in eager mode, past the dispatcher, whose own time is that of several small kernels.

Importing this imports Triton.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unnorm.norms.kernels import launch
from unnorm.norms.kernels.formula import Parts

norms, norm_add, pair = launch.norms, launch.norm_add, launch.pair


def curve_norm(x: Tensor, parts: Parts, curve: str) -> Tensor:
    """y [..., C] = γ φ(α x + s) + β for x on CUDA. There is no second derivative."""
    if torch.is_grad_enabled():
        return _CurveNorm.apply(x, *parts, curve)  # type: ignore[no-any-return]
    return norms(x, None, None, parts, None, curve)[1]


class _CurveNorm(torch.autograd.Function):
    """Keeps x and the parameters, and computes the rest again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, shift: Any, weight: Any, bias: Any, curve: str) -> Tensor:
        ctx.save_for_backward(x, alpha, shift, weight, bias)
        ctx.curve = curve
        return norms(x, None, None, (alpha, shift, weight, bias), None, curve)[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        _, alpha, shift, weight, bias, _ = ctx.needs_input_grad
        asked = alpha or shift or weight or bias
        h, *parts = ctx.saved_tensors
        dx, dalpha, dshift, dweight, dbias = launch.backward(dy, None, h, tuple(parts), ctx.curve, asked)  # type: ignore[arg-type]
        return (
            dx,
            dalpha if alpha else None,
            dshift if shift else None,
            dweight if weight else None,
            dbias if bias else None,
            None,
        )
