"""Ridge regression of one set of features on another over many tokens: products in fp32, sums in float64."""

import torch

_CHUNK = 2048
_RIDGE = 1e-2
"""λ as a share of the mean variance of a feature."""


class SiteMap:
    """What every reader of a site is corrected by, and the grams [C, C] from which the errors of each follow."""

    def __init__(self, t: torch.Tensor, y: torch.Tensor, intercept: bool) -> None:
        self.slope, self.offset = ridge(t, y, intercept=intercept, towards_identity=True)
        fixed = (t.double() @ self.slope.T + self.offset).float()
        self.before, self.after, self.wanted = (gram(v, v) for v in (t.float() - y.float(), fixed - y.float(), y))


def size_of(weight: torch.Tensor, products: torch.Tensor) -> float:
    """Σ ‖W v‖² over tokens, from their products Σ v vᵀ."""
    return float(((weight @ products) * weight).sum().clamp_min(1e-30))


def gram(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """aᵀ b [C, D] for a [N, C], b [N, D]: products in fp32, a chunk's at a time, summed in float64."""
    total = torch.zeros(a.shape[1], b.shape[1], dtype=torch.float64, device=a.device)
    for i in range(0, a.shape[0], _CHUNK):
        total += a[i : i + _CHUNK].float().T @ b[i : i + _CHUNK].float()
    return total


def ridge(
    t: torch.Tensor, y: torch.Tensor, *, intercept: bool, towards_identity: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """(A [D, C], c [D]) in float64 that take t [N, C] to y [N, D]; the penalty draws A to 0, or to the identity."""
    t_mean, y_mean = (v.mean(0, dtype=torch.float64) if intercept else v.new_zeros(v.shape[1]).double() for v in (t, y))
    t, y = t.float() - t_mean.float(), y.float() - y_mean.float()
    own, cross = gram(t, t), gram(t, y)
    eye = torch.eye(own.shape[0], dtype=own.dtype, device=own.device)
    penalty = _RIDGE * own.diagonal().mean().clamp_min(1e-30)
    if towards_identity:
        cross = cross + penalty * eye
    slope = torch.linalg.solve(own + penalty * eye, cross).T
    return slope, y_mean - slope @ t_mean
