"""Leave a share of outlier tokens out of a fit.

GPT-2-like models give their first position activations a hundred times the rest; a least-squares fit, which counts
squares, may then serve that one token.
"""

import torch

LARGE_TOKEN = 5.0
"""From how many times the median token's size on a token is called large."""


def without_outliers(x: torch.Tensor, y: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """x, y [N, C] without the `share` of tokens at which x is largest (in root mean square)."""
    if share == 0:
        return x, y
    size = x.float().square().mean(-1)
    keep = size <= threshold(size, share)
    return x[keep], y[keep]


def large_share(x: torch.Tensor) -> float:
    """Share of the tokens x [N, C] that are large (in root mean square)."""
    size = x.float().square().mean(-1).sqrt()
    return float((size > LARGE_TOKEN * size.median()).double().mean())


def threshold(size: torch.Tensor, share: float) -> torch.Tensor:
    """The size [] beyond which a token is among the largest `share` of `size` [N]."""
    kept = max(1, round((1 - share) * len(size)))
    return size.kthvalue(kept).values
