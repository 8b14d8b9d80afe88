"""One look for all figures: colours that the colour-blind can tell apart, an arm keeps its own, on every page.

Seven colours, each at least 3 : 1 against the white that figures stand on, and apart under simulated protanopia and
deuteranopia (a test holds both). An arm has a shape as well, so that nothing rests on colour alone.
"""

from typing import Any, NamedTuple

from unnorm.foundation.hashing import hash_text

COLOURS = ("#3d3d3d", "#0072b2", "#d07800", "#00a098", "#0b0e96", "#6b5a10", "#b0408f")
GREY, RED, LINE = "#767676", "#b3261e", "#222222"
"""What is no arm; what went wrong; intervals and bounds."""
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
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


def looks(arms: list[str]) -> dict[str, Look]:
    """arm -> its look. Known arms have one of their own; others what their name picks, if no arm before them has it."""
    taken = {_OWN[arm] for arm in arms if arm in _OWN}
    found = {arm: _OWN[arm] for arm in arms if arm in _OWN}
    for arm in arms:
        if arm not in found:
            order = [(hash_text(arm) + step) % len(COLOURS) for step in range(len(COLOURS))]
            found[arm] = next((place for place in order if place not in taken), order[0])
            taken.add(found[arm])
    return {arm: Look(COLOURS[found[arm]], _SHAPES[found[arm]]) for arm in arms}


CONFIG: dict[str, Any] = {
    "background": "#ffffff",
    "font": "system-ui, Helvetica, Arial, sans-serif",
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "gridColor": "#e8e8e8",
        "domainColor": "#999999",
        "tickColor": "#999999",
        "labelColor": "#333333",
        "titleColor": "#333333",
    },
    "legend": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "orient": "top",
        "labelLimit": 260,
        "labelColor": "#333333",
        "titleColor": "#333333",
    },
    "header": {"labelFontSize": 13, "titleFontSize": 0, "labelColor": "#222222", "labelFontWeight": "bold"},
    "title": {"fontSize": 13, "anchor": "start"},
    "view": {"stroke": "#dddddd"},
    "line": {"strokeWidth": 2},
}
