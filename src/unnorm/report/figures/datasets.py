"""The figures of data: how long its conversations are, how full its packed rows, what was damaged and became of it."""

from itertools import pairwise
from typing import Any

import altair as alt

from unnorm.report.figures.figure import HEIGHT, Figure, bars_height, data, made
from unnorm.report.theme import COLOURS, FAINT, RED

_BLUE = COLOURS[1]
_ACTIONS = {
    "mended": COLOURS[1], "decoded": COLOURS[3], "ignored": FAINT,
    "removed": COLOURS[2], "replaced": COLOURS[6], "rejected": RED,
}  # fmt: skip
_LOSING = ("removed", "replaced", "rejected")


def lengths(statistics: dict[str, Any], name: str, max_length: int) -> Figure:
    """A histogram of tokens a conversation, from `Statistics.to_dict()`; a line where rows end."""
    histogram = statistics["histogram"]
    edges, counts = histogram["edges"], histogram["counts"]
    caption = (
        f"Tokens of {sum(counts) + histogram['beyond']:,} conversations of {name}, before any is cut or dropped; "
        f"{histogram['beyond']:,} longer ones are not drawn."
    )
    layers = [_histogram(edges, counts, "tokens a conversation", "conversations")]
    if max_length <= edges[-1]:
        rule = alt.Chart(data([{"length": max_length, "label": f"max_length {max_length:,}"}]))
        layers.append(rule.mark_rule(color=RED, strokeWidth=2).encode(x="length:Q"))
        late = max_length > 0.7 * edges[-1]
        words = rule.mark_text(align="right" if late else "left", dx=-6 if late else 6, color=RED, y=12)
        layers.append(words.encode(x="length:Q", text="label:N"))
        caption += f" The line: max_length, {max_length:,}."
    chart = alt.layer(*layers).properties(width="container", height=HEIGHT)
    return made(chart, "lengths", f"Lengths of {name.rsplit('/', 1)[-1][-60:]}", caption)


def packing(statistics: dict[str, Any], name: str) -> Figure:
    """A histogram of tokens a packed row, from `Statistics.to_dict()`."""
    edges, counts = statistics["packing"]["edges"], statistics["packing"]["counts"]
    chart = _histogram(edges, counts, f"tokens in a row of {edges[-1]:,}", "packed rows")
    caption = (
        f"How full the {statistics['packed_rows']:,} packed rows of {name} are: {statistics['packing_efficiency']:.1%} "
        f"of all positions hold one of {statistics['tokens']:,} tokens. A count, so no interval."
    )
    title = f"Packing of {name.rsplit('/', 1)[-1][-60:]}"
    return made(chart.properties(width="container", height=HEIGHT), "packing", title, caption)


def damage(repair: dict[str, Any]) -> Figure:
    """Damages by kind and by what became of them, from what `unnorm data repair --json` prints."""
    rows = [
        {"kind": kind, "action": action, "count": count, "total": sum(actions.values())}
        for kind, actions in repair["damages"].items()
        for action, count in actions.items()
    ]
    order = sorted({row["kind"]: row["total"] for row in rows}.items(), key=lambda item: (-item[1], item[0]))
    kinds = [kind for kind, _ in order]
    actions = [action for action in _ACTIONS if any(row["action"] == action for row in rows)]
    places = {action: place for place, action in enumerate(actions)}
    for row in rows:
        row["place"] = places[row["action"]]
    colour = alt.Color(
        "action:N", title=None, scale=alt.Scale(domain=actions, range=[_ACTIONS[action] for action in actions])
    )
    y = alt.Y("kind:N", sort=kinds, title=None, axis=alt.Axis(labelLimit=240))
    bars = alt.Chart(data(rows)).mark_bar().encode(
        x=alt.X(
            "count:Q",
            title="damages",
            axis=alt.Axis(tickMinStep=1, format="~s"),
            scale=alt.Scale(domain=[0, 1.08 * max(row["total"] for row in rows)], nice=False),
        ),
        y=y,
        color=colour,
        order="place:Q",
        tooltip=["kind:N", "action:N", "count:Q"],
    )  # fmt: skip
    totals = (
        alt.Chart(data([{"kind": kind, "total": total, "label": f"{total:,}"} for kind, total in order]))
        .mark_text(align="left", dx=5, fontSize=12)
        .encode(x="total:Q", y=y, text="label:N")
    )
    lost = ", ".join(action for action in actions if action in _LOSING)
    caption = (
        f"Damage found in {repair['bytes_in']:,} bytes, by kind, and what became of it. {repair['records']:,} records "
        f"were kept, {repair['mended_records']:,} of them mended; {repair['bytes_lost']:,} bytes were lost"
        f"{f' ({lost})' if lost else ''}. A count, so no interval."
    )
    chart = alt.layer(bars, totals).properties(width="container", height=bars_height(len(kinds), 24))
    return made(chart, "damage", "Damage found by repair", caption)


def _histogram(edges: list[int], counts: list[int], x: str, y: str) -> Any:
    bars = [
        {"from": low, "to": high, "count": count} for (low, high), count in zip(pairwise(edges), counts, strict=True)
    ]
    return (
        alt.Chart(data(bars))
        .mark_bar(color=_BLUE)
        .encode(
            x=alt.X("from:Q", bin="binned", title=x, axis=alt.Axis(format="~s")),
            x2="to:Q",
            y=alt.Y("count:Q", title=y),
            tooltip=["from:Q", "to:Q", "count:Q"],
        )
    )
