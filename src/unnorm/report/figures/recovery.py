"""Recovery: the distance to the original while the new norms are distilled, and on held-out tokens before and after."""

from typing import Any

import altair as alt

from unnorm.report.figures.figure import HEIGHT, Figure, Place, colour_of, data, made, points_a_line
from unnorm.study.view import CellView


def recovery(place: Place) -> Figure | None:
    """A line an arm; the first finished cell of each, since strategies share their start."""
    rows: list[dict[str, Any]] = []
    drawn: dict[str, CellView] = {}
    said = []
    for cell in place.cells:
        found = cell.recovery
        if found is None or cell.arm in drawn:
            continue
        drawn[cell.arm] = cell
        losses = found["losses"]
        size = -(-len(losses) // points_a_line(1, place))
        for at in range(0, len(losses), size):
            part = losses[at : at + size]
            rows.append({"arm": cell.arm, "step": at + len(part), "kl": sum(part) / len(part), "what": "learnt from"})
        held_out = {0: found["kl_before"], found["steps"]: found["kl_after"]}
        rows += [{"arm": cell.arm, "step": step, "kl": kl, "what": "held out"} for step, kl in held_out.items()]
        kept = "" if found["kept"] else ", which was worse, so the start was kept"
        said.append(f"{cell.arm} from {found['kl_before']:.4f} to {found['kl_after']:.4f}{kept}")
    if not rows:
        return None
    arms = [arm for arm in place.study.arms if arm in drawn]
    base = alt.Chart().encode(
        x=alt.X("step:Q", title="step of recovery", axis=alt.Axis(tickMinStep=1, format="d")),
        y=alt.Y(
            "kl:Q", title="KL to the original (nats per token)", scale=alt.Scale(type="log", nice=False, padding=12)
        ),
        color=colour_of(place.study, arms),
        tooltip=["arm:N", "what:N", "step:Q", alt.Tooltip("kl:Q", format=".4f")],
    )
    chart = alt.layer(
        base.mark_line(strokeWidth=1.5).transform_filter("datum.what == 'learnt from'"),
        base.mark_point(size=90, filled=True, opacity=1, shape="diamond").transform_filter("datum.what == 'held out'"),
        data=data(rows),
    ).properties(width="container", height=HEIGHT)
    caption = (
        "Distance of the next-token distribution to the original's while only the new norms' parameters learn. Lines: "
        f"on the tokens learnt from; diamonds: on held-out tokens, before and after ({'; '.join(said)}). One seed: no "
        "interval."
    )
    return made(chart, "recovery", "Recovery", caption, list(drawn.values()))
