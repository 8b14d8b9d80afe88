"""Figures as files: SVG, PNG at twice the size, and PDF."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unnorm.foundation import atomic
from unnorm.foundation.errors import SettingsError
from unnorm.foundation.progress import track
from unnorm.report.figures.figure import FULL, Figure
from unnorm.report.theme import HATCH, HATCH_PATTERN

KINDS = ("svg", "png", "pdf")


def export(figures: Sequence[Figure], folder: Path, *, quiet: bool = False) -> list[str]:
    """Write each figure into `folder`; the names of the files."""
    written = []
    for figure in track(figures, "drawing figures", len(figures), quiet=quiet):
        svg = _svg(figure)
        for kind in KINDS:
            (folder / f"{figure.name}.{kind}").write_bytes(_as(kind, svg))
            written.append(f"{figure.name}.{kind}")
    return written


def check_figure_file(path: Path) -> None:
    """Refuse a file whose ending says none of `KINDS`: a `SettingsError`."""
    if path.suffix.lower().removeprefix(".") not in KINDS:
        raise SettingsError(f"a figure is an .svg, a .png or a .pdf file, not {str(path)!r}.")


def export_file(figure: Figure, path: Path) -> None:
    """Write one figure into `path`, as its ending says; `check_figure_file` holds for it."""
    check_figure_file(path)
    atomic.write_bytes(path, _as(path.suffix.lower().removeprefix("."), _svg(figure)))


def _svg(figure: Figure) -> str:
    import vl_convert

    return _hatched(vl_convert.vegalite_to_svg(_fixed(figure.spec)))


def _as(kind: str, svg: str) -> bytes:
    import vl_convert

    if kind == "svg":
        return svg.encode()
    return bytes(vl_convert.svg_to_png(svg, scale=2) if kind == "png" else vl_convert.svg_to_pdf(svg))


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
