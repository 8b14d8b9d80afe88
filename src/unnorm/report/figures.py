"""The figures, one definition each. Only cells that are done are drawn, and each caption says how many those are."""

from typing import Any, NamedTuple

import altair as alt

from unnorm.report.gaps import gaps, others
from unnorm.report.theme import CONFIG, colours
from unnorm.study.view import CellView, StudyView

_WIDTH, _HEIGHT = 260, 240
_MAX_STEPS = 120  # points a line: more cannot be seen


class Figure(NamedTuple):
    """name: of its files; caption: what it shows, the cells behind it, the uncertainty; spec: Vega-Lite."""

    name: str
    title: str
    caption: str
    spec: dict[str, Any]


def figures(study: StudyView) -> list[Figure]:
    """Every figure that the study has something to draw for, for each model and data set."""
    found = []
    places = [(model, dataset) for model in study.models for dataset in study.datasets]
    for model, dataset in places:
        cells = [c for c in study.cells if c.done and (c.model, c.dataset) == (model, dataset)]
        suffix = "" if len(places) == 1 else f"-{model}-{dataset}".replace("/", "_")
        label = "" if len(places) == 1 else f": {model}, {dataset}"
        for make in (_loss, _gap, _alpha, _fit):
            figure = make(study, cells, model, dataset)
            if figure is not None:
                found.append(figure._replace(name=figure.name + suffix, title=figure.title + label))
    return found


def _loss(study: StudyView, cells: list[CellView], model: str, dataset: str) -> Figure | None:
    rows: list[dict[str, Any]] = [
        {
            "strategy": cell.strategy,
            "arm": cell.arm,
            "seed": cell.seed,
            "tokens": record["train_tokens"],
            "loss": record["loss"],
        }
        for cell in cells
        for record in cell.evaluations
    ]
    if not rows:
        return None
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=alt.OverlayMarkDef(size=30))
        .encode(
            x=alt.X("tokens:Q", title="training tokens", axis=alt.Axis(format="~s", tickCount=4)),
            y=alt.Y("loss:Q", title="held-out loss (nats per token)", scale=alt.Scale(zero=False)),
            color=_arm_colour(study),
            detail="seed:N",
            tooltip=["arm:N", "strategy:N", "seed:N", "tokens:Q", alt.Tooltip("loss:Q", format=".4f")],
        )
    )
    caption = f"Held-out loss over training tokens. {_behind(cells, study)} One line a seed; no smoothing."
    return Figure("loss", "Held-out loss", caption, _panels(chart, "strategy", study.strategies))


def _gap(study: StudyView, cells: list[CellView], model: str, dataset: str) -> Figure | None:
    rows: list[dict[str, Any]] = [
        {
            "strategy": gap.strategy,
            "arm": gap.arm,
            "gap": gap.mean,
            "low": gap.low,
            "high": gap.high,
            "label": f"{gap.mean:+.1%}",
        }
        for gap in gaps(study)
        if (gap.model, gap.dataset) == (model, dataset)
    ]
    if not rows:
        return None
    arms = [arm for arm in others(study) if any(row["arm"] == arm for row in rows)]
    y = alt.Y("strategy:N", title=None, sort=study.strategies)
    offset = alt.YOffset("arm:N", sort=arms)
    base = alt.Chart(alt.Data(values=rows)).encode(y=y, yOffset=offset)
    # room for the labels beside the bars, on whichever side there are any
    top = max([0.0, *(row["high"] or row["gap"] for row in rows)])
    bottom = min([0.0, *(row["low"] or row["gap"] for row in rows)])
    span = (top - bottom) or 0.01
    scale = alt.Scale(domain=[bottom - 0.18 * span if bottom < 0 else 0, top + 0.3 * span])
    gap = alt.X(
        "gap:Q", title=f"held-out loss above {study.reference}", axis=alt.Axis(format="+.0%", tickCount=5), scale=scale
    )
    bars = base.mark_bar().encode(
        x=gap, color=_arm_colour(study, arms), tooltip=["strategy:N", "arm:N", alt.Tooltip("gap:Q", format="+.2%")]
    )
    text = base.mark_text(align="left", dx=5, fontSize=12).encode(
        x=alt.X("edge:Q", scale=scale), text="label:N"
    ).transform_calculate(edge="max(0, datum.high == null ? datum.gap : datum.high)")  # fmt: skip
    layers = [bars, text]
    if any(row["low"] is not None for row in rows):
        layers.append(base.mark_rule(strokeWidth=2, color="#222222").encode(x="low:Q", x2="high:Q"))
    chart = alt.layer(*layers).properties(width="container", height=max(120, 34 * len(rows)))
    shown = "Lines: 95 % t interval over seeds." if len(layers) > 2 else "One seed: no interval."
    caption = f"How much higher the held-out loss ends than {study.reference}'s. {_behind(cells, study)} {shown}"
    return Figure("gap", f"Gap to {study.reference}", caption, _finish(chart))


