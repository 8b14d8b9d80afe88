"""Dynamic Tanh: `γ · tanh(α x) + β` (Zhu et al. 2025, arXiv 2503.10622, equation 1), element-wise, no statistics."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from unnorm.norms.affine_fit import fit_affine_curve
from unnorm.norms.spec import Fit, Norm, NormSpec, explained, register

SATURATED_BEYOND = 2.0  # |α x|: tanh(2) = 0.964, its slope there 0.07


class DynamicTanh(Norm):
    """`γ · tanh(α x) + β` over the last dimension. x [..., C] -> [..., C], in x's dtype; computed in fp32.

    Parameters, fp32: `alpha` [1] or [C]; `weight` γ [C] and `bias` β [C] where the spec has them.
    """

    spec: "DyT"
    alpha: nn.Parameter
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, spec: "DyT", width: int, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.spec, self.width = spec, width
        size = width if spec.alpha == "channel" else 1
        self.alpha = nn.Parameter(torch.full((size,), spec.alpha_init, dtype=torch.float32, device=device))
        for name, present, value in (("weight", spec.affine, 1.0), ("bias", spec.affine and spec.bias, 0.0)):
            parameter = nn.Parameter(torch.full((width,), value, dtype=torch.float32, device=device))
            self.register_parameter(name, parameter if present else None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.tanh(self.alpha.float() * x.float())
        if self.weight is not None and self.bias is not None:
            out = torch.addcmul(self.bias.float(), self.weight.float(), out)
        elif self.weight is not None:
            out = self.weight.float() * out
        return out.to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.width}, alpha={self.spec.alpha}, affine={self.spec.affine}, bias={self.spec.bias}"


@register
class DyT(NormSpec):
    """Spec of Dynamic Tanh."""

    norm: ClassVar[str] = "dyt"
    alpha: Literal["scalar", "channel"] = Field(default="scalar", description="one α a site, or one a channel")
    affine: bool = Field(default=True, description="γ and β; without them the norm is tanh(α x)")
    bias: bool = Field(default=True, description="β beside γ")
    alpha_init: float = Field(default=0.5, gt=0, description="α of a bare start")

    def build(self, width: int, device: torch.device | str | None = None) -> DynamicTanh:
        return DynamicTanh(self, width, device)

    @torch.no_grad()
    def fit_(self, module: Norm, x: torch.Tensor, y: torch.Tensor) -> Fit:
        """Set α, γ, β so that module(x) is close to y in least squares. x, y [N, C].

        Without affine parameters only α is set, to the best one a free γ and β would want.
        """
        assert isinstance(module, DynamicTanh)
        fit = fit_affine_curve(
            x, y, torch.tanh, per_channel=self.alpha == "channel", with_bias=self.affine and self.bias
        )
        module.alpha.copy_(fit.alpha)
        if module.weight is not None:
            module.weight.copy_(fit.weight)
        if module.bias is not None:
            module.bias.copy_(fit.bias)
        return Fit(explained(module(x), y), float(fit.alpha.mean()), saturation(module, x))


@torch.no_grad()
def saturation(module: DynamicTanh, x: torch.Tensor) -> float:
    """Share of activations x [..., C] at which |α x| > 2."""
    return float(((module.alpha * x).abs() > SATURATED_BEYOND).float().mean())
