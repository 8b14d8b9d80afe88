"""How long the arms take: ratios with their noise floor and the bound without norms; and quality against speed."""

from collections import Counter
from typing import Any

import altair as alt

from unnorm.report.figures.figure import (
    FULL,
    PAIR,
    Figure,
    Slice,
    bars_height,
    colour_of,
    data,
    groups_in,
    made,
    panels,
    percent_axis,
    shape_of,
    zero,
)
from unnorm.report.pairs import Group, compared
from unnorm.report.theme import FAINT, FAINTER, LINE, Look

NO_NORMS = "no norms"  # as evaluation.latency names its bound


def latency(part: Slice) -> Figure | None:
    """A panel a workload, a row an arm and strategy: ratio with interval, floor behind it, bound beside it."""
    study, shown = part.study, [group for group in groups_in(part) if group.timed]
    rows = [row for group in shown for pair in group.timed for row in _ratios(group, pair.seed, pair.latency or {})]
    if not rows:
        return None
    workloads = list(dict.fromkeys(row["workload"] for row in rows))
    order = list(dict.fromkeys(row["label"] for row in rows))
    arms = [arm for arm in study.arms if any(row["arm"] == arm for row in rows)]
    # the bound may lie far from the rest: the axis takes in all that is drawn
    ends = [row[key] for row in rows for key in ("low", "high", "floor_low", "floor_high", "bound") if key in row]
    span = max(ends) - min(ends)
    scale = alt.Scale(domain=[min(0, *ends) - 0.05 * span, max(0, *ends) + 0.05 * span], nice=False, zero=False)
    x = alt.X(
        "value:Q", title=f"time, against {study.reference}'s (left is faster)", scale=scale, axis=percent_axis(span)
    )
    base = alt.Chart().encode(y=alt.Y("label:N", title=None, sort=order))
    tooltip = [
        "arm:N", "strategy:N", "seed:N", "workload:N", "verdict:N", alt.Tooltip("value:Q", format="+.2%"),
        alt.Tooltip("low:Q", format="+.2%"), alt.Tooltip("high:Q", format="+.2%"), "blocks:Q",
        alt.Tooltip("floor_high:Q", format=".2%", title="noise floor ±"), alt.Tooltip("bound:Q", format="+.2%"),
    ]  # fmt: skip
    extra = {NO_NORMS: Look(LINE, "stroke"), "noise floor": Look(FAINT, "square")}
    extra = extra if any("bound" in row for row in rows) else {"noise floor": extra["noise floor"]}
    colour = colour_of(study, arms, extra)
    layers: list[Any] = [
        base.mark_bar(color=FAINTER, height={"band": 0.9}).encode(
            x=alt.X("floor_low:Q", scale=scale), x2="floor_high:Q"
        ),
        zero("x"),
        base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", color=colour),
        base.mark_point(size=70, filled=True, opacity=1).encode(
            x=x, color=colour, shape=shape_of(study, arms, extra), tooltip=tooltip
        ),
    ]
    if any("bound" in row for row in rows):
        tick = base.mark_tick(color=LINE, thickness=2.5, height={"band": 0.75}).encode(x="bound:Q", tooltip=tooltip)
        layers.append(tick.transform_filter("isValid(datum.bound)"))
    width = FULL - 190 if len(workloads) == 1 else PAIR
    chart = (
        alt.layer(*layers, data=data(rows))
        .properties(width=width, height=bars_height(len(order), 24))
        .facet(alt.Facet("workload:N", sort=workloads, title=None), columns=1 if len(workloads) == 1 else 2)
    )
    verdicts = Counter(row["verdict"] for row in rows)
    said = f"Of {len(rows)} comparisons: {', '.join(f'{count} {verdict}' for verdict, count in verdicts.items())}."
    doubt = " † The audit found these not matched." if any(group.matched is False for group in shown) else ""
    caption = (
        f"Time of each arm over {study.reference}'s, alternated in one process; points: trimmed mean of paired blocks; "
        f"lines: 95 % bootstrap interval. Grey: the noise floor, what {study.reference} shows against itself. Upright "
        f"black: {study.reference} without any norms, the most that any replacement could save. {said} "
        f"{_seeds({p.seed for g in shown for p in g.timed}).capitalize()}. Processor: {_processors(shown)}.{doubt}"
    )
    return made(chart, "latency", "Latency", caption, [c for g in shown for c in g.cells])


