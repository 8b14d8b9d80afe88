"""Dynamic inverse square root unit: `γ · α x / √(1 + (α x)²) + β` (Stollenwerk 2025, arXiv 2503.21708).

The paper derives it from RMSNorm's gradient, where DyT is an approximation. Its `x / √(C + x²)` is the same curve with
α = 1 / √C.
"""

from typing import ClassVar

import torch

from unnorm.norms.curve import CurveSpec


class DyISRU(CurveSpec):
    """Spec of DyISRU."""

    norm: ClassVar[str] = "dyisru"
    flat_beyond: ClassVar[float] = 2.21  # (1 + 2.21²)^(−3/2) = 0.07

    @staticmethod
    def curve(u: torch.Tensor) -> torch.Tensor:
        return u * torch.rsqrt(1 + u * u)
