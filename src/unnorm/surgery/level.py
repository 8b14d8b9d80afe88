"""The stream that corrected layers are to give: the original's, with its large tokens brought down to the usual size.

A few tokens, attention sinks above all, are hundreds of times as large as the median one (massive activations, arXiv
2402.17762). RMSNorm divides a token by its own size, so it gives the same for a token x and for x / 100, and LayerNorm
all but does. A curve without statistics does not: what it gives for a channel depends on that channel alone. So a
stream in which such a token is scaled down says the same to the norms of the original, and far more to the curves in
their place.
"""

import torch

from unnorm.surgery.outliers import sizes

LARGE = 2.5
"""From how many times the median token's size on a token is scaled to it."""


def levelled(stream: torch.Tensor, least: float = LARGE) -> torch.Tensor:
    """`stream` [N, C], in which tokens over `least` times the median token's size have the median one's; others are
    as they were. The stream itself, where no token is as large."""
    size = sizes(stream).to(stream.dtype)
    median = size.median()
    large = size > least * median
    if not large.any():
        return stream
    return torch.where(large[:, None], stream * (median / size)[:, None], stream)
