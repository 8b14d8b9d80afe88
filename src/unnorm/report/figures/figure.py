"""What every figure is made of: a name, a caption that says what stands behind it, a spec in the one theme."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt

from unnorm.report.pairs import Group, groups
from unnorm.report.theme import CONFIG, LINE, Look, looks
from unnorm.study.view import CellView, StudyView

HEIGHT = 220  # of one panel
FULL = 720  # what a figure is wide where it is a file; on a page it fills whatever holds it
PAIR = FULL // 2 - 80  # of one of two panels with labels beside them
_MOST_ROWS = 4_000  # points that lines may have together: more cannot be seen, and the page is to stay small


class Figure(NamedTuple):
    """name: of its files; caption: what it shows, the cells behind it, the uncertainty; spec: Vega-Lite, whose
    `usermeta` has the ids of these cells."""

    name: str
    title: str
    caption: str
    spec: dict[str, Any]


class Slice(NamedTuple):
    """What a figure is of: a model, a data set, and the cells of a study there that are done: no others are drawn."""

    study: StudyView
    model: str
    dataset: str
    cells: list[CellView]

    @property
    def panels(self) -> dict[tuple[str, str], list[CellView]]:
        """(arm, strategy) -> its cells, arm by arm."""
        found: dict[tuple[str, str], list[CellView]] = {}
        for arm in self.study.arms:
            for strategy in self.study.strategies:
                cells = [c for c in self.cells if (c.arm, c.strategy) == (arm, strategy)]
                if cells:
                    found[arm, strategy] = cells
        return found


def groups_in(part: Slice) -> list[Group]:
    """What the study compares there."""
    return [g for g in groups(part.study) if (g.model, g.dataset) == (part.model, part.dataset)]


def made(chart: Any, name: str, title: str, caption: str, cells: Sequence[CellView] = ()) -> Figure:
    """The figure of an Altair chart."""
    spec = {**chart.to_dict(), "config": CONFIG}
    if spec.get("width") == "container":  # the axes count too, or the right edge is cut off
        spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    if cells:
        spec.setdefault("usermeta", {})["cells"] = sorted({cell.cell for cell in cells})
    return Figure(name, title, caption, spec)


def drawn_from(study: StudyView, cells: Sequence[CellView]) -> str:
    """Which cells a figure is drawn from, and how many of their models and data sets are not done."""
    number = len({cell.cell for cell in cells})
    seeds = sorted({cell.seed for cell in cells})
    text = (
        f"Drawn from {number} finished cell{'s' * (number != 1)} "
        f"(seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})."
    )
    places = {(cell.model, cell.dataset) for cell in cells}
    left_out = sum(not cell.done and (cell.model, cell.dataset) in places for cell in study.cells)
    if left_out:
        text += f" {left_out} cell{'s' * (left_out != 1)} not done and left out."
    return text


def data(rows: list[dict[str, Any]]) -> alt.Data:
    return alt.Data(values=rows)


def panels(study: StudyView, chart: Any, field: str, values: Sequence[str], *, columns: int = 0) -> Any:
    """One panel a value, `columns` side by side: by default as many as the study has strategies, up to three.

    Panels of one study are of one width, in whichever figure.
    """
    alone = len(values) == 1
    abreast = 1 if alone else {1: 3, 2: 2, 4: 2}.get(len(study.strategies), 3)
    return (
        chart.properties(width=FULL - 80 if alone else FULL // abreast - 40, height=HEIGHT)
        .facet(alt.Facet(f"{field}:N", sort=list(values), title=None), columns=abreast if alone else columns or abreast)
        .properties(usermeta={"abreast": abreast})
    )


def colour_of(study: StudyView, shown: Sequence[str], extra: Mapping[str, Look] | None = None) -> alt.Color:
    """Each arm in its own colour; the legend names those that are `shown`, and `extra` after them."""
    own = _named(study, shown, extra)
    return alt.Color(
        "arm:N", title=None, scale=alt.Scale(domain=list(own), range=[look.colour for look in own.values()])
    )


def shape_of(study: StudyView, shown: Sequence[str], extra: Mapping[str, Look] | None = None) -> alt.Shape:
    """Each arm in its own shape, as `colour_of`."""
    own = _named(study, shown, extra)
    return alt.Shape(
        "arm:N", title=None, scale=alt.Scale(domain=list(own), range=[look.shape for look in own.values()])
    )


def dash_of(study: StudyView, shown: Sequence[str]) -> alt.StrokeDash:
    """Each arm in its own dash, for lines that may lie on each other."""
    own = _named(study, shown, None)
    scale = alt.Scale(domain=list(own), range=[look.dash for look in own.values()])
    return alt.StrokeDash("arm:N", title=None, scale=scale)


def unseen_points(base: Any, study: StudyView, shown: Sequence[str], extra: Mapping[str, Look] | None = None) -> Any:
    """A layer that gives the legend of bars and lines each arm's own shape. base: with x and y."""
    points = base.mark_point(filled=True, opacity=0, size=0)
    return points.encode(color=colour_of(study, shown, extra), shape=shape_of(study, shown, extra))


def _named(study: StudyView, shown: Sequence[str], extra: Mapping[str, Look] | None) -> dict[str, Look]:
    own = looks(study.arms)
    return {**{arm: own[arm] for arm in study.arms if arm in shown}, **(extra or {})}


def tokens_axis() -> alt.X:
    return alt.X("tokens:Q", title="training tokens", axis=TOKENS, scale=alt.Scale(nice=False, domainMin=0))


TOKENS = alt.Axis(format="~s", tickCount=4, labelExpr="datum.value == 0 ? '0' : datum.label")


def percent_axis(span: float = 1.0, *, ticks: int = 5) -> alt.Axis:
    """Signed per cent; with a decimal where the axis spans little."""
    digits = 0 if span > 0.05 else 1 if span > 0.005 else 2
    return alt.Axis(format=f"+.{digits}%", tickCount=ticks, labelExpr="datum.value == 0 ? '0%' : datum.label")


def zero(axis: str, value: float = 0.0) -> Any:
    """A thin line where nothing differs."""
    mark = alt.Chart(data([{"at": value}])).mark_rule(color=LINE, strokeWidth=1)
    return mark.encode(x="at:Q") if axis == "x" else mark.encode(y="at:Q")


def points_a_line(lines: int, part: Slice) -> int:
    """How many points each of so many lines may have; fewer where the study has many places."""
    places = len(part.study.models) * len(part.study.datasets)
    return max(8, min(80, _MOST_ROWS // max(1, places) // max(1, lines)))


def binned(steps: list[dict[str, Any]], key: str, bins: int) -> list[tuple[int, float, int]]:
    """(training tokens at its end, mean of `key`, steps) of at most `bins` runs of as many steps each.

    The last is shorter where they do not divide. Steps without `key` are left out.
    """
    known = [step for step in steps if step.get(key) is not None]
    size = max(1, -(-len(known) // bins))
    runs = [known[at : at + size] for at in range(0, len(known), size)]
    return [(run[-1]["train_tokens"], sum(step[key] for step in run) / len(run), len(run)) for run in runs]


def bars_height(rows: int, each: int = 26) -> int:
    return max(90, each * rows)
