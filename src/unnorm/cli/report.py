"""`unnorm report`."""

from pathlib import Path
from typing import Annotated

import typer

from unnorm.cli.output import JsonOption, emit_json, say

EXAMPLE = "Example: [bold]unnorm report studies/alpaca-pythia-14m[/bold]"


def report(
    study: Annotated[Path, typer.Argument(metavar="STUDY_DIR", help="The folder that study run printed: LEDGER/NAME.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the page; default: STUDY_DIR/report.")] = None,
    json: JsonOption = False,
) -> None:
    """Write one self-contained page about a study, and each figure as SVG and PNG."""
    from unnorm.report.page import write_report
    from unnorm.study.view import read_study

    written = write_report(read_study(study), out or study / "report")
    if json:
        emit_json(written)
        return
    for line in written["summary"]:
        print(line)
    say(f"the page: {written['page']}")
