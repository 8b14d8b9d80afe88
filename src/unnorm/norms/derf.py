"""Dynamic erf: `γ · erf(α x + s) + β` (Chen et al. 2025, arXiv 2512.10938), with one shift s a site."""

from typing import ClassVar

import torch

from unnorm.norms.curve import CurveSpec


class Derf(CurveSpec):
    """Spec of Derf."""

    norm: ClassVar[str] = "derf"
    shifted: ClassVar[bool] = True
    flat_beyond: ClassVar[float] = 1.63  # exp(−1.63²) = 0.07

    @staticmethod
    def curve(u: torch.Tensor) -> torch.Tensor:
        return torch.erf(u)

    def curve_(self, u: torch.Tensor) -> torch.Tensor:
        return u.erf_()
