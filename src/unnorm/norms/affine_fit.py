"""Closed-form fits of `γ · t + β` to given outputs, from running sums, so that any number of tokens fits in memory.

For fixed features t the best γ and β of each channel are a simple regression of y on t,

    γ = cov(t, y) / var(t),   β = mean(y) − γ mean(t),   error = var(y) − cov(t, y)² / var(t)   (each times N),

so the error of any candidate for t is known without solving anything: `search` uses that to find the scale of a curve.
"""

import math
from collections.abc import Callable

import torch

Curve = Callable[[torch.Tensor], torch.Tensor]

_CHUNK = 8192
_GRID = 14
_GOLDEN_STEPS = 10
_NEAR = 0.1  # of log α
_CONSTANT = 1e-12
"""Variance of t, as a share of the mean of t², below which it is rounding: fp32 rounds t by 6e-8 of it."""
LARGEST = 8.0
"""Largest α · σ(x): a curve as good as a sign."""


class Moments:
    """Sums over tokens, a channel each, in float64: of t, y, t², t y and y². All [C]."""

    def __init__(self) -> None:
        self.n = 0
        self._sums = torch.zeros(5, 0, dtype=torch.float64)

    def add(self, t: torch.Tensor, y: torch.Tensor) -> "Moments":
        """Take in t, y [n, C], any float dtype."""
        # In float64 before they are multiplied: of a saturated channel the variance is less than fp32 rounds t² by.
        t, y = t.double(), y.double()
        parts = [v.sum(0) for v in (t, y, t * t, t * y, y * y)]
        self._sums = torch.stack(parts) + (self._sums.to(t.device) if self.n else 0)
        self.n += t.shape[0]
        return self

    @classmethod
    def by_channel(cls, sums: list["Moments"], chosen: list[int]) -> "Moments":
        """For each channel the sums of `sums[chosen[channel]]`; all over the same tokens."""
        picked = cls()
        picked.n = sums[0].n
        stacked = torch.stack([s._sums for s in sums], dim=-1)  # [5, C, K]
        index = torch.tensor(chosen, device=stacked.device).expand(5, -1)[..., None]
        picked._sums = stacked.gather(-1, index)[..., 0]
        return picked

    def solve(self, *, with_bias: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """(γ, β), each [C] in float64. A channel on which t is constant gets γ = 0."""
        t, y, squares, ty, _ = self._sums / self.n
        tt = squares
        if with_bias:
            tt, ty = squares - t * t, ty - t * y
        varies = tt > _CONSTANT * squares
        weight = torch.where(varies, ty / torch.where(varies, tt, 1.0), 0.0)
        return weight, (y - weight * t if with_bias else torch.zeros_like(weight))

    def r2(self, weight: torch.Tensor | float, bias: torch.Tensor | float) -> float:
        """Share of the variance of y around each channel's mean that γ t + β explains, over all channels."""
        error, total = self.error(weight, bias).sum(), (self._sums[4] - self._sums[1].square() / self.n).sum()
        return float(1 - error / total) if total > 0 else float(error <= 0)

    def error(self, weight: torch.Tensor | float, bias: torch.Tensor | float) -> torch.Tensor:
        """Σ (y − γ t − β)² a channel, [C]."""
        t, y, tt, ty, yy = self._sums
        weight, bias = (torch.as_tensor(v, dtype=torch.float64, device=t.device) for v in (weight, bias))
        cross = -2 * weight * ty - 2 * bias * y + 2 * weight * bias * t
        error: torch.Tensor = yy + weight.square() * tt + bias.square() * self.n + cross
        return error.clamp_min(0)


def moments(features: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> Moments:
    """The sums for t = features(x) over all tokens of x, y [N, C], a chunk at a time."""
    sums = Moments()
    for at in range(0, x.shape[0], _CHUNK):
        sums.add(features(x[at : at + _CHUNK].float()), y[at : at + _CHUNK])
    return sums


def spread_of(x: torch.Tensor, *, per_channel: bool) -> torch.Tensor:
    """Root mean square of x [N, C], over everything ([1]) or a channel ([C])."""
    return (x.square().mean(0) if per_channel else x.square().mean().reshape(1)).sqrt().clamp_min(1e-12)


def search(
    curve: Curve, x: torch.Tensor, y: torch.Tensor, *, least: float, per_channel: bool, with_bias: bool
) -> torch.Tensor:
    """The α [1] or [C] for which γ curve(α x) + β has the smallest squared error. x, y [n, C] fp32.

    A coarse grid from `least` to `LARGEST` times 1 / the spread of x, then golden-section search on log α.
    """
    error = _error(curve, x, y, per_channel=per_channel, with_bias=with_bias)
    low, high = math.log(least), math.log(LARGEST)
    unit = spread_of(x, per_channel=per_channel).log()
    grid = torch.linspace(low, high, _GRID, device=x.device)[:, None] - unit
    errors = torch.stack([error(row) for row in grid])
    centre = grid.gather(0, errors.argmin(0)[None])[0]
    step = (high - low) / (_GRID - 1)
    left, right = (centre - step).maximum(low - unit), (centre + step).minimum(high - unit)
    return golden(error, left, right, _GOLDEN_STEPS).exp()


def refine(
    curve: Curve, x: torch.Tensor, y: torch.Tensor, alpha: torch.Tensor, *, least: float, with_bias: bool, steps: int
) -> torch.Tensor:
    """The best α near `alpha` [1] or [C], no smaller than `least` times 1 / the spread of x."""
    per_channel = alpha.numel() > 1
    error = _error(curve, x, y, per_channel=per_channel, with_bias=with_bias)
    low = math.log(least) - spread_of(x, per_channel=per_channel).log()
    return golden(error, (alpha.log() - _NEAR).maximum(low), alpha.log() + _NEAR, steps).exp()


def _error(
    curve: Curve, x: torch.Tensor, y: torch.Tensor, *, per_channel: bool, with_bias: bool
) -> Callable[[torch.Tensor], torch.Tensor]:
    """log α -> minus the squares that γ curve(α x) + β explains, [1] or [C]."""
    if with_bias:
        y = y - y.mean(0)

    def error(log_alpha: torch.Tensor) -> torch.Tensor:
        squares = explained(curve(log_alpha.exp() * x), y, centred=with_bias)
        return -(squares if per_channel else squares.sum().reshape(1))

    return error


def explained(t: torch.Tensor, y: torch.Tensor, *, centred: bool) -> torch.Tensor:
    """Σ y² that γ t explains at its best, a channel [C]; t, y [n, C]. t is overwritten. centred: t's mean is taken off
    first, as y's was."""
    if centred:
        t -= t.mean(0)
    product = (t * y).sum(0).square()
    return product / t.square_().sum(0).clamp_min(1e-20)


def golden(
    error: Callable[[torch.Tensor], torch.Tensor], left: torch.Tensor, right: torch.Tensor, steps: int
) -> torch.Tensor:
    """Where `error` is smallest between `left` and `right`, an entry each, by golden-section search."""
    ratio = (5**0.5 - 1) / 2
    a, b = right - ratio * (right - left), left + ratio * (right - left)
    error_a, error_b = error(a), error(b)
    for _ in range(steps):
        keep_left = error_a < error_b
        left, right = torch.where(keep_left, left, a), torch.where(keep_left, b, right)
        fresh = torch.where(keep_left, right - ratio * (right - left), left + ratio * (right - left))
        error_fresh = error(fresh)
        a, b = torch.where(keep_left, fresh, b), torch.where(keep_left, a, fresh)
        error_a, error_b = (
            torch.where(keep_left, error_fresh, error_b),
            torch.where(keep_left, error_a, error_fresh),
        )
    return (left + right) / 2
