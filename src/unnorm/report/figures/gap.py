"""The gap to the reference: by strategy, with a magnified panel where some gaps dwarf the others, and by model size."""

from itertools import pairwise
from typing import Any

import altair as alt

from unnorm.report.figures.figure import (
    FULL,
    Figure,
    bars_height,
    colour_of,
    data,
    drawn_from,
    made,
    panels,
    percent_axis,
    shape_of,
    zero,
)
from unnorm.report.pairs import behind, compared, others
from unnorm.report.theme import HATCH, LINE, PAPER
from unnorm.report.verdicts import verdict
from unnorm.report.wording import share, signed
from unnorm.study.compare import Row
from unnorm.study.view import CellView, StudyView

_DWARFS = 4.0
"""A gap so many times the next smaller one is no longer read on one scale with it."""


def gap_by_strategy(study: StudyView, dataset: str) -> Figure | None:
    """Bars with intervals, a row of panels a model, the smallest model first.

    Where some gaps dwarf others there are two panels: one that ends where the small ones do, with an arrow at what
    goes on beyond it, and one with everything.
    """
    found = [row for row in compared(study) if row.dataset == dataset and row.metric == "loss"]
    if not found:
        return None
    sizes = _sizes(study)
    models = sorted({row.model for row in found}, key=lambda model: sizes[model])
    rows = [_bar(row, row.model) for row in found]
    near = _near([max(abs(row["low"]), abs(row["high"]), abs(row["gap"])) for row in rows], study.margin)
    shown = [_panel(study, rows, model, limit) for model in models for limit in ([near, None] if near else [None])]
    width = FULL // 2 - 90 if len(shown) > 1 else FULL - 100
    titles = [f"{model}, {amount(sizes[model])} parameters" for model in models] if len(models) > 1 else [""]
    ranges = [f"magnified: gaps up to ± {share(near)}", "all gaps"] if near else [""]
    for chart, title in zip(shown, [": ".join(filter(None, (t, r))) for t in titles for r in ranges], strict=True):
        chart.title, chart.width = title or alt.Undefined, width
    chart = alt.concat(*shown, columns=2 if near or len(models) > 1 else 1, data=data(rows), spacing=24)
    cells = _cells(study, found)
    marks = " or ".join(["▸"] + ["◂"] * any(row["gap"] < -near for row in rows)) if near else ""
    cut = f" The magnified panel ends at ± {share(near)}: {marks} marks bars that go on beyond it." if near else ""
    caption = (
        f"How much higher the held-out loss ends than {study.reference}'s, paired by seed. {drawn_from(study, cells)} "
        f"{_shown(found)}{cut}{_hatched(found)}"
    )
    return made(chart, "gap", f"Gap to {study.reference}", caption, cells)


def _panel(study: StudyView, rows: list[dict[str, Any]], model: str, limit: float | None) -> Any:
    """One model's bars. limit: where the axis ends; None: where the last bar or interval does, with room for labels."""
    here = [row for row in rows if row["model"] == model]
    arms = [arm for arm in others(study) if any(row["arm"] == arm for row in rows)]
    strategies = [s for s in study.strategies if any(row["strategy"] == s for row in rows)]
    top = max(0.0, *(row["high"] for row in here))
    bottom = min(0.0, *(row["low"] for row in here))
    if limit:
        domain, span = [-limit if bottom < 0 else 0.0, limit], limit
    else:
        span = (top - bottom) or 0.01
        longest = max(len(row["label"]) for row in here)
        domain = [bottom - 0.03 * span if bottom < 0 else 0.0, top + span * max(0.25, 0.03 * longest)]
    scale = alt.Scale(domain=domain, nice=False, zero=False, clamp=bool(limit))
    title = f"held-out loss above {study.reference}"
    x = alt.X("gap:Q", title=title, axis=percent_axis(span, ticks=4), scale=scale)
    base = alt.Chart().transform_filter(alt.FieldEqualPredicate(field="model", equal=model)).encode(
        y=alt.Y("strategy:N", title=None, sort=strategies), yOffset=alt.YOffset("arm:N", sort=arms)
    )  # fmt: skip
    tooltip = [
        "strategy:N", "arm:N", alt.Tooltip("gap:Q", format="+.2%"), alt.Tooltip("low:Q", format="+.2%"),
        alt.Tooltip("high:Q", format="+.2%"), "verdict:N", "seeds:N", "doubt:N",
    ]  # fmt: skip
    colour, shape = colour_of(study, arms), shape_of(study, arms)
    bars = base.mark_bar().encode(x=x, color=colour, tooltip=tooltip)
    if limit:  # what goes on beyond the axis is pale: here it is not looked at
        bars = bars.encode(opacity=alt.condition(f"abs(datum.gap) > {limit}", alt.value(0.4), alt.value(1)))
    layers: list[Any] = [bars]
    if any(row["doubt"] for row in here):
        layers.append(
            base.mark_bar(fill=f"url(#{HATCH})").encode(x=x, tooltip=tooltip).transform_filter("datum.doubt != ''")
        )
    if any(row["interval"] for row in here):
        layers.append(
            base.mark_rule(strokeWidth=2, color=LINE)
            .encode(x=alt.X("low:Q", title=title, scale=scale), x2="high:Q")
            .transform_filter(f"datum.interval && abs(datum.gap) <= {limit or 1e9}")
        )
    point = base.mark_point(size=55, filled=True, opacity=1, stroke=PAPER, strokeWidth=1)
    layers.append(
        point.encode(x=x, color=colour, shape=shape, tooltip=tooltip).transform_filter(
            f"abs(datum.gap) <= {limit or 1e9}"
        )
    )
    label = base.mark_text(align="left", dx=8, fontSize=12, color=LINE)
    label = label.encode(x=alt.X("edge:Q", title=title, scale=scale), text="label:N")
    layers.append(label.transform_filter(f"abs(datum.gap) <= {limit / 2}" if limit else "true"))
    if limit:
        arrow = base.mark_text(text="▸", align="left", dx=3, fontSize=15, color=LINE)
        layers.append(arrow.encode(x=alt.X(datum=limit, scale=scale)).transform_filter(f"datum.gap > {limit}"))
        if any(row["gap"] < -limit for row in here):
            arrow = base.mark_text(text="◂", align="left", dx=3, fontSize=15, color=LINE)  # left of it are names
            layers.append(arrow.encode(x=alt.X(datum=-limit, scale=scale)).transform_filter(f"datum.gap < {-limit}"))
    layers.append(zero("x"))
    height = bars_height(len(strategies) * len(arms), 24) + 10 * len(strategies)
    return alt.layer(*layers).properties(height=height)


