"""`unnorm study table`, and the table that a run ends with."""

from collections import Counter
from typing import TYPE_CHECKING

from unnorm.cli.output import JsonOption, emit_json, emit_table, say
from unnorm.cli.study.options import LEDGER, Ledger, StudyFile, view_of

if TYPE_CHECKING:
    from unnorm.study.view import CellView, StudyView


def table(study: StudyFile, ledger: Ledger = LEDGER, json: JsonOption = False) -> None:
    """Print the results, as they stand in results.csv."""
    from unnorm.study.tables import rows_of

    view = view_of(study, ledger, logs=False)
    if json:
        emit_json(rows_of(view))
    else:
        emit_results(view)


def emit_results(view: "StudyView") -> None:
    """Print a study's results as a table, the gap to the reference beside each; below it what was scored on tasks."""
    rows = []
    order = (view.models, view.datasets, view.strategies, view.seeds, view.arms)
    for cell in sorted(
        view.cells,
        key=lambda c: [
            known.index(value)  # type: ignore[attr-defined]
            for known, value in zip(order, (c.model, c.dataset, c.strategy, c.seed, c.arm), strict=True)
        ],
    ):
        name = f"{cell.model} / {cell.dataset}" if len(view.models) * len(view.datasets) > 1 else cell.strategy
        names = [name, cell.strategy] if name != cell.strategy else [name]
        rows.append([*names, cell.arm, str(cell.seed), *_numbers(cell, view.beside(cell))])
    first = ["model / data", "strategy"] if len(view.models) * len(view.datasets) > 1 else ["strategy"]
    columns = [*first, "arm", "seed", "start loss", "end loss", f"gap to {view.reference}", "accuracy"]
    emit_table(f"{view.name}: held-out loss in nats per token", columns, rows, align_right_from=len(first) + 2)
    missing = Counter(cell.state for cell in view.cells if cell.result is None)
    if missing:
        states = ", ".join(f"{count} {state}" for state, count in missing.items())
        say(f"{missing.total()} of {len(view.cells)} cells have no result: {states}")
    _emit_tasks(view)


def _emit_tasks(view: "StudyView") -> None:
    from unnorm.report.tasks import task_caption, task_table

    lines = task_table(view)
    if lines:
        head, *rows = lines
        emit_table(f"{view.name}: tasks", head, rows, align_right_from=head.index("metric") + 1)
        say(task_caption(view))


def _numbers(cell: "CellView", against: "CellView | None") -> list[str]:
    result = cell.result
    if result is None:
        return [cell.state, "", "", ""]
    gap = f"{result['eval_loss'] / against.result['eval_loss'] - 1:+.1%}" if against and against.result else ""
    return [
        f"{result['start_eval_loss']:.4f}",
        f"{result['eval_loss']:.4f}",
        gap,
        f"{result['eval_token_accuracy']:.1%}",
    ]
