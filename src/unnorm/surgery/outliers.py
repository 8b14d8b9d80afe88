"""Tokens that are left out of a fit.

Many models give a few positions, attention sinks, activations hundreds of times the rest. A least-squares fit, which
counts squares, then serves these; and what serves all the others has to hold for no such token.
"""

import torch

from unnorm.norms.spec import NormSpec

LARGE_TOKEN = 5.0
"""From how many times the median token's size on a token is called large."""


def left_out(spec: NormSpec, share: float | None) -> float | None:
    """The share of tokens that a fit of `spec` leaves out where `share` was asked for; None means the large ones.

    A bounded norm gives a token that it was not fitted to no more than any other; an unbounded one has to be fitted to
    it."""
    return 0.0 if share is None and not spec.bounded else share


def without_outliers(x: torch.Tensor, y: torch.Tensor, share: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """x, y [N, C] without the tokens beyond `size_limit`."""
    size = sizes(x)
    limit = size_limit(size, share)
    if limit is None:
        return x, y
    keep = size <= limit
    return x[keep], y[keep]


def size_limit(size: torch.Tensor, share: float | None) -> torch.Tensor | None:
    """The size [] beyond which a token of those of `size` [N] is left out: of the largest `share`; large ones where
    that is None; no limit where it is 0."""
    if share == 0:
        return None
    if share is None:
        return _large(size)
    return size.kthvalue(max(1, round((1 - share) * len(size)))).values


def sizes(x: torch.Tensor) -> torch.Tensor:
    """The root mean square of each token x [N, C]: fp32 [N]."""
    return x.float().square().mean(-1).sqrt()


def large_share(size: torch.Tensor) -> float:
    """Share of the tokens that are large, of which `size` [N] are the sizes."""
    return float((size > _large(size)).double().mean())


def _large(size: torch.Tensor) -> torch.Tensor:
    """The size [] beyond which a token is large."""
    return LARGE_TOKEN * size.median()
