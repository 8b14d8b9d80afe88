"""Draw the held-out gap over the tokens of a recovery, into docs/images/: `python benchmarks/recovery_picture.py`."""

import argparse
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from unnorm.report.theme import CONFIG
from unnorm.tuning.run_log import RunLog

HERE = Path(__file__).parent
OUT = HERE.parent / "docs" / "images" / "recovery"
LABELLED = 5  # points that get their number


def chart(records: list[dict[str, Any]], subtitle: str) -> alt.LayerChart:
    """records: of an evaluations.jsonl; gap on a logarithmic axis."""
    chosen = {round(i * (len(records) - 1) / (LABELLED - 1)) for i in range(LABELLED)} | {1}
    values = [
        {
            "tokens": record["train_tokens"],
            "gap": record["gap"],
            "label": f"{record['gap']:+.0%}" if record["gap"] >= 0.1 else f"{record['gap']:+.1%}",
            "shown": i in chosen,
        }
        for i, record in enumerate(records)
    ]
    base = alt.Chart(alt.Data(values=values)).encode(
        x=alt.X("tokens:Q", title="tokens distilled", axis=alt.Axis(format="~s")),
        y=alt.Y("gap:Q", title="held-out gap", scale=alt.Scale(type="log"), axis=alt.Axis(format="+.0%")),
    )
    line = base.mark_line(size=2.5, color="#0072B2", point=alt.OverlayMarkDef(size=40, color="#0072B2"))
    text = base.transform_filter("datum.shown").mark_text(align="left", dx=8, dy=-8, fontSize=12).encode(text="label:N")
    title = alt.Title("SmolLM2-135M-Instruct, Dynamic Tanh in all 61 sites", subtitle=subtitle)
    layers: Any = alt.layer(line, text)
    found: alt.LayerChart = layers.properties(width=520, height=260, title=title)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=HERE / "results" / "real" / "cpu")
    parser.add_argument("--subtitle", default="distilled from the original by `unnorm recover` on one CPU core")
    arguments = parser.parse_args()
    records = RunLog(arguments.run / "evaluations.jsonl").read()
    spec = {**chart(records, arguments.subtitle).to_dict(), "config": CONFIG}
    OUT.with_suffix(".png").write_bytes(vl_convert.vegalite_to_png(spec, scale=2))


if __name__ == "__main__":
    main()
