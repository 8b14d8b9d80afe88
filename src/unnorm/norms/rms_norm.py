"""RMSNorm: `γ · x / √(mean(x²) + ε)` over each token (Zhang & Sennrich 2019, arXiv 1910.07467, equation 4)."""

from typing import ClassVar

import torch
from pydantic import Field

from unnorm.norms.affine import AffineNorm, AffineSpec


class RMSNormNorm(AffineNorm):
    """RMSNorm over the last dimension. x [..., C]; γ [C] fp32, and β [C] where the spec has one."""

    spec: "RMSNorm"

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x, (self.width,), eps=self.spec.eps)


class RMSNorm(AffineSpec):
    """Spec of RMSNorm."""

    norm: ClassVar[str] = "rmsnorm"
    bias: bool = Field(default=False, description="β beside γ")
    eps: float = Field(default=1e-6, gt=0, description="ε, in the unit of x²")

    def build(self, width: int, device: torch.device | str | None = None) -> RMSNormNorm:
        return RMSNormNorm(self, width, device)
