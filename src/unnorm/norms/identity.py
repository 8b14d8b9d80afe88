"""Identity with affine: `γ · x + β`. Nothing is normalized: what a linear fit can do, and the bound to beat."""

from typing import ClassVar

import torch

from unnorm.norms.affine import AffineNorm, AffineSpec


class IdentityNorm(AffineNorm):
    """`γ · x + β`. x [..., C]; γ, β [C] fp32."""

    spec: "Identity"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # A view: whoever follows the data by its tensors can tell what comes in from what goes out.
        return super().forward(x) if self.spec.affine else x.view_as(x)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Identity(AffineSpec):
    """Spec of Identity."""

    norm: ClassVar[str] = "identity"

    def build(self, width: int, device: torch.device | str | None = None) -> IdentityNorm:
        return IdentityNorm(self, width, device)
