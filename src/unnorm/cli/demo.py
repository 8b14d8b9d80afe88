"""`unnorm demo`: the whole story, offline."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unnorm.cli.output import JsonOption, emit_json, emit_table, say
from unnorm.cli.study.table import emit_results

if TYPE_CHECKING:
    from unnorm.study.view import StudyView

EXAMPLE = "Example: [bold]unnorm demo[/bold]"
_SHOWN_STRATEGY = "frozen"


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the study. An interrupted demo in it is resumed.")] = Path(
        "unnorm-demo"
    ),
    json: JsonOption = False,
) -> None:
    """The whole story, offline: a tiny model made on the spot, its norms swapped, fine-tuned, compared, reported."""
    from unnorm.demo.story import tell
    from unnorm.foundation.places import check_folder
    from unnorm.study.ending import ending_of
    from unnorm.study.tables import rows_of

    check_folder(out)
    study, page = tell(out, say)
    if json:
        emit_json({"page": str(page), "results": rows_of(study)})
    else:
        emit_results(study)
        _show_completions(study)
        say("a tiny stand-in, not a claim about real models; the second time all this is read from the folder")
        say(f"the page: {page}")
    amiss = ending_of(study).in_words()
    if amiss is not None:
        say(amiss)
        raise typer.Exit(1)


def _show_completions(study: "StudyView") -> None:
    from unnorm.foundation.terminal import shorten

    cells = [cell for cell in study.cells if cell.strategy == _SHOWN_STRATEGY and cell.completions]
    if not cells:
        return
    rows = []
    for number, item in enumerate(cells[0].completions):
        answers = [shorten(cell.completions[number]["text"], 120) for cell in cells]
        rows.append([shorten(item["prompt"], 160), *answers])
    columns = ["prompt", *(cell.arm for cell in cells)]
    emit_table(f"completions, greedy ({_SHOWN_STRATEGY}; the page has all)", columns, rows, align_right_from=99)
