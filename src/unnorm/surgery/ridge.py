"""Ridge regression of one set of features on another over many tokens: products in fp32, sums in float64.

The penalty is chosen for each layer on blocks of tokens that are left out for it: of those that do nearly as well as
the best there, the smallest. All tokens are then fitted with it. The penalty with the least error itself is too large
on small models (docs/log.md).
"""

import torch

_CHUNK = 2048
_PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""λ as a share of the mean variance of a feature. The first where there are too few tokens to leave any out."""
_NEARLY = 1.05
"""Of the least error."""
_BLOCK = 512
"""Tokens that are left out together, every fourth block: neighbours are too alike to test one another."""
_FEW = 64


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
    apart = set_apart(len(t), t.device)
    (t, t_apart), (y, y_apart) = ((v[~apart], v[apart]) for v in (t, y))
    own, cross = gram(t, t), gram(t, y)
    own_apart, cross_apart = gram(t_apart, t_apart), gram(t_apart, y_apart)
    share = _PENALTIES[0]
    if len(apart) >= _FEW:
        size = float(y_apart.double().square().sum())
        errors = [
            size + _change_of_size(_slope(own, cross, one, towards_identity), own_apart, cross_apart)
            for one in _PENALTIES
        ]
        share = next(one for one, e in zip(_PENALTIES, errors, strict=True) if not e > _NEARLY * min(errors))
    slope = _slope(own + own_apart, cross + cross_apart, share, towards_identity)
    return slope, y_mean - slope @ t_mean


def set_apart(tokens: int, device: torch.device | None = None) -> torch.Tensor:
    """On which of so many tokens the penalty is chosen: every fourth block, [N] bool."""
    block = max(1, min(_BLOCK, tokens // 8))
    return torch.arange(tokens, device=device) // block % 4 == 3


def _change_of_size(slope: torch.Tensor, own: torch.Tensor, cross: torch.Tensor) -> float:
    """Σ ‖A t − y‖² − Σ ‖y‖², from Σ t tᵀ [C, C] and Σ t yᵀ [C, D]."""
    return float(((slope @ own) * slope).sum() - 2 * (slope * cross.T).sum())


def _slope(own: torch.Tensor, cross: torch.Tensor, share: float, towards_identity: bool) -> torch.Tensor:
    penalty = share * own.diagonal().mean().clamp_min(1e-30)
    eye = penalty * torch.eye(own.shape[0], dtype=own.dtype, device=own.device)
    slope: torch.Tensor = torch.linalg.solve(own + eye, cross + eye if towards_identity else cross).T
    return slope
