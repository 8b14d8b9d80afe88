"""Figures as files: SVG, PNG at twice the size, and PDF."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unnorm.foundation.progress import track
from unnorm.report.figures.figure import FULL, Figure
from unnorm.report.theme import HATCH, HATCH_PATTERN

KINDS = ("svg", "png", "pdf")


def export(figures: Sequence[Figure], folder: Path, *, quiet: bool = False) -> list[str]:
    """Write each figure into `folder`; the names of the files."""
    import vl_convert

    written = []
    for figure in track(figures, "drawing figures", len(figures), quiet=quiet):
        svg = _hatched(vl_convert.vegalite_to_svg(_fixed(figure.spec)))
        contents = (svg.encode(), vl_convert.svg_to_png(svg, scale=2), vl_convert.svg_to_pdf(svg))
        for kind, content in zip(KINDS, contents, strict=True):
            (folder / f"{figure.name}.{kind}").write_bytes(content)
            written.append(f"{figure.name}.{kind}")
    return written


def _fixed(spec: dict[str, Any]) -> dict[str, Any]:
    spec = copy.deepcopy(spec)
    if spec.get("width") == "container":
        spec["width"] = FULL
    return spec


def _hatched(svg: str) -> str:
    """With the pattern that its marks name, which Vega has no words for."""
    if f"url(#{HATCH})" not in svg:
        return svg
    end = svg.index(">", svg.index("<svg")) + 1
    return f"{svg[:end]}<defs>{HATCH_PATTERN}</defs>{svg[end:]}"
