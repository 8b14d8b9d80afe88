"""S-curves: what the old norm gave at a site, and what the one fitted to it gives."""

from typing import Any

import altair as alt

from unnorm.report.figures.figure import FULL, Figure, Slice, colour_of, dash_of, data, made, shape_of
from unnorm.report.theme import GREY
from unnorm.study.view import CellView

_SITES = 6  # as many as can be looked at together
_SHORT = "abs(datum.value) >= 1e4 ? format(datum.value, '~s') : datum.label"
_WIDTH, _HEIGHT = FULL // 3 - 60, 150


def s_curves(part: Slice) -> Figure | None:
    """Dots: tokens at one channel; lines: the calibrated arms. At some sites, evenly chosen over the model's depth."""
    rows: list[dict[str, Any]] = []
    drawn: dict[str, CellView] = {}
    order: list[str] = []
    for cell in part.cells:
        sites = ((cell.calibration or {}).get("calibration") or {}).get("sites", [])
        sampled = [site for site in sites if site.get("sample")]
        if not sampled or cell.arm in drawn:
            continue
        first = not drawn
        drawn[cell.arm] = cell
        for site in _some(sampled):
            channel = site["sample"]["channels"][-1]
            panel = _tail(site["path"])
            if panel not in order:
                order.append(panel)
            ends = {min(channel["x"]), max(channel["x"])}
            for x, old, new in zip(channel["x"], channel["old"], channel["new"], strict=True):
                known = {"panel": panel, "site": site["path"], "channel": channel["channel"], "x": x}
                rows.append({**known, "arm": cell.arm, "y": new} | ({"end": True} if x in ends else {}))
                if first:
                    rows.append({**known, "old": old})
    if not rows:
        return None
    arms = [arm for arm in part.study.arms if arm in drawn]
    x = alt.X(
        "x:Q", title="input activation", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4, labelExpr=_SHORT)
    )
    y: dict[str, Any] = {"title": "output", "axis": alt.Axis(tickCount=5)}
    dots = alt.Chart().mark_circle(size=16, opacity=0.55, color=GREY).encode(x=x, y=alt.Y("old:Q", **y))
    fitted = alt.Chart().encode(x=x, y=alt.Y("y:Q", **y), color=colour_of(part.study, arms))
    lines = fitted.mark_line(strokeWidth=2.2).encode(strokeDash=dash_of(part.study, arms))
    ends = fitted.transform_filter("datum.end").mark_point(size=50, filled=True, opacity=1)
    header = alt.Header(labelFontSize=12, labelFontWeight="normal", labelLimit=_WIDTH + 20)
    chart = (
        alt.layer(
            dots.transform_filter("isValid(datum.old)"),
            lines.transform_filter("isValid(datum.y)"),
            ends.encode(shape=shape_of(part.study, arms)),
            data=data(rows),
        )
        .properties(width=_WIDTH, height=_HEIGHT)
        .facet(alt.Facet("panel:N", sort=order, title=None, header=header), columns=3)
        .resolve_scale(x="independent", y="independent")
    )
    first_arm = next(iter(drawn))
    caption = (
        "What a norm makes of one channel, that of widest spread, at sites over the model's depth. Dots: the old norm, "
        f"a token each, as the calibration of {first_arm} saw it; lines: what was fitted, before any training. A line "
        f"cannot follow the dots' width: that is the price of a norm without statistics. Calibrations of "
        f"{', '.join(arms)}, one seed each: no interval."
    )
    return made(chart, "curves", "Old norm and new norm", caption, list(drawn.values()))


def _some(sites: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(sites) <= _SITES:
        return sites
    return [sites[round(number * (len(sites) - 1) / (_SITES - 1))] for number in range(_SITES)]


def _tail(path: str) -> str:
    """The end of a path, from the number of its block on."""
    parts = path.split(".")
    numbers = [at for at, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[numbers[-1] :]) if numbers else parts[-1]
