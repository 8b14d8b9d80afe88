"""Closed-form fits of `γ · φ(α x) + β` to given outputs: least squares for γ and β, a one-dimensional search for α.

For a fixed α the best γ and β of each channel are a simple regression of y on t = φ(α x),

    γ = cov(t, y) / var(t),   β = mean(y) − γ mean(t),   SSE = var(y) − cov(t, y)² / var(t)   (each times N),

so the error of an α is known without solving anything, and α is found by a coarse grid followed by golden-section
search on log α, for one α over all channels or for one α a channel at once.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

Curve = Callable[[torch.Tensor], torch.Tensor]

_SEARCH_TOKENS = 1024
_GRID = 14
_GOLDEN_STEPS = 10
_RANGE = (0.01, 8.0)  # of α · σ(x): from a curve that is as good as linear to one that is as good as a sign


class AffineFit(NamedTuple):
    """Parameters in fp32: alpha [1] or [C], weight [C], bias [C]."""

    alpha: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor


def fit_affine_curve(
    x: torch.Tensor, y: torch.Tensor, curve: Curve, *, per_channel: bool, with_bias: bool
) -> AffineFit:
    """Fit γ · curve(α x) + β to y by least squares.

    x, y [N, C], float. The search for α looks at 1,024 tokens at most, evenly spaced; γ and β use all N, with sums in
    float64. A channel on which the curve is constant gets γ = 0.
    """
    x, y = x.float(), y.float()
    stride = max(1, x.shape[0] // _SEARCH_TOKENS)
    alpha = _search_alpha(x[::stride], y[::stride], curve, per_channel=per_channel, with_bias=with_bias)
    t = curve(alpha * x)
    n = x.shape[0]
    t_mean = t.sum(0, dtype=torch.float64) / n if with_bias else x.new_zeros(x.shape[1], dtype=torch.float64)
    y_mean = y.sum(0, dtype=torch.float64) / n
    y_offset = y_mean if with_bias else torch.zeros_like(y_mean)
    t = t - t_mean.float()
    s_tt = (t * t).sum(0, dtype=torch.float64)
    s_ty = (t * (y - y_offset.float())).sum(0, dtype=torch.float64)
    weight = torch.where(s_tt > 1e-12 * n, s_ty / s_tt.clamp_min(1e-30), torch.zeros_like(s_tt))
    bias = y_mean - weight * t_mean if with_bias else torch.zeros_like(weight)
    return AffineFit(alpha.float(), weight.float(), bias.float())


def _search_alpha(
    x: torch.Tensor, y: torch.Tensor, curve: Curve, *, per_channel: bool, with_bias: bool
) -> torch.Tensor:
    """The α [1] or [C] of the smallest summed squared error. x, y [n, C] fp32."""
    if with_bias:
        y = y - y.mean(0)
    spread = (x.square().mean(0) if per_channel else x.square().mean().reshape(1)).sqrt().clamp_min(1e-12)

    def error(log_alpha: torch.Tensor) -> torch.Tensor:
        t = curve(log_alpha.exp() * x)
        if with_bias:
            t = t - t.mean(0)
        explained = (t * y).sum(0).square() / (t * t).sum(0).clamp_min(1e-20)
        return -(explained if per_channel else explained.sum().reshape(1))

    low, high = (torch.tensor(bound, device=x.device).log() for bound in _RANGE)
    grid = torch.linspace(low, high, _GRID, device=x.device)[:, None] - spread.log()
    errors = torch.stack([error(row) for row in grid])
    best = errors.argmin(0)
    step = (high - low) / (_GRID - 1)
    centre = grid.gather(0, best[None])[0]
    left, right = centre - step, centre + step
    ratio = (5**0.5 - 1) / 2
    a, b = right - ratio * (right - left), left + ratio * (right - left)
    error_a, error_b = error(a), error(b)
    for _ in range(_GOLDEN_STEPS):
        keep_left = error_a < error_b
        left, right = torch.where(keep_left, left, a), torch.where(keep_left, b, right)
        fresh = torch.where(keep_left, right - ratio * (right - left), left + ratio * (right - left))
        error_fresh = error(fresh)
        a, b = torch.where(keep_left, fresh, b), torch.where(keep_left, a, fresh)
        error_a, error_b = (
            torch.where(keep_left, error_fresh, error_b),
            torch.where(keep_left, error_a, error_fresh),
        )
    return ((left + right) / 2).exp()
