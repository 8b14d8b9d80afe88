"""What `optimize_` makes of a DyT on a processor: `γ tanh(α x) + β = (γ + β) − 2 γ σ(−2 α x)`, with all but σ and its
scale in the layers that read it. PyTorch's sigmoid takes about a tenth of its tanh's time there.
"""

from typing import ClassVar

import torch

from unnorm.norms.curve import CurveNorm, CurveSpec
from unnorm.norms.dyt import DyTNorm


class Logistic(CurveSpec):
    """Spec of `γ · σ(α x) + β`. Not among the names that one can choose: as a curve to fit it is a DyT."""

    norm: ClassVar[str] = "logistic"
    flat_beyond: ClassVar[float] = 4.0  # σ(u) = (1 + tanh(u / 2)) / 2

    @staticmethod
    def curve(u: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(u)

    def curve_(self, u: torch.Tensor) -> torch.Tensor:
        return u.sigmoid_()


@torch.no_grad()
def logistic_of(module: DyTNorm) -> tuple[CurveNorm, torch.Tensor, torch.Tensor]:
    """(s, c, d) with module(x) = c · s(x) + d: s without γ and β, c and d [C] float64."""
    own = module.spec
    bare = Logistic(affine=False, alpha=own.alpha).build(module.width, module.alpha.device)
    bare.alpha.copy_(module.alpha * -2)
    ones = torch.ones(module.width, dtype=torch.float64, device=module.alpha.device)
    gamma = ones if module.weight is None else module.weight.double()
    beta = 0.0 if module.bias is None else module.bias.double()
    return bare, -2 * gamma, gamma + beta
