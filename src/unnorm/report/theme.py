"""One look for all figures: colours that the colour-blind can tell apart, an arm keeps its own, on every page.

Seven colours, each at least 3 : 1 against the ground, and apart under simulated protanopia and deuteranopia, in the
light and in the dark (a test holds all). An arm has a shape and a dash as well, so that nothing rests on colour alone.
"""

from typing import Any, NamedTuple

from unnorm.foundation.hashing import hash_text

COLOURS = ("#3d3d3d", "#0072b2", "#d07800", "#00a098", "#0b0e96", "#6b5a10", "#b0408f")
GREY, RED, LINE, PAPER = "#767676", "#b3261e", "#222222", "#ffffff"
"""What is no arm; what went wrong; intervals and bounds; the ground."""
FAINT, FAINTER, MIDDLE = "#c9c9c9", "#dcdcdc", "#8a8a8a"
_TEXT, _AXIS, _GRID = "#333333", "#999999", "#e8e8e8"
DARK = {
    **dict(zip(COLOURS, ("#e0e0e0", "#3fa6fb", "#f59602", "#2cccb2", "#6a5ffe", "#a07c1c", "#c455a8"), strict=True)),
    GREY: "#9a9a9a", RED: "#ff8a80", LINE: "#e8e8e6", PAPER: "#161616", FAINT: "#5c5c5c", FAINTER: "#3f3f3f",
    MIDDLE: "#a0a0a0", _TEXT: "#cccccc", _AXIS: "#6e6e6e", _GRID: "#2e2e2e",
}  # fmt: skip
"""A figure's colour in the light -> in the dark. A figure has no others."""
SHAPES = {
    "circle": "M1,0A1,1,0,1,1,-1,0A1,1,0,1,1,1,0Z",
    "square": "M-.88-.88H.88V.88H-.88Z",
    "triangle-up": "M0-1L1,.85H-1Z",
    "diamond": "M0-1.15L.9,0L0,1.15L-.9,0Z",
    "cross": "M-.36-1H.36V-.36H1V.36H.36V1H-.36V.36H-1V-.36H-.36Z",
    "triangle-down": "M0,1L-1-.85H1Z",
    "triangle-right": "M1,0L-.85-1V1Z",
}
"""Shape -> its outline, from −1 to 1."""
_SHAPES = tuple(SHAPES)
_DASHES = ([1, 0], [1, 0], [8, 3], [5, 3], [9, 3, 2, 3], [3, 2], [2, 3])
_OWN = {"original": 0, "dyt": 1, "dyt-bare": 2, "dyt-inherit": 3, "dyt-corrected": 4, "dyt-paper": 5, "dyt-plain": 6}
HATCH = "unnorm-hatch"
HATCH_PATTERN = (
    f'<pattern id="{HATCH}" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="3.5" height="7" fill="#ffffff"/></pattern>'
)
"""White stripes, laid over the bars of comparisons that are incomplete or not matched."""


class Look(NamedTuple):
    """How an arm is drawn."""

    colour: str
    shape: str
    dash: list[int] = [1, 0]  # noqa: RUF012


def looks(arms: list[str]) -> dict[str, Look]:
    """arm -> its look. Known arms have one of their own; others what their name picks, if no arm before them has it."""
    taken = {_OWN[arm] for arm in arms if arm in _OWN}
    found = {arm: _OWN[arm] for arm in arms if arm in _OWN}
    for arm in arms:
        if arm not in found:
            order = [(hash_text(arm) + step) % len(COLOURS) for step in range(len(COLOURS))]
            found[arm] = next((place for place in order if place not in taken), order[0])
            taken.add(found[arm])
    return {arm: Look(COLOURS[found[arm]], _SHAPES[found[arm]], _DASHES[found[arm]]) for arm in arms}


def dark_style() -> str:
    """CSS that gives whatever is drawn in `COLOURS` and so on its colour in the dark."""
    return "".join(
        f'svg [fill="{light}"]{{fill:{dark}}}svg [stroke="{light}"]{{stroke:{dark}}}' for light, dark in DARK.items()
    )


_LABELS = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelColor": _TEXT}
CONFIG: dict[str, Any] = {
    "background": PAPER,
    "font": "system-ui, Helvetica, Arial, sans-serif",
    "axis": {**_LABELS, "titleColor": _TEXT, "gridColor": _GRID, "domainColor": _AXIS, "tickColor": _AXIS},
    "axisYQuantitative": {"minExtent": 40},  # panels of one width, whatever their labels
    "legend": {
        **_LABELS,
        "titleColor": _TEXT,
        "orient": "top",
        "labelLimit": 260,
        "symbolOpacity": 1,
        "symbolSize": 90,
    },
    "header": {"labelFontSize": 13, "titleFontSize": 0, "labelColor": LINE, "labelFontWeight": "bold"},
    "title": {"fontSize": 13, "anchor": "start", "color": LINE},
    "text": {"color": LINE},
    "view": {"stroke": FAINTER},
    "line": {"strokeWidth": 2},
}
