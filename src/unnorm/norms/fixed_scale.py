"""Fixed scale: `γ · (x − mean(x)) / σ₀ + β` with a constant σ₀ (Heimersheim 2024, arXiv 2409.13710).

LayerNorm with its standard deviation replaced by its average over tokens, or RMSNorm with its root mean square, which
takes no mean off: linear, so it can be folded into the weights around it. σ₀ [1] is a buffer and never trains;
calibration measures it, a bare start has σ₀ = 1.
"""

from typing import ClassVar

import torch
from pydantic import Field

from unnorm.norms.affine import AffineNorm, AffineSpec


class FixedScaleNorm(AffineNorm):
    """`γ · (x − mean(x)) / σ₀ + β`, or without the mean. x [..., C]. Buffer `sigma` [1] fp32; γ, β [C]."""

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
    center: bool | None = Field(
        default=None,
        description="take each token's mean off, as LayerNorm does and RMSNorm does not; null: as the replaced norm",
    )

    def build(self, width: int, device: torch.device | str | None = None) -> FixedScaleNorm:
        return FixedScaleNorm(self, width, device)

    def for_site(self, role: str, width: int, kind: str) -> "FixedScale":
        if self.center is not None:
            return self
        return self.model_copy(update={"center": kind.startswith("layernorm")})

    @property
    def centres(self) -> bool:
        """Whether it takes a token's mean off: also one that says nothing and stands at no site."""
        return self.center is not False

    def centred(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., C] without each token's mean, where the spec centres."""
        return x - x.mean(-1, keepdim=True) if self.centres else x

    def shape_(self, module: FixedScaleNorm, x: torch.Tensor, y: torch.Tensor) -> None:
        module.sigma.copy_(self.centred(x).square().mean(-1).sqrt().mean().clamp_min(1e-12))

    def input_scale(self, module: FixedScaleNorm) -> float | None:
        return float(1 / module.sigma)
