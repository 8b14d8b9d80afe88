"""What the judge said: win, tie, loss by category; and whether longer answers win because they are longer."""

from typing import Any

import altair as alt

from unnorm.evaluation.intervals import Estimate
from unnorm.evaluation.preference.summary import WinRate
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
    shape_of,
    unseen_points,
    zero,
)
from unnorm.report.pairs import Group, tallies
from unnorm.report.theme import FAINT, HATCH, LINE, PAPER, Look

_OUTCOMES = ("wins", "ties", "losses")
_TIE = Look(FAINT, "square")
_MOST_POINTS = 3_000


def by_category(part: Slice) -> Figure | None:
    """Shares of questions, stacked; the win rate (ties half) with its interval beside."""
    study, shown = part.study, [group for group in groups_in(part) if group.judged]
    if not shown:
        return None
    rows: list[dict[str, Any]] = []
    for group in shown:
        for category, tally in tallies(group):
            at = 0.0
            for outcome in _OUTCOMES:
                count = getattr(tally, outcome)
                share = count / max(1, tally.judgements)
                rows.append(
                    {
                        "panel": group.title,
                        "category": category,
                        "label": _category(category, tally),
                        "outcome": outcome,
                        "arm": {"wins": group.arm, "ties": "tie", "losses": group.against}[outcome],
                        "count": count,
                        "from": at,
                        "to": at + share,
                        "rate": tally.win_rate.value,
                        "low": tally.win_rate.low,
                        "high": tally.win_rate.high,
                        "doubt": group.doubt,
                        "said": _said(tally.win_rate),
                    }
                )
                at += share
    if not rows:  # nothing but verdicts that are missing
        return None
    titles = [group.title for group in shown]
    if len({row["label"] for row in rows}) > len({row["category"] for row in rows}):  # not as many questions in all
        for row in rows:
            row["label"] = row["label"].rpartition(" (")[0]
    labels = list(dict.fromkeys(row["label"] for row in rows))
    scale = alt.Scale(domain=[0, 1], nice=False)
    axis = alt.Axis(format=".0%", values=[0, 0.25, 0.5, 0.75, 1])
    base = alt.Chart().encode(y=alt.Y("label:N", title=None, sort=labels, axis=alt.Axis(labelLimit=220)))
    tooltip = ["panel:N", "category:N", "outcome:N", "count:Q", "said:N", "doubt:N"]
    arms = [arm for arm in study.arms if any(row["arm"] == arm for row in rows)]
    bars = base.mark_bar(stroke=PAPER, strokeWidth=0.5).encode(
        x=alt.X("from:Q", title="share of questions", scale=scale, axis=axis),
        x2="to:Q",
        color=colour_of(study, arms, {"tie": _TIE}),
        tooltip=tooltip,
    )  # fmt: skip
    layers: list[Any] = [bars, unseen_points(base.encode(x="from:Q"), study, arms, {"tie": _TIE})]
    if any(group.doubt for group in shown):
        layers.append(
            base.mark_bar(fill=f"url(#{HATCH})")
            .encode(x="from:Q", x2="to:Q", tooltip=tooltip)
            .transform_filter("datum.doubt != ''")
        )
    wins = base.transform_filter("datum.outcome == 'wins' && isValid(datum.low)")
    layers += [  # white around black: they lie on any colour
        zero("x", 0.5).mark_rule(color=PAPER, strokeWidth=3),
        zero("x", 0.5),
        wins.mark_rule(strokeWidth=5, color=PAPER).encode(x="low:Q", x2="high:Q"),
        wins.mark_rule(strokeWidth=2, color=LINE).encode(x="low:Q", x2="high:Q"),
        wins.mark_point(size=60, filled=True, color=LINE, stroke=PAPER, strokeWidth=1.5, opacity=1).encode(
            x="rate:Q", tooltip=tooltip
        ),
    ]
    height = bars_height(len(labels), 24)
    width = FULL - 180 if len(titles) == 1 else PAIR
    chart = (
        alt.layer(*layers, data=data(rows))
        .properties(width=width, height=height)
        .facet(alt.Facet("panel:N", sort=titles, title=None), columns=1 if len(titles) == 1 else 2)
    )
    questions = sum(tally.judgements for group in shown for _, tally in tallies(group)[:1])
    judge = shown[0].judged[0].judge or {}
    doubts = " Hatched: incomplete or not matched." if any(group.doubt for group in shown) else ""
    note = f" {judge['caveat']}" if judge.get("caveat") else ""
    caption = (
        f"How often the judge ({judge['judge']['kind']}) preferred each arm to {study.reference}, by category; "
        f"{questions} judgements, {_seeds(shown)}. Points: win rate, ties as half, with its 95 % "
        f"interval over seeds and questions. Categories marked * have under 30 questions: exploratory.{doubts}{note}"
    )
    return made(chart, "preference", "Judged answers by category", caption, [c for g in shown for c in g.cells])


