"""What the verbs of `unnorm study` share: arguments, a cell's name, the study as it stands."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unnorm.cli.output import typed

if TYPE_CHECKING:
    from unnorm.study.view import StudyView

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")]
Ledger = Annotated[Path, typer.Option(help="Folder of the ledger; studies in one ledger share their cells.")]
LEDGER = Path("studies")


def given(study: Path, ledger: Path) -> str:
    """A study and its ledger as the verbs take them."""
    return typed(study) if ledger == LEDGER else f"{typed(study)} --ledger {typed(ledger)}"


def cell_name(record: dict[str, Any]) -> str:
    return " / ".join(str(record[key]) for key in ("model", "dataset", "arm", "strategy", "seed"))


Margin = Annotated[
    str, typer.Option(help="Gap in loss that counts as none, either way, for the equivalence test: 1% or 0.01.")
]
MARGIN = "1%"


def view_of(study: Path, ledger: Path, *, logs: bool, margin: str = MARGIN) -> "StudyView":
    from unnorm.cli.options import share
    from unnorm.foundation.errors import ArtefactError
    from unnorm.study.spec import read_spec
    from unnorm.study.view import STUDY, read_study

    allowed = share(margin, "--margin")
    spec, _ = read_spec(study)
    folder = ledger / spec.name
    if not (folder / STUDY).is_file():
        raise ArtefactError(f"{spec.name} has not been run in {ledger} yet: unnorm study run {given(study, ledger)}")
    return read_study(folder, logs=logs, margin=allowed)
