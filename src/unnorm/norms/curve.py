"""Norms that bend each activation by itself: `γ · φ(α x + s) + β` for a bounded curve φ. No statistics of the token."""

from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, PrivateAttr
from torch import nn

from unnorm.foundation.errors import SettingsError
from unnorm.norms.affine import AffineNorm, AffineSpec
from unnorm.norms.affine_fit import LARGEST, Curve, explained, golden, refine, search, spread_of
from unnorm.norms.spec import fused

_CANDIDATES = 32
_SHIFT_STEPS = 8
_REFINE_STEPS = 6
_ROUNDS = 2
LEAST, LEAST_BESIDE_LARGE = 0.3, 1.0
"""Smallest α · σ(x) of a fit, and that of a site to which large tokens come.

A curve that is nearly linear fits as well, or a little better, but with a γ of many times its usual output, so that a
token far beyond those of the fit passes it unbounded: distilling SmolLM2-135M from such a start diverges. A base
without such tokens ends worse where its curves have to bend (docs/log.md)."""


class CurveNorm(AffineNorm):
    """`γ · φ(α x + s) + β`. Parameters, fp32: `alpha` [1] or [C]; `shift` s [1] where the curve has one; γ, β [C]."""

    spec: "CurveSpec"
    alpha: nn.Parameter
    shift: nn.Parameter | None

    def __init__(self, spec: "CurveSpec", width: int, device: torch.device | str | None = None) -> None:
        super().__init__(spec, width, device)
        size = width if spec.alpha == "channel" else 1
        if spec.alpha_init == "paper":
            raise SettingsError(
                f"alpha_init 'paper' depends on the site, and is not known for {spec.norm!r} by itself."
            )
        self.alpha = nn.Parameter(torch.full((size,), spec.alpha_init, dtype=torch.float32, device=device))
        shift = nn.Parameter(torch.zeros(1, device=device)) if spec.shifted else None
        self.register_parameter("shift", shift)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_cuda:
            # A compiler fuses more than the norm alone.
            out = None if torch.compiler.is_compiling() else fused()(self, x)
            return super().forward(x) if out is None else out
        return self.formula(x)

    def formula(self, x: torch.Tensor) -> torch.Tensor:
        """The output in plain PyTorch, by whatever takes least time off CUDA."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():  # Dynamo leaves its graph at `out`
            return super().forward(x)
        return self._in_place(x)

    def _in_place(self, x: torch.Tensor) -> torch.Tensor:
        """The same without a gradient: one new tensor instead of three."""
        alpha, weight, bias = self._own()
        out = torch.mul(alpha, x.float())
        if self.spec.shifted:
            out.add_(self.shift.float())  # type: ignore[union-attr]
        out = self.spec.curve_(out)
        if bias is not None:
            torch.addcmul(bias, weight, out, out=out)  # type: ignore[arg-type]
        elif weight is not None:
            out.mul_(weight)
        return out if x.dtype is torch.float32 else out.to(x.dtype)

    def _own(self) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """α, γ and β in fp32. Where there are few activations, a module's own search for its attributes takes as long
        as what is computed of them."""
        own = self._parameters
        plain = "alpha" in own and "weight" in own and "bias" in own  # not parametrized, as they are in training
        alpha: Any = own["alpha"] if plain else self.alpha
        weight: Any = own["weight"] if plain else self.weight
        bias: Any = own["bias"] if plain else self.bias
        if alpha.dtype is torch.float32 and (weight is None or weight.dtype is torch.float32):
            return alpha, weight, bias
        weight, bias = (part if part is None else part.float() for part in (weight, bias))
        return alpha.float(), weight, bias

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.spec.curve(self.inner(x))

    def inner(self, x: torch.Tensor) -> torch.Tensor:
        """α x + s. x [..., C] fp32."""
        scaled = self.alpha.float() * x
        return scaled + self.shift.float() if self.spec.shifted else scaled  # type: ignore[union-attr]


class CurveSpec(AffineSpec):
    """Spec of such a norm. A subclass gives `norm`, `curve` and `flat_beyond`, and that is all."""

    bounded: ClassVar[bool] = True
    shifted: ClassVar[bool] = False
    """Whether the curve has a shift s."""
    flat_beyond: ClassVar[float]
    """|α x + s| from which on the curve's slope is below 7 % of its steepest (tanh: 2)."""

    alpha: Literal["scalar", "channel"] = Field(default="scalar", description="one α a site, or one a channel")
    alpha_init: Annotated[float, Field(gt=0)] | Literal["paper"] = Field(
        default=0.5, description="α of a bare start; paper: DyT's, by role and width"
    )
    _beside_large: bool = PrivateAttr(default=False)  # whether large tokens come to the site of a fit

    @staticmethod
    def curve(u: torch.Tensor) -> torch.Tensor:
        """φ(u), element-wise, fp32."""
        raise NotImplementedError

    def curve_(self, u: torch.Tensor) -> torch.Tensor:
        """φ(u), where u may be overwritten."""
        return self.curve(u)

    def build(self, width: int, device: torch.device | str | None = None) -> CurveNorm:
        return CurveNorm(self, width, device)

    def beside_large_tokens(self) -> Self:
        spec = self.model_copy()
        spec._beside_large = True
        return spec

    @property
    def _least(self) -> float:
        """Smallest α · σ(x) of a fit."""
        return LEAST_BESIDE_LARGE if self._beside_large else LEAST

    def shape_(self, module: CurveNorm, x: torch.Tensor, y: torch.Tensor) -> None:
        least, with_bias = self._least, self.has_bias
        if module.shift is not None:
            x, y = x[::2], y[::2]  # curves with a shift take three searches instead of one: on half of the tokens
        alpha = search(self.curve, x, y, least=least, per_channel=self.alpha == "channel", with_bias=with_bias)
        module.alpha.copy_(alpha)
        if module.shift is None:
            return
        for _ in range(_ROUNDS):  # in turns: neither moves the other far
            shift = self._best_shift(module, x, y)
            module.shift.copy_(shift)
            bent = _shifted(self.curve, shift)
            alpha = refine(bent, x, y, alpha, least=least, with_bias=with_bias, steps=_REFINE_STEPS)
            module.alpha.copy_(alpha)

    def _best_shift(self, module: CurveNorm, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        scaled, centred = module.alpha.detach() * x, y - y.mean(0) if self.has_bias else y

        def error(shift: torch.Tensor) -> torch.Tensor:
            return -explained(self.curve(scaled + shift), centred, centred=self.has_bias).sum().reshape(1)

        bound = torch.ones(1, device=x.device)
        return golden(error, -bound, bound, _SHIFT_STEPS)

    def candidates(self, width: int, x: torch.Tensor) -> list[CurveNorm]:
        per_channel = self.alpha == "channel"
        low, high = (torch.tensor(bound).log() for bound in (self._least, LARGEST))
        modules = []
        for scale in torch.linspace(low, high, _CANDIDATES).exp():
            module = self.build(width, x.device)
            module.alpha.copy_(scale / spread_of(x, per_channel=per_channel))
            modules.append(module)
        return modules

    def choose_(self, module: CurveNorm, candidates: list[Any], errors: torch.Tensor) -> list[int]:
        if self.alpha == "scalar":
            return super().choose_(module, candidates, errors)
        best = errors.argmin(0)
        module.alpha.copy_(torch.stack([c.alpha.detach() for c in candidates]).gather(0, best[None])[0])
        return best.tolist()

    def input_scale(self, module: CurveNorm) -> float | None:
        return float(module.alpha.detach().mean())

    def saturated(self, module: CurveNorm, x: torch.Tensor) -> float:
        return float(saturation(module, x))


def _shifted(curve: Curve, shift: torch.Tensor) -> Curve:
    return lambda u: curve(u + shift)


@torch.no_grad()
def saturation(module: CurveNorm, x: torch.Tensor) -> torch.Tensor:
    """Share of activations x [..., C] at which the curve is nearly flat, |α x + s| > `flat_beyond`: an fp32 scalar."""
    return (module.inner(x.float()).abs() > module.spec.flat_beyond).float().mean()