def _near(reaches: list[float], margin: float) -> float | None:
    """Where the magnified panel ends: beyond the last gap before the first that dwarfs it; None where none does."""
    sizes = sorted(max(reach, margin) for reach in reaches)
    for small, large in pairwise(sizes):
        if large >= _DWARFS * small:
            return 1.3 * small
    return None


def gap_by_size(study: StudyView, dataset: str) -> Figure | None:
    """Against the base's parameters, where there are two sizes or more."""
    sizes = _sizes(study)
    found = [row for row in compared(study) if row.dataset == dataset and row.metric == "loss"]
    if len({sizes[row.model] for row in found}) < 2:
        return None
    rows = [{**_bar(row, row.model), "parameters": sizes[row.model]} for row in found]
    arms = [arm for arm in others(study) if any(row["arm"] == arm for row in rows)]
    strategies = [s for s in study.strategies if any(row["strategy"] == s for row in rows)]
    base = alt.Chart().encode(
        x=alt.X(
            "parameters:Q",
            title="parameters",
            scale=alt.Scale(type="log", nice=False, padding=20),
            axis=alt.Axis(format="~s", values=sorted(set(sizes.values())), labelOverlap=True),
        ),
        color=colour_of(study, arms),
    )
    top = max(abs(row["gap"]) for row in rows)
    y = alt.Y("gap:Q", title=f"held-out loss above {study.reference}", axis=percent_axis(top))
    tooltip = ["model:N", "strategy:N", "arm:N", alt.Tooltip("gap:Q", format="+.2%"), "doubt:N"]
    layers: list[Any] = [zero("y"), base.mark_line(strokeWidth=1.5).encode(y=y)]
    if any(row["interval"] for row in rows):
        rule = base.mark_rule(strokeWidth=1.5).encode(y="low:Q", y2="high:Q")
        layers.append(rule.transform_filter("datum.interval"))
    for filled, shown in ((True, "datum.doubt == ''"), (False, "datum.doubt != ''")):
        if any((row["doubt"] == "") is filled for row in rows):  # a layer of nothing has no scale
            point = base.mark_point(size=60, filled=filled, opacity=1)
            point = point.encode(y=y, shape=shape_of(study, arms), tooltip=tooltip)
            layers.append(point.transform_filter(shown))
    cells = _cells(study, found)
    hollow = " Hollow: incomplete or not matched." if any(row.doubt for row in found) else ""
    caption = f"The same gap against the size of the base. {drawn_from(study, cells)} {_shown(found)}{hollow}"
    chart = panels(study, alt.layer(*layers, data=data(rows)), "strategy", strategies)
    return made(chart, "gap-size", "Gap by model size", caption, cells)


def _bar(row: Row, model: str) -> dict[str, Any]:
    low, high = (row.value if bound is None else bound for bound in (row.low, row.high))
    return {
        "model": model,
        "strategy": row.strategy,
        "arm": row.arm,
        "gap": row.value,
        "low": low,
        "high": high,
        "edge": max(0.0, high),
        "interval": row.low is not None,
        "seeds": ", ".join(map(str, row.seeds)),
        "verdict": verdict(row) or "no interval",
        "doubt": row.doubt,
        "label": signed(row.value) + (f" {row.doubt}" if row.doubt else ""),
    }


def _cells(study: StudyView, rows: list[Row]) -> list[CellView]:
    return [cell for row in rows for pair in behind(study, row) for cell in pair]


def _sizes(study: StudyView) -> dict[str, int]:
    """Parameters of each model: of its cells of the reference, where one is done, the one without LoRA if there is."""
    found: dict[str, dict[bool, int]] = {model: {} for model in study.models}
    for cell in study.cells:
        if cell.result:
            known, total = found[cell.model], cell.result["total_parameters"]
            first = cell.arm == study.reference
            known[first] = min(known.get(first, total), total)
    return {model: known.get(True, known.get(False, 0)) for model, known in found.items()}


def amount(number: float) -> str:
    """4.2 M and so on."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,.0f}"


def _shown(rows: list[Row]) -> str:
    if all(row.low is None for row in rows):
        return "One seed: no interval."
    several = any(len(row.seeds) > 1 for row in rows)
    if not any(row.conversations for row in rows):
        return "Thin lines: 95 % t interval over seeds."
    over = "seeds and conversations" if several else "conversations, for one seed"
    return f"Thin lines: 95 % interval over {over}."


def _hatched(rows: list[Row]) -> str:
    return " Hatched: incomplete or not matched, and no result to conclude from." if any(r.doubt for r in rows) else ""
