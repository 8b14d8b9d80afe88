"""`unnorm study compare`."""

from typing import Annotated

import typer

from unnorm.cli.output import JsonOption, emit_json, emit_table, say
from unnorm.cli.study.options import LEDGER, MARGIN, Ledger, Margin, StudyFile, view_of


def compare(
    study: StudyFile,
    arm: Annotated[str | None, typer.Argument(help="The arm; default: each of them.")] = None,
    against: Annotated[str | None, typer.Argument(help="Another arm; default: original, or the first one.")] = None,
    ledger: Ledger = LEDGER,
    margin: Margin = MARGIN,
    json: JsonOption = False,
) -> None:
    """Compare arms side by side: loss, accuracy, win rate, speed and tasks, with 95 % intervals and verdicts.

    Paired over seeds, and over conversations or questions. A verdict says whether the arm is behind, ahead, equivalent
    within the margin, or undecided, each by itself; beside it stands the smallest difference that the study could have
    shown. p is corrected by Holm's method over all comparisons of a metric, tasks left out.
    """
    from unnorm.report.side_by_side import MEASURES, side_by_side
    from unnorm.report.verdicts import margin_in_words, task_verdict, verdict
    from unnorm.study.compare import UNITS, compare_arms
    from unnorm.study.task_differences import task_rows

    view = view_of(study, ledger, logs=True, margin=margin)
    rows = compare_arms(view, arm, against)
    against = against or view.reference
    wanted = {row.place for row in rows}
    tasks = [t for t in task_rows(view, against) if (t.model, t.dataset, t.strategy, t.arm) in wanted]
    if json:
        emit_json(
            {
                "study": view.name,
                "units": UNITS,
                "comparisons": [{**row.to_dict(), "verdict": verdict(row)} for row in rows],
                "tasks": [{**task.to_dict(), "verdict": task_verdict(task)} for task in tasks],
            }
        )
        return
    if not rows:
        say("no two arms are done with the same seed yet: there is nothing to compare")
        return
    head, *lines = side_by_side(view, rows, task_rows(view, against), against)
    title = (
        f"{view.name}: against {against}, 95 % intervals; * p < 0.05 after Holm's correction; "
        f"margin of the loss: ± {margin_in_words(view.margin)}"
    )
    emit_table(title, head, lines, align_right_from=len(head))
    for metric, unit in UNITS.items():
        if any(row.metric == metric for row in rows):
            say(f"{MEASURES[metric]}: {unit}")
    if tasks:
        say("tasks: difference of the scores, paired by question; not corrected for the number of tasks")
