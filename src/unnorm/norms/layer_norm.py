"""LayerNorm: `γ · (x − mean(x)) / √(var(x) + ε) + β` over each token (Ba et al. 2016, arXiv 1607.06450, equation 3)."""

from typing import ClassVar

import torch
from pydantic import Field

from unnorm.norms.affine import AffineNorm, AffineSpec


class LayerNormNorm(AffineNorm):
    """LayerNorm over the last dimension. x [..., C]; γ, β [C] fp32."""

    spec: "LayerNorm"

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.layer_norm(x, (self.width,), eps=self.spec.eps)


class LayerNorm(AffineSpec):
    """Spec of LayerNorm."""

    norm: ClassVar[str] = "layernorm"
    eps: float = Field(default=1e-5, gt=0, description="ε, in the unit of x²")

    def build(self, width: int, device: torch.device | str | None = None) -> LayerNormNorm:
        return LayerNormNorm(self, width, device)
