"""Sizes over depth: what comes into each norm at position 0, at the largest other token, and at the median one."""

from collections import Counter
from typing import Any

import altair as alt

from unnorm.report.figures.figure import HEIGHT, Figure, data, made
from unnorm.report.theme import COLOURS
from unnorm.surgery.anatomy import Anatomy
from unnorm.surgery.anatomy_verdict import SiteAnatomy, layer_of

_UNLABELLED_FAINT = {"condition": {"test": "datum.label == ''", "value": 0.4}, "value": 1}
_LINES = {
    "position 0": ("first", COLOURS[2], "triangle-up"),
    "largest other token": ("largest", COLOURS[0], "square"),
    "median token": ("median", COLOURS[1], "circle"),
}


def sizes(anatomy: Anatomy, name: str) -> Figure:
    """A line each, over depth, on a log scale; a band from the 5th to the 95th percentile of the other tokens."""
    shown = [site for site in anatomy.sites if site.role != "qk"]
    places = _depths(shown)
    bands = [
        {"depth": at, "low": _short(site.low), "high": _short(site.high)}
        for at, site in zip(places, shown, strict=True)
    ]
    rows = [
        {"line": line, "depth": at, "site": site.path, "size": _short(getattr(site, field))}
        for line, (field, _, _) in _LINES.items()
        for at, site in zip(places, shown, strict=True)
    ]
    x = alt.X(
        "depth:Q",
        title="layer (after the last one: the final norm)",
        axis=alt.Axis(tickMinStep=1, format="d", grid=False),
        scale=alt.Scale(nice=False, padding=10),
    )
    scale = alt.Scale(type="log", nice=False, padding=12)
    y = alt.Y(
        "size:Q",
        title="size of a token (RMS over channels)",
        scale=scale,
        axis=alt.Axis(format=",~g", gridOpacity=_UNLABELLED_FAINT),
    )
    names = list(_LINES)
    colour = alt.Color(
        "line:N",
        title=None,
        scale=alt.Scale(domain=names, range=[colour for _, colour, _ in _LINES.values()]),
    )
    shape = alt.Shape("line:N", title=None, scale=alt.Scale(domain=names, range=[s for _, _, s in _LINES.values()]))
    lines: Any = alt.Chart(data(rows)).encode(x=x, y=y, color=colour)
    chart = alt.layer(
        alt.Chart(data(bands)).mark_area(color=COLOURS[1], opacity=0.2).encode(
            x=x, y=alt.Y("low:Q", scale=scale), y2="high:Q"
        ),
        lines.mark_line(strokeWidth=1.5),
        lines.mark_point(size=30, filled=True, opacity=1).encode(
            shape=shape, tooltip=["line:N", "site:N", alt.Tooltip("size:Q", format=".4~g")]
        ),
    ).properties(width="container", height=HEIGHT + 60)  # fmt: skip
    left_out = len(anatomy.sites) - len(shown)
    caption = (
        f"Size of what comes into each norm of {name}, on {anatomy.tokens:,} tokens in {anatomy.sequences:,} "
        "sequences: the root mean square over channels (around their mean where the norm takes that off). Band: 5th to "
        "95th percentile of tokens other than position 0. The norms of a layer stand side by side."
        + (f" {left_out} norms of queries and keys are left out." if left_out else "")
    )
    return made(chart, "anatomy", f"Sizes over depth: {name}", caption)


def _depths(sites: list[SiteAnatomy]) -> list[float]:
    """Where each site is drawn: those of layer n from n on, evenly; what is in no layer before the first or after the
    last."""
    layers = [layer_of(site.path) for site in sites]
    last = max((layer for layer in layers if layer is not None), default=-1)
    starts = []
    for at, layer in enumerate(layers):
        before = all(earlier is None for earlier in layers[:at]) and last >= 0
        starts.append(layer if layer is not None else -1 if before else last + 1)
    many, seen = Counter(starts), Counter[int]()
    depths = []
    for start in starts:
        depths.append(round(start + seen[start] / many[start], 3))
        seen[start] += 1
    return depths


def _short(value: float) -> float:
    return float(f"{value:.5g}")
