"""One look for all figures: colours that the colour-blind can tell apart (Okabe and Ito 2008), an arm keeps its own."""

from typing import Any

_OWN = {"original": "#444444", "dyt": "#0072B2", "dyt-bare": "#E69F00", "dyt-plain": "#CC79A7"}
_OTHERS = ("#009E73", "#D55E00", "#56B4E9", "#8C6D31")


def colours(arms: list[str]) -> list[str]:
    """A colour for each arm."""
    others = [arm for arm in arms if arm not in _OWN]
    return [_OWN[arm] if arm in _OWN else _OTHERS[others.index(arm) % len(_OTHERS)] for arm in arms]


CONFIG: dict[str, Any] = {
    "background": "#ffffff",
    "font": "system-ui, Helvetica, Arial, sans-serif",
    "axis": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "gridColor": "#e5e5e5"},
    "legend": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "orient": "top"},
    "header": {"labelFontSize": 13, "titleFontSize": 0},
    "view": {"stroke": "#dddddd"},
    "line": {"strokeWidth": 2},
}
