"""Draw what the old and the new norm do at one site, into docs/images/: `python benchmarks/site_picture.py`."""

import argparse
import json
from pathlib import Path
from typing import Any

import altair as alt
import torch
import vl_convert

from machine import SHARED
from surgery_start import PROMPT, packed
from unnorm import DyT, find_sites, swap_
from unnorm.report.theme import CONFIG
from unnorm.surgery.base import load_base, load_tokenizer

OUT = Path(__file__).parent.parent / "docs" / "images" / "site"
POINTS = 300


@torch.no_grad()
def records(base: str, number: int) -> tuple[str, list[dict[str, Any]], list[dict[str, Any]]]:
    """The site's path; points {channel, x, y} of the old norm; lines {channel, x, y} of the new one."""
    model, tokenizer = load_base(str(SHARED / "bases" / base)), load_tokenizer(str(SHARED / "bases" / base))
    rows = json.loads((SHARED / "data" / "gsm8k" / "train_alpaca_format.json").read_text())[3000:3200]
    ids = packed(tokenizer, [PROMPT.format(**row) for row in rows])[:16]
    path = find_sites(model)[number].path
    seen: dict[str, torch.Tensor] = {}
    handle = model.get_submodule(path).register_forward_hook(lambda m, a, out: seen.update(x=a[0], y=out))
    model(ids, use_cache=False)
    handle.remove()
    swap_(model, {path: DyT()}, calibrate_on=ids)
    x, y = (seen[name].flatten(0, 1) for name in ("x", "y"))
    spread = x.std(0).argsort()
    points, lines = [], []
    for name, channel in zip(
        ("narrowest", "median", "widest"), (spread[0], spread[len(spread) // 2], spread[-1]), strict=True
    ):
        label = f"{name} channel ({int(channel)})"
        stride = len(x) // POINTS
        pairs = zip(x[::stride, channel], y[::stride, channel], strict=True)
        points += [{"channel": label, "x": float(a), "y": float(b)} for a, b in pairs]
        at = torch.zeros(80, x.shape[1])
        at[:, channel] = torch.linspace(float(x[:, channel].min()), float(x[:, channel].max()), 80)
        out = model.get_submodule(path)(at)[:, channel]
        lines += [{"channel": label, "x": float(a), "y": float(b)} for a, b in zip(at[:, channel], out, strict=True)]
    return path, points, lines


def chart(path: str, base: str, points: list[dict[str, Any]], lines: list[dict[str, Any]]) -> alt.FacetChart:
    x = alt.X("x:Q", title="input activation", scale=alt.Scale(zero=False))
    dots = alt.Chart().mark_circle(size=10, opacity=0.35, color="#888").encode(x=x, y=alt.Y("y:Q", title="output"))
    curve = alt.Chart().mark_line(size=2.5, color="#0072B2").encode(x=x, y="y:Q")
    content = [{**p, "what": "old"} for p in points] + [{**p, "what": "new"} for p in lines]
    layers = alt.layer(
        dots.transform_filter("datum.what == 'old'"),
        curve.transform_filter("datum.what == 'new'"),
        data=alt.Data(values=content),
    ).properties(width=190, height=170)
    title = alt.Title(
        f"{base}, {path}",
        subtitle="dots: what the pretrained norm gives, a token each; line: the DyT fitted to them, one α for the site",
    )
    facets: alt.FacetChart = layers.facet(
        column=alt.Column("channel:N", title=None, sort=list(dict.fromkeys(p["channel"] for p in points))), title=title
    )
    free: alt.FacetChart = facets.resolve_scale(x="independent", y="independent")
    return free


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="neox-4m")
    parser.add_argument("--site", type=int, default=4, help="its place in execution order")
    arguments = parser.parse_args()
    path, points, lines = records(arguments.base, arguments.site)
    spec = {**chart(path, arguments.base, points, lines).to_dict(), "config": CONFIG}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.with_suffix(".png").write_bytes(vl_convert.vegalite_to_png(spec, scale=2))


if __name__ == "__main__":
    main()
