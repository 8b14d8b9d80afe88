"""Draw the held-out gap over the tokens of recoveries, into docs/images/: `python benchmarks/recovery_picture.py`."""

import argparse
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from unnorm.report.theme import COLOURS, CONFIG
from unnorm.tuning.run_log import RunLog

HERE = Path(__file__).parent
OUT = HERE.parent / "docs" / "images" / "recovery"
RUNS = {
    "mixture_answers": "all weights, 100k tokens",
    "lora64_100k": "LoRA of rank 64, 100k tokens",
    "lora64_500k": "LoRA of rank 64, 500k tokens",
    "lora64_500k_and_700k": "and 700k more, from that model",
}

AFTER = {"lora64_500k_and_700k": "lora64_500k"}
"""Which run another began from."""

BELOW = {RUNS["lora64_100k"], RUNS["lora64_500k"]}
"""Whose last label stands below its point, where another run's line is above or beside it."""


def values(records: list[dict[str, Any]], run: str, before: int = 0) -> list[dict[str, Any]]:
    """records: of an evaluations.jsonl. run: what the legend calls it. before: tokens of its start."""
    return [
        {
            "run": run,
            "tokens": before + record["train_tokens"],
            "gap": record["gap"],
            "label": f"{record['gap']:+.0%}" if record["gap"] >= 0.1 else f"{record['gap']:+.1%}",
            "shown": i == len(records) - 1 or (i == 0 and not before),
            "below": run in BELOW and i > 0,
        }
        for i, record in enumerate(records)
    ]


def chart(points: list[dict[str, Any]], subtitle: str) -> alt.LayerChart:
    """Gap on a logarithmic axis."""
    sizes = [point["gap"] for point in points]
    marks = [
        step * 10.0**power
        for power in range(-4, 3)
        for step in (1, 1.5, 2, 3, 5)
        if min(sizes) <= step * 10.0**power <= max(sizes)
    ]
    thousands = alt.Axis(labelExpr="datum.value / 1000 + (datum.value ? 'k' : '')")
    runs, shapes = list(RUNS.values()), ["circle", "square", "diamond", "triangle-up"]
    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("tokens:Q", title="tokens distilled", axis=thousands),
        y=alt.Y(
            "gap:Q",
            title="held-out gap on answers",
            scale=alt.Scale(type="log", nice=False, padding=30),
            axis=alt.Axis(format="+~%", values=marks, tickCount=len(marks), labelOverlap=False),
        ),
        color=alt.Color(
            "run:N", title=None, scale=alt.Scale(domain=runs, range=COLOURS[1:5]), legend=alt.Legend(columns=2)
        ),
        shape=alt.Shape("run:N", title=None, scale=alt.Scale(domain=runs, range=shapes)),
    )
    line = base.mark_line(size=2.5)
    dots = base.mark_point(size=45, filled=True, opacity=1)
    beside, below = (
        base.transform_filter(f"datum.shown && {where}").encode(text="label:N")
        for where in ("!datum.below", "datum.below")
    )
    texts = [
        beside.mark_text(align="left", dx=6, dy=-10, fontSize=12),
        below.mark_text(align="center", dy=14, fontSize=12),
    ]
    title = alt.Title("SmolLM2-135M-Instruct, Dynamic Tanh in all 61 sites", subtitle=subtitle)
    layers: Any = alt.layer(line, dots, *texts)
    found: alt.LayerChart = layers.properties(width=600, height=280, title=title)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=HERE / "results" / "real" / "cpu")
    parser.add_argument("--subtitle", default="distilled from the original by `unnorm recover` on a CPU of two cores")
    arguments = parser.parse_args()
    records = {run: RunLog(arguments.runs / f"{run}.jsonl").read() for run in RUNS}
    before = {run: records[earlier][-1]["train_tokens"] for run, earlier in AFTER.items()}
    points = [point for run, name in RUNS.items() for point in values(records[run], name, before.get(run, 0))]
    spec = {**chart(points, arguments.subtitle).to_dict(), "config": CONFIG}
    OUT.with_suffix(".png").write_bytes(vl_convert.vegalite_to_png(spec, scale=2))


if __name__ == "__main__":
    main()
