"""Fixed scale: `γ · (x − mean(x)) / σ₀ + β` with a constant σ₀ (Heimersheim 2024, arXiv 2409.13710).

LayerNorm with its standard deviation replaced by its average over tokens: linear, so it can be folded into the weights
around it. σ₀ [1] is a buffer and never trains; calibration measures it, a bare start has σ₀ = 1.
"""

from typing import ClassVar

import torch
from pydantic import Field

from unnorm.norms.affine import AffineNorm, AffineSpec


class FixedScaleNorm(AffineNorm):
    """`γ · (x − mean(x)) / σ₀ + β`. x [..., C]. Buffer `sigma` [1] fp32; γ, β [C]."""

    spec: "FixedScale"
    sigma: torch.Tensor

    def __init__(self, spec: "FixedScale", width: int, device: torch.device | str | None = None) -> None:
        super().__init__(spec, width, device)
        self.register_buffer("sigma", torch.ones(1, device=device))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.spec.centred(x) / self.sigma.float()


class FixedScale(AffineSpec):
    """Spec of FixedScale."""

    norm: ClassVar[str] = "fixedscale"
    center: bool = Field(default=True, description="take each token's mean off, as LayerNorm does and RMSNorm does not")

    def build(self, width: int, device: torch.device | str | None = None) -> FixedScaleNorm:
        return FixedScaleNorm(self, width, device)

    def centred(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., C] without each token's mean, where the spec centres."""
        return x - x.mean(-1, keepdim=True) if self.center else x

    def shape_(self, module: FixedScaleNorm, x: torch.Tensor, y: torch.Tensor) -> None:
        module.sigma.copy_(self.centred(x).square().mean(-1).sqrt().mean().clamp_min(1e-12))

    def input_scale(self, module: FixedScaleNorm) -> float | None:
        return float(1 / module.sigma)
