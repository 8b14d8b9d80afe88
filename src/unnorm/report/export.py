"""Figures as files: SVG, and PNG at twice the size."""

import copy
from pathlib import Path
from typing import Any

from unnorm.foundation import atomic
from unnorm.report.figures import Figure

_WIDTH = 640  # of figures that fill whatever holds them


def export(figures: list[Figure], folder: Path) -> list[Path]:
    """Write each figure into `folder`; the files."""
    import vl_convert

    written = []
    for figure in figures:
        spec = _fixed(figure.spec)
        svg, png = folder / f"{figure.name}.svg", folder / f"{figure.name}.png"
        atomic.write_bytes(svg, vl_convert.vegalite_to_svg(spec).encode())
        atomic.write_bytes(png, vl_convert.vegalite_to_png(spec, scale=2))
        written += [svg, png]
    return written


def _fixed(spec: dict[str, Any]) -> dict[str, Any]:
    spec = copy.deepcopy(spec)
    if spec.get("width") == "container":
        spec["width"] = _WIDTH
    return spec