def length_and_margin(part: Slice) -> Figure | None:
    """How much longer the arm's answer is against by how much the judge prefers it."""
    study, shown = part.study, [group for group in groups_in(part) if group.scored]
    rows = [
        {
            "panel": group.title,
            "arm": group.arm,
            "length": verdict["a_length"] - verdict["b_length"],
            "score": verdict["score"],
            "prompt": str(verdict["prompt_id"])[:80],
            "category": str(verdict["category"])[:80],
        }
        for group in shown
        for verdict in group.scored
    ]
    if not rows:
        return None
    left_out = max(0, len(rows) - _MOST_POINTS)
    rows = rows[:: -(-len(rows) // _MOST_POINTS)]
    arms = [arm for arm in study.arms if any(row["arm"] == arm for row in rows)]
    points = alt.Chart().mark_point(size=36, filled=True, opacity=0.65).encode(
        x=alt.X("length:Q", title=f"characters more than {study.reference}", axis=alt.Axis(tickCount=5)),
        y=alt.Y("score:Q", title="judge's margin for the arm", axis=alt.Axis(tickCount=5)),
        color=colour_of(study, arms),
        shape=shape_of(study, arms),
        tooltip=["prompt:N", "category:N", "length:Q", alt.Tooltip("score:Q", format=".3f")],
    )  # fmt: skip
    chart = alt.layer(zero("x"), zero("y"), points, data=data(rows))
    pulls = [said for group in shown if (said := _pull(group))]
    caption = (
        f"A question each: how much longer the arm's answer is than {study.reference}'s, and by how much the judge "
        f"prefers it, in its own unit. {_seeds(shown).capitalize()}. {' '.join(pulls)}"
        + (" Evenly thinned to what can be seen." if left_out else "")
    )
    return made(panels(study, chart, "panel", [group.title for group in shown]), "length", "Length and preference",
                caption.strip(), [c for g in shown for c in g.cells])  # fmt: skip


def _pull(group: Group) -> str:
    """Whether length sways the judge, of the first seed."""
    found = next((p.judge["parts"]["whole"]["length_controlled"] for p in group.pairs if p.judge), None)
    if not found:
        return ""
    low, high = found["effect"]["low"], found["effect"]["high"]
    sways = "no pull of length shown"
    if low > 0 or high < 0:
        sways = "longer answers win for being longer" if low > 0 else "shorter answers win for being shorter"
    return f"{group.title}: {sways} (φ, 95 % interval {low:.2f} to {high:.2f})."


def _category(category: str, tally: WinRate) -> str:
    return f"{category[:30]}{' *' if tally.exploratory else ''} ({tally.judgements})"


def _said(rate: Estimate) -> str:
    return f"{rate.value:.1%}" + ("" if rate.low is None else f" ({rate.low:.1%} to {rate.high:.1%})")


def _seeds(shown: list[Group]) -> str:
    seeds = sorted({pair.seed for group in shown for pair in group.judged})
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