def quality_and_speed(part: Slice) -> Figure | None:
    """One point an arm: gap in loss against time, both with intervals. Filled: no other arm is better at both."""
    study, shown = part.study, [group for group in groups_in(part) if group.timed]
    gaps = {row.place: row for row in compared(study) if row.metric == "loss"}
    rows: list[dict[str, Any]] = []
    titles: list[str] = []
    for group in shown:
        gap = gaps.get((group.model, group.dataset, group.strategy, group.arm))
        if gap is None:
            continue
        for ratio in _ratios(group, group.timed[0].seed, group.timed[0].latency or {}):
            title = f"{group.strategy}: {ratio['workload']}"
            if title not in titles:
                titles.append(title)
                rows.append({"panel": title, "arm": study.reference, "value": 0.0, "low": ratio["floor_low"],
                             "high": ratio["floor_high"], "gap": 0.0, "doubt": ""})  # fmt: skip
            bounds = {"gap_low": gap.low, "gap_high": gap.high} if gap.low is not None else {}
            ratio = {key: ratio[key] for key in ("value", "low", "high")}
            rows.append({"panel": title, "arm": group.arm, **ratio, "gap": gap.value, **bounds, "doubt": gap.doubt})
    if not rows:
        return None
    for row in rows:
        row["best"] = not any(_better(other, row) for other in rows if other["panel"] == row["panel"])
    arms = [arm for arm in study.arms if any(row["arm"] == arm for row in rows)]
    colour, shape = colour_of(study, arms), shape_of(study, arms)
    top = max(abs(row["gap"]) for row in rows)
    wide = max(abs(row[end]) for row in rows for end in ("low", "high"))
    gap_axis = alt.Y("gap:Q", title=f"held-out loss above {study.reference}", axis=percent_axis(top))
    x = alt.X("value:Q", title=f"time, against {study.reference}'s", axis=percent_axis(wide))
    tooltip = ["arm:N", alt.Tooltip("value:Q", format="+.2%"), alt.Tooltip("gap:Q", format="+.2%"), "doubt:N"]
    base = alt.Chart().encode(color=colour)
    where = {"x": x, "y": gap_axis, "shape": shape, "tooltip": tooltip}
    layers = [
        zero("x"),
        zero("y"),
        base.mark_rule(strokeWidth=1.5).encode(x="low:Q", x2="high:Q", y=gap_axis),
        base.mark_point(size=90, opacity=1, filled=True).encode(**where).transform_filter("datum.best"),
    ]
    if any("gap_low" in row for row in rows):
        rule = base.mark_rule(strokeWidth=1.5).encode(x=x, y="gap_low:Q", y2="gap_high:Q")
        layers.append(rule.transform_filter("isValid(datum.gap_low)"))
    if not all(row["best"] for row in rows):
        hollow = base.mark_point(size=90, opacity=1, strokeWidth=2).encode(**where)
        layers.append(hollow.transform_filter("!datum.best"))
    if any(row["doubt"] for row in rows):
        mark = base.mark_text(text="†", dx=11, dy=-8, fontSize=15).encode(x=x, y=gap_axis)
        layers.append(mark.transform_filter("datum.doubt != ''"))
    doubts = [f"{row['arm']} ({row['panel']}): {row['doubt']}" for row in rows if row["doubt"]]
    caption = (
        "Lower left is better at both. Filled: no other arm is at least as good at both (by the estimates alone). "
        f"Lines across: 95 % interval of the time, of {study.reference} the noise floor; lines upright: 95 % "
        f"interval of the loss. Times are of {_seeds({g.timed[0].seed for g in shown})}; losses, of all seeds compared."
        f"{' † In doubt: ' + '; '.join(doubts) + '.' if doubts else ''}"
    )
    chart = panels(study, alt.layer(*layers, data=data(rows)), "panel", titles)
    return made(chart, "pareto", "Quality against speed", caption, [c for g in shown for c in g.cells])


def _ratios(group: Group, seed: int, report: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a workload: the arm's ratio − 1, its floor, and the bound of the same run."""
    found = report["comparisons"]
    bounds = {c["name"]: c["ratio"]["value"] - 1 for c in found if c["model"] == NO_NORMS}
    several, unmatched = len(group.timed) > 1, group.matched is False
    rows = []
    for comparison in found:
        if comparison["model"] != group.arm:
            continue
        ratio, floor = comparison["ratio"], comparison["floor"]
        reach = max(abs(floor["low"] - 1), abs(floor["high"] - 1))
        rows.append(
            {
                "arm": group.arm,
                "strategy": group.strategy,
                "seed": seed,
                "label": group.title + (f", seed {seed}" if several else "") + (" †" if unmatched else ""),
                "workload": comparison["name"],
                "value": ratio["value"] - 1,
                "low": ratio["low"] - 1,
                "high": ratio["high"] - 1,
                "blocks": ratio["blocks"],
                "floor_low": -reach,
                "floor_high": reach,
                "verdict": comparison["verdict"],
            }
            | ({"bound": bounds[comparison["name"]]} if comparison["name"] in bounds else {})
        )
    return rows


def _better(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """At least as good at both, and better at one."""
    mine, theirs = (one["value"], one["gap"]), (other["value"], other["gap"])
    return mine != theirs and mine[0] <= theirs[0] and mine[1] <= theirs[1]


def _seeds(seeds: set[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, sorted(seeds)))}"


def _processors(shown: list[Group]) -> str:
    """Each that something was timed on."""
    about = [(pair.latency or {})["environment"] for group in shown for pair in group.timed]
    return "; ".join(dict.fromkeys(map(_processor, about)))


def _processor(about: dict[str, Any]) -> str:
    gpu = about.get("gpu")
    return (
        str(gpu["name"]) if gpu else f"{about['processor']}, {about['threads']} thread{'s' * (about['threads'] != 1)}"
    )
