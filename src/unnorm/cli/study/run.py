"""`unnorm study run` and `retry`."""

from pathlib import Path
from typing import Annotated

import typer

from unnorm.cli.output import JsonOption, emit_json, say
from unnorm.cli.study.options import LEDGER, Ledger, StudyFile
from unnorm.cli.study.table import emit_results

Workers = Annotated[
    str, typer.Option(help="Processes that share the cells: a number, or auto for one a GPU. 1: this one does it all.")
]
ReportTo = Annotated[
    list[str] | None, typer.Option(help="A tracker that transformers knows: tensorboard, wandb, mlflow, trackio.")
]


def run(
    study: StudyFile,
    ledger: Ledger = LEDGER,
    workers: Workers = "1",
    report_to: ReportTo = None,
    json: JsonOption = False,
) -> None:
    """Run every cell that is not done, or go on where an interrupted run was."""
    _run(study, ledger, workers, report_to, json, retry_failed=False)


def retry(
    study: StudyFile,
    ledger: Ledger = LEDGER,
    failed: Annotated[bool, typer.Option("--failed", help="The failed ones: what is retried in any case.")] = True,
    workers: Workers = "1",
    report_to: ReportTo = None,
    json: JsonOption = False,
) -> None:
    """Run failed cells again, and whatever else is not done."""
    _run(study, ledger, workers, report_to, json, retry_failed=failed)


def _run(
    study: Path, ledger: Path, workers: str, report_to: list[str] | None, json: bool, *, retry_failed: bool
) -> None:
    from unnorm.foundation.places import check_folder
    from unnorm.study.ledger import stages_of
    from unnorm.study.results import rows_of
    from unnorm.study.runner import run_study
    from unnorm.study.spec import read_spec
    from unnorm.study.trackers import check_trackers
    from unnorm.study.workers import worker_count

    spec, text = read_spec(study)
    check_folder(ledger, "--ledger")
    view = run_study(
        spec,
        text,
        ledger,
        retry_failed=retry_failed,
        workers=worker_count(workers),
        report_to=check_trackers(report_to or []),
        say=say,
    )
    if json:
        emit_json(rows_of(view))
    else:
        emit_results(view)
    failed = [cell for cell in view.cells if cell.state == "failed"]
    begun = [stages_of(cell.folder).values() for cell in view.cells if cell.folder]
    stages = [cell for cell in begun if any(stage.state == "failed" for stage in cell)]
    say(f"results: {view.folder / 'results.csv'}; a page of them: unnorm report {view.folder}")
    if failed or stages:
        counts = [f"{len(failed)} of {len(view.cells)} cells failed"] * bool(failed)
        counts += [f"stages after training of {len(stages)} cells failed"] * bool(stages)
        say(f"{'; '.join(counts)}: study status says why, study retry runs them again")
        raise typer.Exit(1)
