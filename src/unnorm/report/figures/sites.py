"""Site by site: α over training and against 1/σ, saturation, how well the calibration fitted."""

import math
from typing import Any

import altair as alt

from unnorm.report.figures.figure import (
    HEIGHT,
    TOKENS,
    Figure,
    Slice,
    binned,
    colour_of,
    data,
    drawn_from,
    made,
    panels,
    points_a_line,
    shape_of,
    tokens_axis,
)
from unnorm.report.theme import GREY, LINE, MIDDLE, RED
from unnorm.study.view import CellView

_SITE = "site, in execution order"


def alpha(part: Slice) -> Figure | None:
    """α over training tokens, a line a site."""
    moving = {name: cell for name, cell in _first(part, "alpha").items() if _moves(cell)}
    rows: list[dict[str, Any]] = []
    for name, cell in moving.items():
        steps = _having(cell, "alpha")
        points = points_a_line(sum(len(_having(c, "alpha")[0]["alpha"]) for c in moving.values()), part)
        kept = [*steps[: -1 : -(-len(steps) // points)], steps[-1]]
        for record in kept:
            rows += [
                {"panel": name, "tokens": record["train_tokens"], "site": path, "order": order, "alpha": _short(value)}
                for order, (path, value) in enumerate(record["alpha"].items())
            ]
    if not rows:
        return None
    chart = (
        alt.Chart(data(rows))
        .mark_line(strokeWidth=1.5)
        .encode(
            x=tokens_axis(),
            y=alt.Y("alpha:Q", title="α", scale=alt.Scale(type="log", nice=False, padding=12)),
            color=alt.Color(
                "order:Q", title=_SITE, scale=alt.Scale(scheme="viridis"), legend=alt.Legend(tickMinStep=1)
            ),
            detail="site:N",
            tooltip=["site:N", "tokens:Q", alt.Tooltip("alpha:Q", format=".4f")],
        )
    )
    cells = list(moving.values())
    caption = (
        "α at every site while it trains (its mean over channels where there is one a channel); arms and strategies "
        f"under which no α moves are left out. {drawn_from(part.study, cells)} One seed a panel: no interval."
    )
    return made(
        panels(part.study, chart, "panel", list(moving), columns=_strategies(moving)),
        "alpha",
        "α over training",
        caption,
        cells,
    )


def alpha_and_sigma(part: Slice) -> Figure | None:
    """α at the start and at the end, with 1/σ of what came into the site."""
    of_any = next((sigma for cell in part.cells if (sigma := _sigma(cell))), {})
    shown = _first(part, "alpha")
    rows: list[dict[str, Any]] = []
    for name, cell in shown.items():
        steps, sigma = _having(cell, "alpha"), _sigma(cell) or of_any
        for order, path in enumerate(steps[0]["alpha"]):
            row = {
                "panel": name,
                "order": order,
                "site": path,
                "start": _short(steps[0]["alpha"][path]),
                "end": _short(steps[-1]["alpha"][path]),
            }
            rows.append(row | ({"inverse": _short(1 / sigma[path])} if sigma.get(path) else {}))
    if not rows:
        return None
    scale = alt.Scale(type="log", nice=False, padding=10)
    what = "α and 1/σ" if of_any else "α"
    base = alt.Chart().encode(
        x=alt.X(
            "order:Q", title=_SITE, axis=alt.Axis(tickMinStep=1, format="d"), scale=alt.Scale(nice=False, padding=10)
        )
    )
    tooltip = ["site:N", alt.Tooltip("start:Q", format=".4f"), alt.Tooltip("end:Q", format=".4f")]
    names = ["1/σ"] if of_any else []
    names += ["α at the start", "α at the end"]
    colours = {"1/σ": RED, "α at the start": MIDDLE, "α at the end": LINE}
    colour = alt.Color("what:N", title=None, scale=alt.Scale(domain=names, range=[colours[name] for name in names]))

    def named(chart: Any, name: str, field: str) -> Any:
        y = alt.Y(f"{field}:Q", title=what, scale=scale)
        return chart.transform_calculate(what=f"'{name}'").encode(y=y, color=colour, tooltip=tooltip)

    layers = [
        base.mark_rule(strokeWidth=1, color=GREY).encode(y=alt.Y("start:Q", title=what, scale=scale), y2="end:Q"),
        named(base.mark_point(size=44, filled=False, strokeWidth=1.5, opacity=1), "α at the start", "start"),
        named(base.mark_point(size=40, filled=True, opacity=1), "α at the end", "end"),
    ]
    if of_any:
        inverse = base.transform_filter("isValid(datum.inverse)")
        layers.insert(0, named(inverse.mark_line(strokeWidth=1.5, strokeDash=[4, 3]), "1/σ", "inverse"))
    cells = list(shown.values())
    said = (
        "σ is what the old norm divided a token by (median over the calibration's tokens); an arm that was not "
        "calibrated is set beside the σ that a calibrated one saw."
        if of_any
        else "No calibration here recorded σ."
    )
    caption = (
        f"α at every site at the first and the last step. {said} {drawn_from(part.study, cells)} One seed a panel."
    )
    chart = alt.layer(*layers, data=data(rows))
    drawn = panels(part.study, chart, "panel", list(shown), columns=_strategies(shown))
    return made(drawn, "alpha-sigma", "α against 1/σ", caption, cells)


def saturation(part: Slice) -> Figure | None:
    """Share of nearly flat activations, a field a site and stretch of training."""
    shown = _first(part, "saturation")
    rows: list[dict[str, Any]] = []
    for name, cell in shown.items():
        steps = _having(cell, "saturation")
        paths = list(steps[0]["saturation"])
        bins = max(6, min(16, points_a_line(len(paths) * len(shown), part)))
        flat = [{"train_tokens": s["train_tokens"], **s["saturation"]} for s in steps]
        for order, path in enumerate(paths):
            start = 0
            for tokens, share, _ in binned(flat, path, bins):
                rows.append(
                    {"panel": name, "order": order, "site": path, "from": start, "to": tokens, "share": _short(share)}
                )
                start = tokens
    if not rows:
        return None
    top = max(row["share"] for row in rows) or 0.01
    chart = (
        alt.Chart(data(rows))
        .transform_calculate(upper="datum.order + 0.5", lower="datum.order - 0.5")
        .mark_rect()
        .encode(
            x=alt.X("from:Q", title="training tokens", axis=TOKENS, scale=alt.Scale(nice=False)),
            x2="to:Q",
            y=alt.Y(
                "lower:Q",
                title=_SITE,
                axis=alt.Axis(tickMinStep=1, format="d", grid=False),
                scale=alt.Scale(nice=False, reverse=True, zero=False),
            ),
            y2="upper:Q",
            color=alt.Color(
                "share:Q",
                title="share nearly flat",
                scale=alt.Scale(scheme="cividis", domain=[0, top]),
                legend=alt.Legend(format=".1%" if top < 0.1 else ".0%"),
            ),
            tooltip=["site:N", "to:Q", alt.Tooltip("share:Q", format=".2%")],
        )
    )
    cells = list(shown.values())
    caption = (
        "Share of activations at which a site's curve is nearly flat (slope below 7 % of its steepest), over training, "
        f"from 64 tokens a step; each field is a mean of steps. {drawn_from(part.study, cells)} One seed a panel."
    )
    return made(
        panels(part.study, chart, "panel", list(shown), columns=_strategies(shown)),
        "saturation",
        "Saturation by site",
        caption,
        cells,
    )


def fit(part: Slice) -> Figure | None:
    """R² of the calibration, by site."""
    rows: list[dict[str, Any]] = []
    drawn: dict[str, CellView] = {}
    for cell in part.cells:
        calibration = (cell.calibration or {}).get("calibration")
        if calibration and cell.arm not in drawn:
            drawn[cell.arm] = cell
            rows += [
                {"arm": cell.arm, "order": order, "site": site["path"], "r2": site["r2"], "alpha": site["alpha"]}
                for order, site in enumerate(calibration["sites"])
            ]
    if not rows:
        return None
    arms = [arm for arm in part.study.arms if arm in drawn]
    lowest = math.floor(10 * min(row["r2"] for row in rows) - 0.2) / 10  # the top is what is perfect
    tooltip = ["arm:N", "site:N", alt.Tooltip("r2:Q", format=".4f"), alt.Tooltip("alpha:Q", format=".4f")]
    base = alt.Chart().encode(
        x=alt.X(
            "order:Q", title=_SITE, axis=alt.Axis(tickMinStep=1, format="d"), scale=alt.Scale(nice=False, padding=12)
        ),
        y=alt.Y(
            "r2:Q", title="R² of the fit", scale=alt.Scale(domain=[lowest, 1], nice=False), axis=alt.Axis(tickCount=6)
        ),
        color=colour_of(part.study, arms),
    )
    chart = alt.layer(
        base.mark_line(strokeWidth=1.5),
        base.mark_point(size=50, filled=True, opacity=1).encode(shape=shape_of(part.study, arms), tooltip=tooltip),
        data=data(rows),
    ).properties(width="container", height=HEIGHT)
    caption = (
        "Share of the old norm's output variance that the calibrated one explains, at each site, before any training. "
        f"One calibration an arm, of the first seed that is done: {', '.join(arms)}. No interval."
    )
    return made(chart, "fit", "Calibration by site", caption, list(drawn.values()))


def _first(part: Slice, key: str) -> dict[str, CellView]:
    """Panel -> the first finished seed of each arm and strategy that logged `key`."""
    found = {}
    for (arm, strategy), cells in part.panels.items():
        logged = next((cell for cell in cells if _having(cell, key)), None)
        if logged is not None:
            found[f"{arm}, {strategy}"] = logged
    return found


def _strategies(shown: dict[str, CellView]) -> int:
    """A row of panels an arm."""
    return len({cell.strategy for cell in shown.values()})


def _having(cell: CellView, key: str) -> list[dict[str, Any]]:
    return [record for record in cell.steps if record.get(key)]


def _moves(cell: CellView) -> bool:
    steps = _having(cell, "alpha")
    return bool(steps[0]["alpha"] != steps[-1]["alpha"])


def _sigma(cell: CellView) -> dict[str, float]:
    """Path -> σ, where the cell's calibration recorded it."""
    sites = ((cell.calibration or {}).get("calibration") or {}).get("sites", [])
    return {site["path"]: site["sample"]["sigma"] for site in sites if site.get("sample")}


def _short(value: float) -> float:
    """Five digits: no eye sees more, and the page stays small."""
    return float(f"{value:.5g}")
