"""`unnorm study run` and `retry`."""

from pathlib import Path

import typer

from unnorm.cli.output import JsonOption, emit_json, say
from unnorm.cli.study.options import LEDGER, Ledger, StudyFile
from unnorm.cli.study.table import emit_results


def run(study: StudyFile, ledger: Ledger = LEDGER, json: JsonOption = False) -> None:
    """Run every cell that is not done, or go on where an interrupted run was."""
    _run(study, ledger, json, retry_failed=False)


def retry(study: StudyFile, ledger: Ledger = LEDGER, json: JsonOption = False) -> None:
    """Run failed cells again, and whatever else is not done."""
    _run(study, ledger, json, retry_failed=True)


def _run(study: Path, ledger: Path, json: bool, *, retry_failed: bool) -> None:
    from unnorm.study.results import rows_of
    from unnorm.study.runner import run_study
    from unnorm.study.spec import read_spec

    spec, text = read_spec(study)
    view = run_study(spec, text, ledger, retry_failed=retry_failed, say=say)
    if json:
        emit_json(rows_of(view))
    else:
        emit_results(view)
    failed = [cell for cell in view.cells if cell.state == "failed"]
    say(f"results: {view.folder / 'results.csv'}; a page of them: unnorm report {view.folder}")
    if failed:
        say(f"{len(failed)} of {len(view.cells)} cells failed: study status says why, study retry runs them again")
        raise typer.Exit(1)
