"""DyT and Derf in plain PyTorch, forward and backward: what the kernels must equal, and what runs where they cannot.

    h = x + residual,   u = α h + s,   y = γ φ(u) + β,   φ = tanh or erf

Everything is computed in fp32, or in float64 for float64 inputs. The backward pass recomputes u and φ(u) from h.
"""

import math

import torch
from torch import Tensor

Parts = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]
"""α, s, γ, β of a norm."""
Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Of h, α, s, γ, β; an empty tensor for a parameter that is not there or was not asked for."""


def forward(x: Tensor, residual: Tensor | None, parts: Parts, curve: str) -> tuple[Tensor, Tensor]:
    """(h, y) [..., C] in x's dtype; h is x itself without a residual. parts: α [1] or [C]; s [1]; γ, β [C]."""
    alpha, shift, weight, bias = parts
    h = x if residual is None else x + residual
    wide = torch.promote_types(x.dtype, torch.float32)
    u = _inner(h.to(wide), alpha, shift)
    y = torch.erf(u) if curve == "erf" else torch.tanh(u)
    if weight is not None:
        y = y * weight.to(wide)
    if bias is not None:
        y = y + bias.to(wide)
    return h, y.to(x.dtype)


def norms(
    x: Tensor, second: Tensor | None, third: Tensor | None, parts: Parts, other: Parts | None, curve: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """h = x + second + third, its norm, and another norm of h where there is one. All [..., C] of one dtype."""
    if second is not None and third is not None:
        x, second = x + second, third
    h, y = forward(x, second, parts, curve)
    return h, y, None if other is None else forward(h, None, other, curve)[1]


def norm_add(x: Tensor, second: Tensor, inner: Parts, parts: Parts | None, curve: str) -> tuple[Tensor, Tensor | None]:
    """h = second + the norm `inner` of x, and a norm of h where there is one. All [..., C] of one dtype."""
    h = second + forward(x, None, inner, curve)[1]
    return h, None if parts is None else forward(h, None, parts, curve)[1]


def pair(x: Tensor, parts: Parts, other_x: Tensor, other: Parts, curve: str) -> tuple[Tensor, Tensor]:
    """The norms of two tensors [..., C] and [..., D] of one dtype."""
    return forward(x, None, parts, curve)[1], forward(other_x, None, other, curve)[1]


def backward(dy: Tensor, dh: Tensor | None, h: Tensor, parts: Parts, curve: str, parameters: bool) -> Gradients:
    """Gradients from dy [..., C] of y and dh [..., C] of h. parameters: whether those of α, s, γ and β are wanted."""
    alpha, shift, weight, _ = parts
    wide = torch.promote_types(h.dtype, torch.float32)
    wide_h, wide_dy = h.to(wide), dy.to(wide)
    u = _inner(wide_h, alpha, shift)
    value, slope = (torch.erf(u), _erf_slope(u)) if curve == "erf" else (torch.tanh(u), _tanh_slope(u))
    du = wide_dy * slope if weight is None else wide_dy * weight.to(wide) * slope
    dx = du * alpha.to(wide)
    if dh is not None:
        dx = dx + dh.to(wide)
    sums = (du * wide_h, du, wide_dy * value, wide_dy) if parameters else (None,) * 4
    found = [_summed(part, of, h) for part, of in zip(sums, parts, strict=True)]
    return dx.to(h.dtype), *found  # type: ignore[return-value]


def _inner(h: Tensor, alpha: Tensor, shift: Tensor | None) -> Tensor:
    u = alpha.to(h.dtype) * h
    return u if shift is None else u + shift.to(h.dtype)


def _tanh_slope(u: Tensor) -> Tensor:
    """1 − tanh(u)², without the cancellation where tanh is near 1."""
    e = torch.exp(-2 * u.abs())
    return 4 * e / (1 + e).square()


def _erf_slope(u: Tensor) -> Tensor:
    return 2 / math.sqrt(math.pi) * torch.exp(-u.square())


def _summed(gradient: Tensor | None, parameter: Tensor | None, h: Tensor) -> Tensor:
    """gradient [..., C] over tokens, and over channels for a parameter of one number; an empty tensor for none."""
    if gradient is None or parameter is None:
        return h.new_empty(0)
    rows = gradient.reshape(-1, gradient.shape[-1]) if gradient.numel() else gradient.new_zeros(1, gradient.shape[-1])
    return (rows.sum().reshape(1) if parameter.numel() == 1 else rows.sum(0)).to(parameter.dtype)
