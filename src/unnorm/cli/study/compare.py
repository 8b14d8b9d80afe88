"""`unnorm study compare`."""

from typing import TYPE_CHECKING, Annotated

import typer

from unnorm.cli.output import JsonOption, emit_json, emit_table, say
from unnorm.cli.study.options import LEDGER, Ledger, StudyFile, view_of

if TYPE_CHECKING:
    from unnorm.study.compare import Row


def compare(
    study: StudyFile,
    arm: Annotated[str | None, typer.Argument(help="The arm; default: each of them.")] = None,
    against: Annotated[str | None, typer.Argument(help="Another arm; default: original, or the first one.")] = None,
    ledger: Ledger = LEDGER,
    json: JsonOption = False,
) -> None:
    """Compare arms side by side: loss, accuracy, preference and latency, with 95 % intervals.

    Paired over seeds and conversations; p is corrected by Holm's method over all comparisons of a metric.
    """
    from unnorm.study.compare import UNITS, compare_arms

    view = view_of(study, ledger, logs=True)
    rows = compare_arms(view, arm, against)
    if json:
        emit_json({"study": view.name, "units": UNITS, "comparisons": [row.to_dict() for row in rows]})
        return
    if not rows:
        say("no two arms are done with the same seed yet: there is nothing to compare")
        return
    columns = ["model / data / strategy", "arm", "against", "loss", "accuracy", "preference", "latency", "notes"]
    places = list(dict.fromkeys(row[:5] for row in rows))
    at = {(row[:5], row.metric): row for row in rows}
    table = []
    for place in places:
        found = [at.get((place, metric)) for metric in UNITS]
        table.append([" / ".join(place[:3]), *place[3:], *map(_cell, found), _notes([r for r in found if r])])
    emit_table(f"{view.name}: 95 % intervals; * p < 0.05 after Holm's correction", columns, table, align_right_from=8)
    for metric, unit in UNITS.items():
        if any(row.metric == metric for row in rows):
            say(f"{metric}: {unit}")


def _cell(row: "Row | None") -> str:
    if row is None:
        return ""
    sign = "" if row.metric == "preference" else "+"
    digits = 1 if row.metric == "preference" else 2
    value = f"{row.value:{sign}.{digits}%}"
    if row.low is not None and row.high is not None:
        value += f" ({row.low:{sign}.{digits}%} to {row.high:{sign}.{digits}%})"
    return value + (" *" if row.p_holm is not None and row.p_holm < 0.05 else "")


def _notes(rows: "list[Row]") -> str:
    seeds = rows[0].seeds
    notes = [f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"]
    notes += dict.fromkeys(row.doubt.upper() for row in rows if row.doubt)
    return ", ".join(notes)
