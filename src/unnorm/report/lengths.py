"""The figure of a data set: how long its conversations are."""

from itertools import pairwise
from typing import Any

import altair as alt

from unnorm.report.figures import Figure
from unnorm.report.theme import CONFIG


def lengths_figure(statistics: dict[str, Any], name: str, max_length: int) -> Figure:
    """A histogram of tokens a conversation, from `Statistics.to_dict()`; a line where rows end."""
    histogram = statistics["histogram"]
    edges, counts = histogram["edges"], histogram["counts"]
    bars = [
        {"from": low, "to": high, "conversations": count}
        for (low, high), count in zip(pairwise(edges), counts, strict=True)
    ]
    chart = (
        alt.Chart(alt.Data(values=bars))
        .mark_bar(color="#0072B2")
        .encode(
            x=alt.X("from:Q", bin="binned", title="tokens a conversation", axis=alt.Axis(format="~s")),
            x2="to:Q",
            y=alt.Y("conversations:Q", title="conversations"),
            tooltip=["from:Q", "to:Q", "conversations:Q"],
        )
    )
    layers: list[alt.Chart] = [chart]
    caption = (
        f"Tokens of {sum(counts) + histogram['beyond']:,} conversations of {name}, before any is cut or dropped; "
        f"{histogram['beyond']:,} longer ones are not drawn."
    )
    if max_length <= edges[-1]:
        rule = alt.Chart(alt.Data(values=[{"length": max_length, "label": f"max_length {max_length:,}"}]))
        layers.append(rule.mark_rule(color="#D55E00", strokeWidth=2).encode(x="length:Q"))
        words = rule.mark_text(align="left", dx=6, color="#A84300", y=12)
        layers.append(words.encode(x="length:Q", text="label:N"))
        caption += f" The line: max_length, {max_length:,}."
    title = f"Lengths of {name.rsplit('/', 1)[-1][-60:]}"
    spec = alt.layer(*layers).properties(width=640, height=240, title=title).to_dict()
    return Figure("lengths", "Lengths", caption, {**spec, "config": CONFIG})
