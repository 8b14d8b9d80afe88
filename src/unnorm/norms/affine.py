"""Norms of the form `γ · t(x) + β`, for features t of the norm's own: one module and one fit for all of them.

A norm of this form says what t is (`AffineNorm.features`) and how its own settings are found (`AffineSpec.shape_`);
γ and β then follow in closed form, and so does calibration over any number of batches.
"""

from typing import Any

import torch
from pydantic import Field
from torch import nn

from unnorm.norms.affine_fit import Moments, moments
from unnorm.norms.spec import Fit, Norm, NormSpec

SEARCH_TOKENS = 1024
"""How many tokens, evenly spaced, a search over shapes looks at; γ and β use all."""


class AffineNorm(Norm):
    """`γ · t(x) + β` over the last dimension. x [..., C] -> [..., C] in x's dtype; computed in fp32.

    Parameters, fp32: `weight` γ [C] and `bias` β [C] where the spec has them.
    """

    spec: "AffineSpec"
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, spec: "AffineSpec", width: int, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.spec, self.width = spec, width
        for name, present, value in (("weight", spec.affine, 1.0), ("bias", spec.affine and spec.bias, 0.0)):
            parameter = nn.Parameter(torch.full((width,), value, dtype=torch.float32, device=device))
            self.register_parameter(name, parameter if present else None)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """t(x), before γ and β. x [..., C] fp32 -> [..., C]."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return scaled(self.features(x.float()), self.weight, self.bias).to(x.dtype)

    def extra_repr(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.spec.model_dump().items())
        return f"{self.width}, {settings}"


def scaled(t: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
    """γ t + β for t [..., C] fp32, of what there is of γ and β."""
    if weight is not None:
        t = weight.float() * t  # not addcmul, whose gradient takes two operations more
    return t if bias is None else t + bias.float()


class AffineSpec(NormSpec):
    """Spec of a norm of the form `γ · t(x) + β`."""

    affine: bool = Field(default=True, description="γ and β")
    bias: bool = Field(default=True, description="β beside γ")

    @property
    def has_bias(self) -> bool:
        return self.affine and self.bias

    def shape_(self, module: Any, x: torch.Tensor, y: torch.Tensor) -> None:
        """Set what t depends on, so that γ t(x) + β can come close to y. x, y [n, C] fp32, n ≤ `SEARCH_TOKENS`."""

    def candidates(self, width: int, x: torch.Tensor) -> list[Any]:
        """Modules of every shape worth trying, when only running sums can be kept. x [n, C] fp32, a first sample."""
        module = self.build(width, x.device)
        self.shape_(module, x, x)
        return [module]

    def choose_(self, module: Any, candidates: list[Any], errors: torch.Tensor) -> list[int]:
        """Give `module` the best shape among `candidates`; errors [K, C] are their squared errors.

        Returns the candidate to take γ and β from, an index for each channel.
        """
        best = int(errors.sum(1).argmin())
        module.load_state_dict(candidates[best].state_dict())
        return [best] * errors.shape[1]

    def input_scale(self, module: Any) -> float | None:
        """What x is multiplied by before anything else (its mean), for the report; None where that has no meaning."""
        return None

    def saturated(self, module: Any, x: torch.Tensor) -> float:
        """Share of activations x [..., C] at which the norm is nearly flat."""
        return 0.0

    @torch.no_grad()
    def fit_(self, module: Norm, x: torch.Tensor, y: torch.Tensor) -> Fit:
        """Set the shape, then γ and β in least squares, so that module(x) is close to y. x, y [N, C].

        Without affine parameters only the shape is set, to the best one that a free γ and β would want.
        """
        assert isinstance(module, AffineNorm)
        stride = -(-x.shape[0] // SEARCH_TOKENS)
        some = x[::stride].float()
        self.shape_(module, some, y[::stride].float())
        return self.finish_(module, moments(module.features, x, y), some)

    def finish_(self, module: AffineNorm, sums: Moments, some: torch.Tensor) -> Fit:
        """Set γ and β from `sums` and say how well the whole fits. some [n, C]: tokens to count saturation on."""
        weight, bias = sums.solve(with_bias=self.has_bias)
        if module.weight is not None:
            module.weight.copy_(weight)
        if module.bias is not None:
            module.bias.copy_(bias)
        gamma = module.weight if module.weight is not None else 1.0
        beta = module.bias if module.bias is not None else 0.0
        return Fit(sums.r2(gamma, beta), self.input_scale(module), self.saturated(module, some))

    @torch.no_grad()
    def inherit_(self, module: Norm, weight: torch.Tensor | None, bias: torch.Tensor | None) -> None:
        assert isinstance(module, AffineNorm)
        for mine, theirs in ((module.weight, weight), (module.bias, bias)):
            if mine is not None and theirs is not None:
                mine.copy_(theirs)
