"""What the anatomy of sites says about a swap, in words."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from unnorm.surgery.outliers import LARGE_TOKEN

SINK, LARGE_CHANNEL = 20.0, 10.0
"""From how many times the median on position 0 is called a sink, a channel large."""
_NAMED = 6


@dataclass(frozen=True)
class SiteAnatomy:
    """What comes into one norm. All sizes are what the norm divides a token by: the root mean square over its channels,
    around their mean where the norm takes that off.
    """

    path: str
    role: str
    kind: str
    width: int
    order: int
    first: float
    """Size of position 0: the median over sequences. Of all other fields but the saturations it is left out."""
    median: float
    """Median over tokens, as `low` and `high`, the 5th and the 95th percentile. To about 1 %."""
    low: float
    high: float
    variation: float
    """Standard deviation over tokens, divided by their mean."""
    largest: float
    """The largest token's."""
    large: float
    """Share of tokens more than five times the median."""
    channels: tuple[tuple[int, float], ...]
    """Channels whose root mean square over tokens is ten times the median channel's or more, the largest first, at most
    eight: index and how many times."""
    saturation: float
    """Share of activations, position 0 included, at which a fitted DyT with one α would be nearly flat."""
    saturation_channel: float
    """The same with one α a channel."""
    flat_channels: int
    """Channels at which the DyT with one α would be nearly flat on more than half of the tokens."""


@dataclass(frozen=True)
class Finding:
    """What stands out (`sink`, `large tokens` or `large channels`), by how many times the median at most, at which
    sites, and that in a sentence or two."""

    what: str
    times: float
    sites: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class AnatomyVerdict:
    """findings: what stands out, the worst first; empty where nothing does. text: all of it in words, and advice."""

    findings: tuple[Finding, ...]
    text: tuple[str, ...]


def verdict(sites: Sequence[SiteAnatomy]) -> AnatomyVerdict:
    """What follows from `sites`, given in execution order."""
    made = (_sink(sites), _large_tokens(sites), _large_channels(sites))
    findings = tuple(finding for finding in made if finding is not None)
    text = [finding.text for finding in findings]
    if not findings:
        most = max(_first_times(site) for site in sites)
        text.append(
            f"Nothing stands out: position 0 is at most {_times(most)} the size of the median token, and no other "
            "token or channel is far larger than the rest."
        )
    text.append(
        f"Apart from position 0, the size of a token varies by {median(site.variation for site in sites):.0%} at the "
        "median site (standard deviation over mean). An elementwise norm does not follow that."
    )
    if findings and findings[0].what == "sink":
        text.append(
            "Calibration alone will hardly give a usable model. Swap with `--alpha channel --correct all`, then distil "
            "the original with `unnorm recover`."
        )
    elif findings:
        text.append("Swap with `--alpha channel`, and close the gap that `unnorm swap` prints with `unnorm recover`.")
    else:
        text.append(f"Errors of {len(sites)} sites add up all the same: look at the gap that `unnorm swap` prints.")
    return AnatomyVerdict(findings, tuple(text))


def _sink(sites: Sequence[SiteAnatomy]) -> Finding | None:
    def text(where: str, times: str, _: Sequence[SiteAnatomy]) -> str:
        return (
            f"Position 0 is an attention sink {where}: it is up to {times} the size of the median token. The old norm "
            "shrinks it to almost nothing, so that attending to it does nothing. An elementwise norm cannot, and what "
            "attention reads there disturbs every later token."
        )

    return _finding("sink", sites, _first_times, SINK, text)


def _large_tokens(sites: Sequence[SiteAnatomy]) -> Finding | None:
    def text(where: str, times: str, some: Sequence[SiteAnatomy]) -> str:
        share = max(site.large for site in some)
        return (
            f"Other tokens stand out {where}: the largest is {times} the size of the median token, and up to "
            f"{share:.2%} of them are more than {LARGE_TOKEN:.0f} times it."
        )

    return _finding("large tokens", sites, lambda site: site.largest / max(site.median, 1e-30), LARGE_TOKEN, text)


def _large_channels(sites: Sequence[SiteAnatomy]) -> Finding | None:
    def text(where: str, times: str, some: Sequence[SiteAnatomy]) -> str:
        largest: dict[int, float] = {}
        for site in some:
            for channel, size in site.channels:
                largest[channel] = max(size, largest.get(channel, 0.0))
        names = sorted(largest, key=lambda channel: -largest[channel])
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        channels = f"Channel{'s' * (len(names) > 1)} {', '.join(map(str, names[:_NAMED]))}{more}"
        return (
            f"{channels} stand{'s' * (len(names) == 1)} out {where}: up to {times} the size of the median channel. "
            "One α a site is too large there or too small for the rest."
        )

    def size(site: SiteAnatomy) -> float:
        return site.channels[0][1] if site.channels else 0.0

    return _finding("large channels", sites, size, LARGE_CHANNEL, text)


def _finding(
    what: str,
    sites: Sequence[SiteAnatomy],
    times: Callable[[SiteAnatomy], float],
    limit: float,
    text: Callable[[str, str, Sequence[SiteAnatomy]], str],
) -> Finding | None:
    """The finding of the sites at which `times` reaches `limit`; None where there is no such site."""
    some = [site for site in sites if times(site) >= limit]
    if not some:
        return None
    most = max(times(site) for site in some)
    said = text(_where(some, sites), _times(most), some)
    return Finding(what, round(most, 1), tuple(site.path for site in some), said)


def _first_times(site: SiteAnatomy) -> float:
    return site.first / max(site.median, 1e-30)


def _times(value: float) -> str:
    return f"{value:,.0f} times" if value >= 9.95 else f"{value:.1f} times"


def layer_of(path: str) -> int | None:
    """The number of the layer that a site is in; None of one that is in none, as the final norm."""
    number = re.search(r"\.(\d+)\.", path)
    return int(number[1]) if number else None


def _where(some: Sequence[SiteAnatomy], sites: Sequence[SiteAnatomy]) -> str:
    """The places of `some` among all `sites`, as `from layer 12 on` or `in layers 3 to 9 and at the final norm`."""
    layers = sorted({layer for site in some if (layer := layer_of(site.path)) is not None})
    every = sorted({layer for site in sites if (layer := layer_of(site.path)) is not None})
    if len(layers) > 1 and layers == every:
        return "in every layer"
    apart = [site for site in some if layer_of(site.path) is None]
    on = len(layers) > 1 and layers == every[-len(layers) :]
    if on and {site.path for site in sites if site.role == "final"} <= {site.path for site in apart}:
        return f"from layer {layers[0]} on"
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    spans = [f"{run[0]}" if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    places = [f"in layer{'s' * (len(layers) > 1)} {', '.join(spans)}"] if spans else []
    places += [
        f"at the {site.role} norm" if site.role in ("final", "embedding") else f"at {site.path}" for site in apart
    ]
    return " and ".join(places)
