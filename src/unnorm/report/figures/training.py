"""Curves over training: held-out and training loss, token accuracy, gradient norm."""

from typing import Any

import altair as alt

from unnorm.report.figures.figure import (
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
from unnorm.study.view import CellView

_SHORT = "abs(datum.value) >= 1e5 ? format(datum.value, '.0e') : datum.label"


def held_out_loss(part: Slice) -> Figure | None:
    title, shows = (
        "Held-out loss",
        "Loss on held-out text over training, nats a token (sum over tokens / their number).",
    )
    return _evaluations(part, "loss", "held-out loss (nats per token)", "loss", title, shows)


def token_accuracy(part: Slice) -> Figure | None:
    shows = "Share of held-out tokens that the model thought the likeliest."
    return _evaluations(part, "token_accuracy", "held-out token accuracy", "accuracy", "Token accuracy", shows)


def training_loss(part: Slice) -> Figure | None:
    shows = "Loss on the tokens trained on."
    return _steps(part, "loss", "training loss (nats per token)", "train-loss", "Training loss", shows)


def grad_norm(part: Slice) -> Figure | None:
    shows = "Norm of the gradient before clipping."
    return _steps(part, "grad_norm", "gradient norm", "grad-norm", "Gradient norm", shows, log=True)


def _evaluations(part: Slice, key: str, label: str, name: str, title: str, shows: str) -> Figure | None:
    rows, drawn = [], []
    for (arm, strategy), cells in part.panels.items():
        series = {c.cell: [(e["step"], e["train_tokens"], e[key]) for e in c.evaluations if key in e] for c in cells}
        drawn += [c for c in cells if series[c.cell]]
        rows += _over_seeds(arm, strategy, list(series.values()))
    if not rows:
        return None
    return _figure(part, rows, drawn, label, name, title, shows, points=True, log=False)


def _steps(part: Slice, key: str, label: str, name: str, title: str, shows: str, log: bool = False) -> Figure | None:
    rows, drawn, bins = [], [], points_a_line(len(part.panels), part)
    most = 1
    for (arm, strategy), cells in part.panels.items():
        series = []
        for cell in cells:
            runs = binned(cell.steps, key, bins)
            if runs:
                most = max(most, runs[0][2])
                drawn.append(cell)
                series.append([(number, tokens, mean) for number, (tokens, mean, _) in enumerate(runs)])
        rows += _over_seeds(arm, strategy, series)
    if not rows:
        return None
    shows += f" Each point is the mean of {most} steps." if most > 1 else ""
    return _figure(part, rows, drawn, label, name, title, shows, points=False, log=log)


def _over_seeds(arm: str, strategy: str, series: list[list[tuple[int, int, float]]]) -> list[dict[str, Any]]:
    """Mean, lowest and highest over seeds at every point that all of them have. series: (step, tokens, value) each."""
    if not series:
        return []
    by_step = [{step: (tokens, value) for step, tokens, value in one} for one in series]
    rows = []
    for step in sorted(set.intersection(*(set(one) for one in by_step))):
        tokens, values = zip(*(one[step] for one in by_step), strict=True)
        rows.append(
            {
                "arm": arm,
                "strategy": strategy,
                "tokens": round(sum(tokens) / len(tokens)),
                "value": sum(values) / len(values),
                "low": min(values),
                "high": max(values),
                "seeds": len(values),
            }
        )
    for row in rows[-1:]:
        row["last"] = True
    return rows


def _figure(
    part: Slice,
    rows: list[dict[str, Any]],
    drawn: list[CellView],
    label: str,
    name: str,
    title: str,
    shows: str,
    *,
    points: bool,
    log: bool,
) -> Figure:
    study = part.study
    shown = [arm for arm in study.arms if any(row["arm"] == arm for row in rows)]
    scale = alt.Scale(type="log", nice=False, padding=8) if log else alt.Scale(zero=False)
    base = alt.Chart().encode(x=tokens_axis(), color=colour_of(study, shown))
    axis = alt.Axis(format=".1~%") if name == "accuracy" else alt.Axis(labelExpr=_SHORT) if log else alt.Axis()
    y = alt.Y("value:Q", title=label, scale=scale, axis=axis)
    tooltip = ["arm:N", "strategy:N", "tokens:Q", alt.Tooltip("value:Q", format=".4f", title=title.lower()), "seeds:Q"]
    layers: list[Any] = [base.mark_line(strokeWidth=2 if points else 1.5).encode(y=y, tooltip=tooltip)]
    banded = any(row["seeds"] > 1 for row in rows)
    if banded:
        layers.insert(
            0, base.mark_area(opacity=0.22).encode(y=alt.Y("low:Q", title=label, scale=scale, axis=axis), y2="high:Q")
        )
    if points:
        layers.append(base.mark_point(size=34, filled=True).encode(y=y, shape=shape_of(study, shown), tooltip=tooltip))
    else:
        ends = base.transform_filter("datum.last").mark_point(size=50, filled=True, opacity=1)
        layers.append(ends.encode(y=y, shape=shape_of(study, shown)))
    chart = alt.layer(*layers, data=data(rows))
    band = "Line: mean of the seeds; band: lowest to highest seed." if banded else "One seed: no band."
    strategies = [s for s in study.strategies if any(row["strategy"] == s for row in rows)]
    caption = f"{shows} {drawn_from(study, drawn)} {band} No smoothing."
    return made(panels(study, chart, "strategy", strategies), name, title, caption, drawn)
