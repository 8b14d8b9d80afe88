"""The figure of docs/scaling.md: what efficiency goes to, and how a look over the ledger grows."""

import json
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from unnorm.report.theme import COLOURS, CONFIG, GREY

HOWS = {
    "as recommended": "as recommended",
    "a process for each task": "a process for each task",
    "lost cells last": "lost cells come last",
}
FAILURES = ("none", "one a node-month", "one a node-day")


def draw(results: Path, out: Path) -> None:
    """Write `out`, a PNG, from ledger.json and simulation records in the folder `results`."""
    ledger = json.loads((results / "ledger.json").read_text())["records"]
    simulated = json.loads((results / "simulate.json").read_text())["records"]
    spec = {**alt.hconcat(_efficiency(simulated), _looks(ledger), spacing=40).to_dict(), "config": CONFIG}
    out.write_bytes(vl_convert.vegalite_to_png(spec, scale=2))


def _efficiency(records: list[dict[str, Any]]) -> Any:
    points = [
        {
            "failures": record["failures"],
            "how": HOWS[record["how"]],
            "cell": f"cells of {record['mean_seconds'] / 60:.0f} minutes",
            "efficiency": record["efficiency"],
            "label": f"{record['efficiency']:.0%}",
        }
        for record in records
        if record["table"] == "cost"
    ]
    base = alt.Chart().encode(
        x=alt.X("failures:N", sort=list(FAILURES), title=None, axis=alt.Axis(labelAngle=0, labelLimit=90)),
        xOffset=alt.XOffset("how:N", sort=list(HOWS.values())),
        y=alt.Y("efficiency:Q", title="useful GPU time", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%")),
    )
    colour = alt.Color(
        "how:N",
        sort=list(HOWS.values()),
        title=None,
        scale=alt.Scale(domain=list(HOWS.values()), range=list(COLOURS[1:4])),
        legend=alt.Legend(orient="top"),
    )
    bars = base.mark_bar().encode(color=colour)
    texts = base.mark_text(dy=-7, fontSize=11).encode(text="label:N")
    both: Any = alt.layer(bars, texts, data=alt.Data(values=points)).properties(width=270, height=230)
    return both.facet(
        column=alt.Column("cell:N", sort=["cells of 10 minutes", "cells of 60 minutes"], title=None)
    ).properties(title=alt.Title("10,000 cells on 1,000 GPUs, by how often a node dies (simulated)"))


def _looks(records: list[dict[str, Any]]) -> Any:
    points = [
        {
            "cells": record["cells"],
            "seconds": record["seconds"],
            "latency": "local disk" if not record["latency"] else f"{record['latency'] * 1e3:g} ms a call",
        }
        for record in records
        if record["operation"] == "look through all"
    ]
    names = list(dict.fromkeys(point["latency"] for point in points))
    colour = alt.Color(
        "latency:N",
        sort=names,
        title=None,
        scale=alt.Scale(domain=names, range=[GREY, *COLOURS[1:4]]),
        legend=alt.Legend(orient="top"),
    )
    lines: Any = (
        alt.Chart(alt.Data(values=points))
        .mark_line(point=alt.OverlayMarkDef(size=50))
        .encode(
            x=alt.X("cells:Q", scale=alt.Scale(type="log"), title="cells in the ledger", axis=alt.Axis(format="~s")),
            y=alt.Y("seconds:Q", scale=alt.Scale(type="log"), title="seconds", axis=alt.Axis(format="~g")),
            color=colour,
        )
    )
    return lines.properties(width=280, height=230, title="To look at every cell once (measured)")
