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
    limit = size_limit(x, share)
    if limit is None:
        return x, y
    keep = sizes(x) <= limit
    return x[keep], y[keep]


def size_limit(x: torch.Tensor, share: float | None) -> torch.Tensor | None:
    """The size [] beyond which a token of x [N, C] is left out: of the largest `share`; large ones where that is None;
    no limit where it is 0."""
    if share == 0:
        return None
    size = sizes(x)
    if share is None:
        return LARGE_TOKEN * size.median()
    return size.kthvalue(max(1, round((1 - share) * len(size)))).values


def sizes(x: torch.Tensor) -> torch.Tensor:
    """The root mean square of each token x [N, C]: fp32 [N]."""
    return x.float().square().mean(-1).sqrt()


def large_share(x: torch.Tensor) -> float:
    """Share of the tokens x [N, C] that are large."""
    size = sizes(x)
    return float((size > LARGE_TOKEN * size.median()).double().mean())
