"""Dynamic Tanh: `γ · tanh(α x) + β` (Zhu et al. 2025, arXiv 2503.10622, equation 1), element-wise, no statistics."""

import math
from typing import ClassVar

import torch

from unnorm.norms.affine import scaled
from unnorm.norms.curve import CurveNorm, CurveSpec

_PAPER = {1024: (1.0, 1.0), 2048: (1.0, 0.5), 4096: (0.8, 0.2), 8192: (0.2, 0.05)}
"""Width -> α₀ before an attention and elsewhere, for language models (arXiv 2503.10622, the tuned α₀ of LLaMA)."""
_PAPER_BELOW = 0.5
_MANY = 2048
"""Activations from which on tanh takes longer than two small operations more."""


class DyTNorm(CurveNorm):
    """`γ · tanh(α x) + β`; off CUDA by the logistic function, of which PyTorch's takes a tenth of its tanh's time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_cuda or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().forward(x)
        # In one piece and in place: of a token or two, each call more takes as long as what is computed.
        alpha, weight, bias = self._own()
        fp32 = x.dtype is torch.float32
        wide = x if fp32 else x.float()
        if x.numel() < _MANY:
            out = torch.mul(alpha, wide).tanh_()
            if bias is not None:
                torch.addcmul(bias, weight, out, out=out)  # type: ignore[arg-type]
            elif weight is not None:
                out.mul_(weight)
        else:
            out = torch.mul(alpha * -2, wide).sigmoid_()
            if weight is None:
                torch.sub(out.new_ones(()), out, alpha=2, out=out)
            else:
                torch.addcmul(weight if bias is None else weight + bias, weight, out, value=-2, out=out)
        return out if fp32 else out.to(x.dtype)

    def formula(self, x: torch.Tensor) -> torch.Tensor:
        if x.numel() < _MANY and not torch.compiler.is_compiling():
            return self._small(x)
        # γ tanh(u) + β = (γ + β) − 2 γ σ(−2 u): as many passes over the activations as with tanh. Right to 1e-7.
        alpha, weight, bias = self._own()
        sigmoid = torch.mul(alpha * -2, x.float()).sigmoid_()
        if weight is None:
            return torch.sub(sigmoid.new_ones(()), sigmoid, alpha=2).to(x.dtype)
        high = weight if bias is None else weight + bias
        return torch.addcmul(high, weight, sigmoid, value=-2).to(x.dtype)

    def _small(self, x: torch.Tensor) -> torch.Tensor:
        """With a gradient, for so few activations that calls take the time."""
        alpha, weight, bias = self._own()
        return scaled(torch.tanh(alpha * x.float()), weight, bias).to(x.dtype)


class DyT(CurveSpec):
    """Spec of Dynamic Tanh."""

    norm: ClassVar[str] = "dyt"
    flat_beyond: ClassVar[float] = 2.0  # tanh(2) = 0.964, its slope there 0.07

    @staticmethod
    def curve(u: torch.Tensor) -> torch.Tensor:
        return torch.tanh(u)

    def curve_(self, u: torch.Tensor) -> torch.Tensor:
        return u.tanh_()

    def build(self, width: int, device: torch.device | str | None = None) -> DyTNorm:
        return DyTNorm(self, width, device)

    def for_site(self, role: str, width: int, kind: str) -> "DyT":
        if self.alpha_init != "paper":
            return self
        return self.model_copy(update={"alpha_init": paper_alpha(role, width)})


def paper_alpha(role: str, width: int) -> float:
    """The DyT paper's α₀ for a language model's site: by width, the nearest of its table, and by role."""
    if width < min(_PAPER):
        return _PAPER_BELOW
    nearest = min(_PAPER, key=lambda known: abs(math.log(known / width)))
    return _PAPER[nearest][0 if role == "attention" else 1]
