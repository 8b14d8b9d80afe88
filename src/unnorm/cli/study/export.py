"""`unnorm study export`."""

from pathlib import Path
from typing import Annotated

import typer

from unnorm.cli.options import check_choice
from unnorm.cli.output import JsonOption, emit_json
from unnorm.cli.study.options import LEDGER, MARGIN, Ledger, Margin, StudyFile, view_of


def export(
    study: StudyFile,
    format: Annotated[str, typer.Option("--format", help="csv, parquet or latex.")] = "csv",
    out: Annotated[Path | None, typer.Option(help="Folder; default: the study's own.")] = None,
    ledger: Ledger = LEDGER,
    margin: Margin = MARGIN,
    json: JsonOption = False,
) -> None:
    """Write the results of every cell and every comparison of arms as tables."""
    from unnorm.foundation.places import check_folder
    from unnorm.study.tables import FORMATS, export_study

    check_choice("--format", format, FORMATS)
    view = view_of(study, ledger, logs=True, margin=margin)
    folder = out if out is not None else view.folder
    check_folder(folder)
    written = export_study(view, folder, format)
    if json:
        emit_json({"study": view.name, "files": [str(path) for path in written]})
        return
    for path in written:
        print(path)