def _alpha(study: StudyView, cells: list[CellView], model: str, dataset: str) -> Figure | None:
    rows: list[dict[str, Any]] = []
    drawn: dict[str, CellView] = {}  # the first finished seed of each arm and strategy
    for cell in cells:
        panel = f"{cell.arm}, {cell.strategy}"
        steps = [record for record in cell.steps if "alpha" in record]
        if panel in drawn or not steps or steps[0]["alpha"] == steps[-1]["alpha"]:
            continue
        drawn[panel] = cell
        kept = [*steps[: -1 : max(1, len(steps) // _MAX_STEPS)], steps[-1]]
        for record in kept:
            rows += [
                {"panel": panel, "tokens": record["train_tokens"], "site": path, "order": order, "alpha": value}
                for order, (path, value) in enumerate(record["alpha"].items())
            ]
    if not rows:
        return None
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=1.5)
        .encode(
            x=alt.X("tokens:Q", title="training tokens", axis=alt.Axis(format="~s", tickCount=4)),
            y=alt.Y("alpha:Q", title="α", scale=alt.Scale(type="log", nice=False, padding=12)),
            color=alt.Color("order:Q", title="site, in execution order", scale=alt.Scale(scheme="viridis")),
            detail="site:N",
            tooltip=["site:N", "tokens:Q", alt.Tooltip("alpha:Q", format=".4f")],
        )
    )
    caption = (
        "α at every site while it trains, one seed each; arms and strategies under which no α moves are left out. "
        f"{_behind(list(drawn.values()), study)}"
    )
    return Figure("alpha", "α by site", caption, _panels(chart, "panel", list(drawn)))


def _fit(study: StudyView, cells: list[CellView], model: str, dataset: str) -> Figure | None:
    rows: list[dict[str, Any]] = []
    arms: list[str] = []
    for cell in cells:
        calibration = (cell.calibration or {}).get("calibration")
        if calibration and cell.arm not in arms:
            arms.append(cell.arm)
            for order, site in enumerate(calibration["sites"]):
                rows.append(
                    {"arm": cell.arm, "order": order, "site": site["path"], "r2": site["r2"], "alpha": site["alpha"]}
                )
    if not rows:
        return None
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=alt.OverlayMarkDef(size=45))
        .encode(
            x=alt.X("order:Q", title="site, in execution order", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("r2:Q", title="R² of the fit", scale=alt.Scale(zero=False)),
            color=_arm_colour(study, arms),
            tooltip=["arm:N", "site:N", alt.Tooltip("r2:Q", format=".4f"), alt.Tooltip("alpha:Q", format=".4f")],
        )
        .properties(width="container", height=_HEIGHT)
    )
    caption = (
        "Share of the old norm's output variance that the calibrated one explains, at each site, before any training. "
        f"One calibration an arm: {', '.join(arms)}."
    )
    return Figure("fit", "Calibration by site", caption, _finish(chart))


def _arm_colour(study: StudyView, shown: list[str] | None = None) -> alt.Color:
    """Each arm in its own colour; the legend names those that are `shown`."""
    own = dict(zip(study.arms, colours(study.arms), strict=True))
    arms = [arm for arm in study.arms if shown is None or arm in shown]
    return alt.Color("arm:N", title=None, scale=alt.Scale(domain=arms, range=[own[arm] for arm in arms]))


def _panels(chart: alt.Chart, field: str, values: list[str]) -> dict[str, Any]:
    """One panel a value, side by side where there is room."""
    facet = alt.Facet(f"{field}:N", sort=values, title=None)
    return _finish(
        chart.properties(width=_WIDTH, height=_HEIGHT).facet(facet, columns=2 if len(values) in (2, 4) else 3)
    )


def _finish(chart: Any) -> dict[str, Any]:
    spec = {**chart.to_dict(), "config": CONFIG}
    if spec.get("width") == "container":  # the axes count too, or the right edge is cut off
        spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    return spec


def _behind(drawn: list[CellView], study: StudyView) -> str:
    """Which cells a figure is drawn from, and how many of its model and data set are not done."""
    seeds = sorted({cell.seed for cell in drawn})
    plural = "s" if len(seeds) > 1 else ""
    text = f"Drawn from {len(drawn)} finished cells (seed{plural} {', '.join(map(str, seeds))})."
    place = {(cell.model, cell.dataset) for cell in drawn}
    left_out = sum(not cell.done and (cell.model, cell.dataset) in place for cell in study.cells)
    return text + (f" {left_out} cells that are not done are left out." if left_out else "")
