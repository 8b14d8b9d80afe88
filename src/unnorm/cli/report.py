"""`unnorm report`."""

from pathlib import Path
from typing import Annotated

import typer

from unnorm.cli.options import check_choice
from unnorm.cli.output import JsonOption, emit_json, say
from unnorm.cli.study.options import MARGIN, Margin

PORT = 8000
EXAMPLE = "Example: [bold]unnorm report studies/alpaca-pythia-14m[/bold]"


def report(
    study: Annotated[Path, typer.Argument(metavar="STUDY_DIR", help="The folder that study run printed: LEDGER/NAME.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the page (default: STUDY_DIR/report), or file for --format.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="Instead of the page, text on stdout: md, tex, csv, json, or card (for a model card)."),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Also draw stats.json of data stats, or what data repair --json printed."),
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Show the page in a browser, as cells finish.")] = False,
    host: Annotated[
        str | None, typer.Option(help="For --serve: whom to listen to; by default this machine alone.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help=f"For --serve (default: {PORT}); 0: any that is free.")
    ] = None,
    margin: Margin = MARGIN,
    json: JsonOption = False,
) -> None:
    """Write one self-contained page about a study, and each figure as SVG, PNG and PDF."""
    from unnorm.cli.options import share
    from unnorm.foundation.errors import SettingsError

    allowed = share(margin, "--margin")
    if serve and (format is not None or out is not None or data or margin != MARGIN or json):
        raise SettingsError("--serve writes nothing: it goes with --host and --port alone.")
    if not serve and (host is not None or port is not None):
        raise SettingsError("--host and --port say where --serve shows the page: add --serve.")
    if format is not None and (data or json):
        raise SettingsError("--format writes text in place of the page: it goes with --out and --margin alone.")
    if serve:
        _serve(study, host, PORT if port is None else port)
    elif format is not None:
        _write_text(study, format, out, allowed)
    else:
        _write_page(study, out, data or [], allowed, json)


def _write_page(study: Path, out: Path | None, data: list[Path], margin: float, json: bool) -> None:
    from unnorm.foundation.places import check_folder
    from unnorm.foundation.terminal import plain
    from unnorm.report.data_files import data_figures
    from unnorm.report.page import write_report
    from unnorm.study.view import read_study

    extra, view = data_figures(data), read_study(study, margin=margin)
    folder = out if out is not None else study / "report"
    check_folder(folder)
    written = write_report(view, folder, extra, quiet=json)
    if json:
        emit_json(written)
        return
    for line in written["summary"]:
        print(plain(line))
    say(f"the page: {written['page']}")


def _write_text(study: Path, format: str, out: Path | None, margin: float) -> None:
    import sys

    from unnorm.foundation import atomic
    from unnorm.foundation.places import check_file
    from unnorm.report.formats import FORMATS
    from unnorm.study.view import read_study

    check_choice("--format", format, FORMATS)
    if out is not None:
        check_file(out)
    text = FORMATS[format](read_study(study, margin=margin))
    if out is None:
        sys.stdout.write(text)
        return
    atomic.write_bytes(out, text.encode())
    say(f"wrote {out}")


def _serve(study: Path, host: str | None, port: int) -> None:
    from unnorm.report.serve import LOCAL, server

    host = LOCAL if host is None else host
    say("making the page; its address follows")
    with server(study, host, port) as serving:
        if host != LOCAL:
            say(f"whoever can reach {host} can read this study")
        say(f"http://{host}:{serving.server_address[1]}/ until Ctrl-C; the page follows the study")
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            say("stopped")
