"""The stream without massive activations.

In many models a few tokens, attention sinks, hold activations hundreds of times the others' in a few channels (arXiv
2402.17762). A norm divides such a token by its own size. Where no norm does, these channels saturate every curve, and
whatever is wrong with one of them reaches every later token. A curve gives the same for any value that saturates it,
so the token stays as recognizable with less.
"""

import torch

from unnorm.surgery.outliers import LARGE_TOKEN, sizes

LIMIT = 1.0
"""How many times its channel's root mean square over all other tokens a value of a large token may be."""


def calmer(stream: torch.Tensor) -> torch.Tensor:
    """`stream` [N, C], in which each channel of a large token is cut at `LIMIT` times its root mean square over the
    tokens that are not large. Nothing else is changed; where there are no large tokens, nothing is."""
    size = sizes(stream)
    large = size > LARGE_TOKEN * size.median()
    if not large.any():
        return stream
    limit = LIMIT * stream[~large].square().mean(0).sqrt()
    found = stream.clone()
    found[large] = stream[large].clamp(-limit, limit)
    return found
