"""Recovery: how far a start was from its original on held-out tokens, over the tokens that it learnt from."""

import math
from typing import Any

import altair as alt

from unnorm.report.figures.figure import HEIGHT, TOKENS, Figure, Slice, colour_of, data, made, percent_axis, shape_of
from unnorm.report.wording import signed
from unnorm.study.start_words import how_it_learns, start_tokens
from unnorm.study.view import CellView


def recovery(part: Slice) -> Figure | None:
    """A line an arm: of its first finished cell, since all cells of an arm begin from the same start."""
    rows: list[dict[str, Any]] = []
    drawn: dict[str, CellView] = {}
    said = []
    for cell in part.cells:
        found = cell.recovery
        if found is None or not found["curve"] or cell.arm in drawn:
            continue
        drawn[cell.arm] = cell
        rows += [
            {"arm": cell.arm, "tokens": at["train_tokens"], "gap": at["gap"], "kl": at["kl"]} for at in found["curve"]
        ]
        kept = "" if found["kept"] else f", which was worse, so it was put back after {found['tokens']:,} tokens"
        said.append(
            f"{cell.arm}, {how_it_learns(found)}, {start_tokens(found):,} tokens: {signed(found['gap_before'])} to "
            f"{signed(found['gap_after'])}, KL {found['kl_before']:.4f} to {found['kl_after']:.4f}{kept}"
        )
    if not rows:
        return None
    arms = [arm for arm in part.study.arms if arm in drawn]
    tokens = sorted({row["tokens"] for row in rows if row["tokens"]})
    first, last = (tokens[0], tokens[-1]) if tokens else (1, 1)
    powers = range(math.floor(math.log10(first)), math.floor(math.log10(last)) + 1)
    marks = [step * 10**power for power in powers for step in (1, 2, 5) if first <= step * 10**power <= last]
    base = alt.Chart(data(rows)).encode(
        x=alt.X(
            "tokens:Q",
            title="tokens learnt from before training",
            # logarithmic from the first measurement on, and with a place for 0, where the curve begins
            scale=alt.Scale(type="symlog", constant=first, nice=False, domain=[0, last]),
            axis=alt.Axis(
                values=[0, *marks] if len(marks) > 1 else [0, first, last],
                format="~s",
                labelExpr=_ZERO,
                labelOverlap="greedy",
            ),
        ),
        y=alt.Y(
            "gap:Q",
            title="held-out gap to the original",
            scale=alt.Scale(type="symlog", constant=0.01, nice=False, padding=12),
            axis=_gap_axis([row["gap"] for row in rows]),
        ),
        color=colour_of(part.study, arms),
        tooltip=[
            "arm:N",
            alt.Tooltip("tokens:Q", format=","),
            alt.Tooltip("gap:Q", format="+.2%"),
            alt.Tooltip("kl:Q", format=".4f", title="KL (nats per token)"),
        ],
    )
    chart = alt.layer(
        base.mark_line(strokeWidth=2), base.mark_point(size=34, filled=True).encode(shape=shape_of(part.study, arms))
    ).properties(width="container", height=HEIGHT)
    caption = (
        "Held-out loss of each start against its original's while it learns, before any fine-tuning; both "
        f"axes are logarithmic away from zero. From the start to the end: {'; '.join(said)} (nats per token). "
        "One seed: no interval."
    )
    return made(chart, "recovery", "Recovery", caption, list(drawn.values()))


_ZERO = TOKENS.to_dict()["labelExpr"]


def _gap_axis(gaps: list[float]) -> alt.Axis:
    low, high = min(0.0, *gaps), max(0.0, *gaps)
    marks = [sign * size for size in (0.02, 0.1, 0.5, 2, 10) for sign in (-1, 1)]
    axis = percent_axis()
    axis.values = sorted([0, *(mark for mark in marks if low <= mark <= high)])
    axis.tickCount = len(axis.values)  # of more values than this every second one is dropped
    return axis
