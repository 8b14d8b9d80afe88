"""Figures as files: SVG, and PNG at twice the size."""

import copy
from pathlib import Path
from typing import Any

from unnorm.report.figures import Figure

_WIDTH = 640  # of figures that fill whatever holds them


def export(figures: list[Figure], folder: Path) -> list[str]:
    """Write each figure into `folder`; the names of the files."""
    import vl_convert

    written = []
    for figure in figures:
        spec = _fixed(figure.spec)
        (folder / f"{figure.name}.svg").write_text(vl_convert.vegalite_to_svg(spec), encoding="utf-8")
        (folder / f"{figure.name}.png").write_bytes(vl_convert.vegalite_to_png(spec, scale=2))
        written += [f"{figure.name}.svg", f"{figure.name}.png"]
    return written


def _fixed(spec: dict[str, Any]) -> dict[str, Any]:
    spec = copy.deepcopy(spec)
    if spec.get("width") == "container":
        spec["width"] = _WIDTH
    return spec
