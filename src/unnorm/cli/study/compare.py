"""`unnorm study compare`."""

from typing import TYPE_CHECKING, Annotated

import typer

from unnorm.cli.output import JsonOption, emit_json, emit_table, say
from unnorm.cli.study.options import LEDGER, MARGIN, Ledger, Margin, StudyFile, view_of

if TYPE_CHECKING:
    from unnorm.study.compare import Row


def compare(
    study: StudyFile,
    arm: Annotated[str | None, typer.Argument(help="The arm; default: each of them.")] = None,
    against: Annotated[str | None, typer.Argument(help="Another arm; default: original, or the first one.")] = None,
    ledger: Ledger = LEDGER,
    margin: Margin = MARGIN,
    json: JsonOption = False,
) -> None:
    """Compare arms side by side: loss, accuracy, preference and latency, with 95 % intervals.

    Paired over seeds and conversations; p is corrected by Holm's method over all comparisons of a metric. A second
    table says of losses and accuracies what is shown: a difference, that it is within the margin, both, or neither; and
    the smallest difference that the study could have shown.
    """
    from unnorm.report.verdicts import verdict
    from unnorm.study.compare import UNITS, compare_arms

    view = view_of(study, ledger, logs=True, margin=margin)
    rows = compare_arms(view, arm, against)
    if json:
        found = [{**row.to_dict(), "verdict": verdict(row)} for row in rows]
        emit_json({"study": view.name, "units": UNITS, "comparisons": found})
        return
    if not rows:
        say("no two arms are done with the same seed yet: there is nothing to compare")
        return
    columns = ["model / data / strategy", "arm", "against", "loss", "accuracy", "preference", "latency", "notes"]
    places = list(dict.fromkeys(row[:5] for row in rows))
    at = {(row[:5], row.metric): row for row in rows}
    table = []
    for place in places:
        here = [at.get((place, metric)) for metric in UNITS]
        table.append([" / ".join(place[:3]), *place[3:], *map(_cell, here), _notes([r for r in here if r])])
    emit_table(f"{view.name}: 95 % intervals; * p < 0.05 after Holm's correction", columns, table, align_right_from=8)
    _emit_verdicts(rows, view.margin)
    for metric, unit in UNITS.items():
        if any(row.metric == metric for row in rows):
            say(f"{metric}: {unit}")


def _emit_verdicts(rows: "list[Row]", margin: float) -> None:
    """One line a comparison that has an interval; of each by itself, not corrected for their number."""
    from unnorm.report.verdicts import could_show, margin_in_words, verdict

    columns = ["model / data / strategy", "arm", "against", "metric", "could show", "verdict"]
    table = [
        [" / ".join(row[:3]), row.arm, row.against, row.metric, could_show(row) or "–", words]
        for row in rows
        if (words := verdict(row)) is not None
    ]
    if table:
        title = f"what each shows by itself; margin of the loss: ± {margin_in_words(margin)}"
        emit_table(title, columns, table, align_right_from=6)


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
