"""What the kernels' tests share: random norms, and the exact answer in float64."""

import math
from typing import NamedTuple

import torch


class Case(NamedTuple):
    """A norm and what it is given. alpha [1] or [C]; shift [1]; weight, bias [C]."""

    x: torch.Tensor
    alpha: torch.Tensor
    shift: torch.Tensor | None
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    curve: str

    @property
    def parameters(self):
        return self.alpha, self.shift, self.weight, self.bias

    def like_x(self):
        return torch.randn(self.x.shape, device=self.x.device).to(self.x.dtype)


def case(
    shape, curve="tanh", *, per_channel=False, shift=None, weight=True, bias=True, dtype=torch.float32, device="cpu"
):
    """A random one. shift: by default where the curve is erf, as in Derf."""
    width = shape[-1]
    kept = torch.float64 if dtype == torch.float64 else torch.float32

    def random(size, present=True):
        return (torch.randn(size, dtype=kept, device=device) * 0.6 + 0.3) if present else None

    return Case(
        (1.5 * torch.randn(shape, dtype=kept, device=device)).to(dtype),
        random(width if per_channel else 1),
        random(1, curve == "erf" if shift is None else shift),
        random(width, weight),
        random(width, bias),
        curve,
    )


def exact(x, alpha, shift, weight, bias, curve):
    """y in float64, from the papers' formulas: erf as it is, tanh by its definition."""
    u = alpha.double() * x.double() + (0.0 if shift is None else shift.double())
    size = (-2 * u.abs()).exp()
    y = torch.special.erf(u) if curve == "erf" else u.sign() * -torch.expm1(-2 * u.abs()) / (1 + size)
    y = y if weight is None else y * weight.double()
    return y if bias is None else y + bias.double()


def exact_gradients(given: Case, dy, dh=None):
    """Of h and the parameters, in float64, by autograd through float64 tanh and erf; None for what is not there."""
    leaves = [None if t is None else t.detach().double().requires_grad_() for t in given[:5]]
    x, alpha, shift, weight, bias = leaves
    u = alpha * x + (0.0 if shift is None else shift)
    y = torch.erf(u) if given.curve == "erf" else torch.tanh(u)
    y = y if weight is None else y * weight
    y = y if bias is None else y + bias
    total = (y * dy.double()).sum() + (0.0 if dh is None else (x * dh.double()).sum())
    found = iter(torch.autograd.grad(total, [leaf for leaf in leaves if leaf is not None]))
    return [None if leaf is None else next(found) for leaf in leaves]


def assert_close(found, wanted, *, terms: int = 1, ulps: float = 0.5):
    """found against float64. terms: how many numbers of size 1 it sums. ulps: what its last rounding may cost."""
    assert found.isfinite().all()
    slack = 2e-6 * math.sqrt(max(terms, 1)) * 3
    rounding = torch.finfo(found.dtype).eps * ulps * 1.02 + 1e-6
    torch.testing.assert_close(found.double(), wanted, rtol=rounding, atol=slack)
