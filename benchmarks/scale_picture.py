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
FAILURES = {"none": "never", "one a node-month": "once a month", "one a node-day": "once a day"}
"""As a record says -> as the axis does."""


def draw(results: Path, out: Path) -> None:
    """Write `out`, a PNG, from ledger.json and simulation records in the folder `results`."""
    ledger = json.loads((results / "ledger.json").read_text())["records"]
    simulated = json.loads((results / "simulate.json").read_text())["records"]
    both = alt.hconcat(_efficiency(simulated), _looks(ledger), spacing=40).resolve_scale(color="independent")
    spec = {**both.to_dict(), "config": CONFIG}
    out.write_bytes(vl_convert.vegalite_to_png(spec, scale=2))


def _efficiency(records: list[dict[str, Any]]) -> Any:
    points = [
        {
            "failures": FAILURES[record["failures"]],
            "how": HOWS[record["how"]],
            "cell": f"cells of {record['mean_seconds'] / 60:.0f} minutes",
            "efficiency": record["efficiency"],
            "label": f"{100 * record['efficiency']:.0f}",
        }
        for record in records
        if record["table"] == "cost"
    ]
    base = alt.Chart().encode(
        x=alt.X("failures:N", sort=list(FAILURES.values()), title="each node dies", axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("how:N", sort=list(HOWS.values())),
        y=alt.Y("efficiency:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%", tickCount=5)),
    )
    colour = alt.Color(
        "how:N",
        sort=list(HOWS.values()),
        title=None,
        scale=alt.Scale(domain=list(HOWS.values()), range=list(COLOURS[1:4])),
        legend=alt.Legend(orient="top"),
    )
    bars = base.mark_bar().encode(color=colour)
    texts = base.mark_text(dy=8, fontSize=11, color="#ffffff").encode(text="label:N")
    both: Any = alt.layer(bars, texts, data=alt.Data(values=points)).properties(width=250, height=230)
    return both.facet(
        column=alt.Column("cell:N", sort=["cells of 10 minutes", "cells of 60 minutes"], title=None)
    ).properties(title=alt.Title("Useful share of 1,000 GPUs' time, 10,000 cells (simulated)"))


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
            x=alt.X(
                "cells:Q",
                scale=alt.Scale(type="log"),
                title="cells in the ledger",
                axis=alt.Axis(values=[100, 1000, 10000], format=","),
            ),
            y=alt.Y(
                "seconds:Q",
                scale=alt.Scale(type="log"),
                title="seconds",
                axis=alt.Axis(values=[0.01, 0.1, 1, 10, 100], format="~g"),
            ),
            color=colour,
        )
    )
    return lines.properties(width=280, height=230, title="To look at every cell once (measured)")
