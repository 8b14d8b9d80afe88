"""A curve that is bent straight: `γ · φ(α x) + β` on its way to `γ′ x / σ₀ + β`, a fixed scale, which is linear.

For a typical size u₀ [C] of α x, and c from 1 down to 0:

    y = γ · φ(c α x) · φ(u₀) / φ(c u₀) + β

At c = 1 that is the curve itself; as c falls, it becomes the line through (u₀, φ(u₀)). All of them agree at α x = ± u₀,
so a typical activation keeps its size, and a large one is bounded less and less. Each is a norm of the same kind, with
α′ = c α and γ′ = γ φ(u₀) / φ(c u₀): what runs a curve runs it straightened as well.

A fixed scale can be given such a curve back, one that is all but straight, so that it caps what runs away.
"""

import torch

from unnorm.norms.curve import CurveNorm, CurveSpec
from unnorm.norms.dyt import DyT
from unnorm.norms.fixed_scale import FixedScale, FixedScaleNorm
from unnorm.norms.spec import NormSpec

STRAIGHT = 1 / 64
"""c at which a curve counts as straight: a token of 25 times the typical size is bent by less than 1 % of it."""
TYPICAL = 0.25
"""u₀ of a curve that a fixed scale is given: that of most channels of a DyT that was fitted to a real model."""
_NEAR_ZERO = 1e-2
"""Where a curve's slope at 0 is read off; tanh is a line there to within 3e-5."""


def why_not_straight(spec: NormSpec) -> str | None:
    """Why a norm of this spec cannot be bent straight; None where it can, or is straight already."""
    if not isinstance(spec, (CurveSpec, FixedScale)):
        return "has no curve"
    if not spec.affine:
        return "has no γ, which has to grow as the curve is bent"
    if isinstance(spec, FixedScale):
        return "takes each token's mean off" if spec.center else None
    if spec.shifted:
        return "has a curve with a shift"
    ends = spec.curve(torch.tensor([-1.0, 0.0, 1.0])).tolist()
    return None if ends[1] == 0 and ends[0] == -ends[2] else "has a curve that is not odd"


def gain(spec: CurveSpec, typical: torch.Tensor, c: float) -> torch.Tensor:
    """φ(u₀) / φ(c u₀), what γ is multiplied by at c in (0, 1]. typical: u₀ [C] > 0."""
    return spec.curve(typical) / spec.curve(c * typical)


@torch.no_grad()
def as_fixed_scale(norm: CurveNorm, sigma: torch.Tensor) -> FixedScaleNorm:
    """The fixed scale that is the tangent of `norm` at 0. sigma: σ₀, a scalar; γ is given in units of it."""
    spec = norm.spec
    straight = FixedScale(bias=spec.has_bias, center=False).build(norm.width, norm.alpha.device)
    slope = spec.curve(norm.alpha.new_tensor(_NEAR_ZERO)) / _NEAR_ZERO
    assert norm.weight is not None, "what has no γ is told why_not_straight"
    straight.sigma.copy_(sigma)
    straight.spec.inherit_(straight, norm.weight * norm.alpha * slope * sigma, norm.bias)
    return straight.train(norm.training)


@torch.no_grad()
def as_curve(line: FixedScaleNorm, typical: torch.Tensor) -> CurveNorm:
    """The DyT with one α a channel that has become `line` where it is bent to `STRAIGHT`, with u₀ = `TYPICAL`.

    typical: the usual size of x, [C] > 0.
    """
    curve = DyT(alpha="channel", bias=line.spec.has_bias).build(line.width, typical.device)
    assert line.weight is not None, "what has no γ is told why_not_straight"
    curve.alpha.copy_(TYPICAL / typical)
    bent = STRAIGHT * gain(curve.spec, torch.full_like(typical, TYPICAL), STRAIGHT)
    curve.spec.inherit_(curve, line.weight / (line.sigma * curve.alpha * bent), line.bias)
    return curve.train(line.training)
