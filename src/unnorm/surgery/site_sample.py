"""What the old norm did at a site and what the one fitted to it does: a few activations, for those who want to look."""

from dataclasses import dataclass

import torch
from torch import nn

_TOKENS = 1024  # looked at; a handful of them is kept
_POINTS = 48


@dataclass(frozen=True)
class ChannelSample:
    """One channel at some tokens, in ascending order of x: what came in, and what either norm makes of it.

    Half of the tokens are evenly spread over their ranks, half over the range of x, so that its ends are seen too.
    """

    channel: int
    x: tuple[float, ...]
    old: tuple[float, ...]
    new: tuple[float, ...]


@dataclass(frozen=True)
class SiteSample:
    """sigma: what the old norm divides a token by (median over tokens): the standard deviation over its channels, or
    their root mean square where the norm takes off no mean. channels: the one of median and the one of widest spread.
    """

    sigma: float
    channels: tuple[ChannelSample, ...]


@torch.no_grad()
def sample_site(norm: nn.Module, x: torch.Tensor, y: torch.Tensor, *, centred: bool) -> SiteSample:
    """Look at the fitted `norm` and at what it was fitted to. x, y [N, C], any float dtype; no seed: evenly spaced.

    centred: whether the old norm takes off a token's mean.
    """
    stride = -(-len(x) // _TOKENS)
    x, y = x[::stride], y[::stride]  # [n, C]
    wide = x.float()
    sizes = wide.var(-1, unbiased=False) if centred else wide.square().mean(-1)
    spread = wide.var(0, unbiased=False).argsort()
    chosen = dict.fromkeys((int(spread[len(spread) // 2]), int(spread[-1])))
    return SiteSample(_short(sizes.median().sqrt()), tuple(_channel(norm, x, y, channel) for channel in chosen))


def _channel(norm: nn.Module, x: torch.Tensor, y: torch.Tensor, channel: int) -> ChannelSample:
    values, order = x[:, channel].float().sort()
    ranks = torch.linspace(0, len(order) - 1, _POINTS // 2, device=x.device).round().long()
    even = torch.linspace(float(values[0]), float(values[-1]), _POINTS // 2, device=x.device)
    kept = order[torch.cat([ranks, torch.searchsorted(values, even).clamp_max(len(order) - 1)]).unique()]
    columns = (rows[:, channel].float().tolist() for rows in (x[kept], y[kept], norm(x[kept])))
    return ChannelSample(channel, *(tuple(_short(value) for value in column) for column in columns))


def _short(value: float | torch.Tensor) -> float:
    """Five digits: it is for the eye, and stands in every cell's folder."""
    return float(f"{float(value):.5g}")
