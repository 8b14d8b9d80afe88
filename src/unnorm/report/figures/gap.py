"""The gap to the reference: by strategy, by model size, and against speed."""

from typing import Any

import altair as alt

from unnorm.report.comparisons import behind, compared, others
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
from unnorm.report.theme import HATCH, LINE
from unnorm.report.verdicts import verdict
from unnorm.report.wording import signed
from unnorm.study.compare import Row
from unnorm.study.view import CellView, StudyView


def gap_by_strategy(study: StudyView, dataset: str) -> Figure | None:
    """Bars with intervals, a panel a model, the smallest model first."""
    found = [row for row in compared(study) if row.dataset == dataset and row.metric == "loss"]
    if not found:
        return None
    sizes = _sizes(study)
    models = sorted({row.model for row in found}, key=lambda model: sizes[model])
    titles = {model: f"{model}, {amount(sizes[model])}" for model in models}
    rows = [_bar(row, titles[row.model]) for row in found]
    arms = [arm for arm in others(study) if any(row["arm"] == arm for row in rows)]
    strategies = [s for s in study.strategies if any(row["strategy"] == s for row in rows)]
    # room for the labels beside the bars: most of them on the right
    top = max(0.0, *(row["high"] for row in rows), *(row["gap"] for row in rows))
    bottom = min(0.0, *(row["low"] for row in rows), *(row["gap"] for row in rows))
    span = (top - bottom) or 0.01
    room, said = (0.16, "label") if len(models) == 1 else (0.34, "short")
    longest = max(len(row[said]) for row in rows)
    domain = [bottom - 0.03 * span if bottom < 0 else 0, top + room * span * max(1.0, longest / 7)]
    scale = alt.Scale(domain=domain, nice=False, zero=False)
    title = f"held-out loss above {study.reference}"
    x = alt.X("gap:Q", title=title, axis=percent_axis(span), scale=scale)
    base = alt.Chart().encode(
        y=alt.Y("strategy:N", title=None, sort=strategies), yOffset=alt.YOffset("arm:N", sort=arms)
    )
    tooltip = [
        "strategy:N", "arm:N", alt.Tooltip("gap:Q", format="+.2%"), alt.Tooltip("low:Q", format="+.2%"),
        alt.Tooltip("high:Q", format="+.2%"), "verdict:N", "seeds:N", "doubt:N",
    ]  # fmt: skip
    bars = base.mark_bar().encode(x=x, color=colour_of(study, arms), tooltip=tooltip)
    layers: list[Any] = [bars]
    if any(row["doubt"] for row in rows):
        layers.append(
            base.mark_bar(fill=f"url(#{HATCH})").encode(x=x, tooltip=tooltip).transform_filter("datum.doubt != ''")
        )
    if any(row["interval"] for row in rows):
        rule = base.mark_rule(strokeWidth=2, color=LINE).encode(x=alt.X("low:Q", title=title, scale=scale), x2="high:Q")
        layers.append(rule.transform_filter("datum.interval"))
    layers.append(
        base.mark_text(align="left", dx=6, fontSize=12, color=LINE)
        .encode(x=alt.X("edge:Q", title=title, scale=scale), text="said:N")
        .transform_calculate(said="width < 350 ? datum.short : datum.label" if said == "label" else "datum.short")
    )
    layers.append(zero("x"))
    height = bars_height(len(strategies) * len(arms)) + 10 * len(strategies)
    chart: Any = alt.layer(*layers, data=data(rows))
    if len(models) == 1:
        chart = chart.properties(width="container", height=height)
    else:
        order = [titles[model] for model in models]
        chart = chart.properties(width=FULL // 2 - 40, height=height).facet(
            alt.Facet("model:N", title=None, sort=order), columns=2
        )
    cells = _cells(study, found)
    caption = (
        f"How much higher the held-out loss ends than {study.reference}'s, paired by seed. {drawn_from(study, cells)} "
        f"{_shown(found)}{_hatched(found)}"
    )
    return made(chart, "gap", f"Gap to {study.reference}", caption, cells)


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
    return made(panels(alt.layer(*layers, data=data(rows)), "strategy", strategies), "gap-size", "Gap by model size",
                caption, cells)  # fmt: skip


def _bar(row: Row, model: str) -> dict[str, Any]:
    low, high = (row.value if bound is None else bound for bound in (row.low, row.high))
    return {
        "model": model,
        "strategy": row.strategy,
        "arm": row.arm,
        "gap": row.value,
        "low": low,
        "high": high,
        "edge": max(0.0, high, row.value),
        "interval": row.low is not None,
        "seeds": ", ".join(map(str, row.seeds)),
        "verdict": verdict(row) or "no interval",
        "doubt": row.doubt,
        "label": signed(row.value) + (f" {row.doubt}" if row.doubt else ""),
        "short": signed(row.value) + (" †" if row.doubt else ""),
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
    return (
        " Hatched (†): incomplete or not matched, and no result to conclude from." if any(r.doubt for r in rows) else ""
    )
