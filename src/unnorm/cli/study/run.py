"""`unnorm study run` and `retry`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from unnorm.cli.options import ReportTo
from unnorm.cli.output import JsonOption, emit_json, say, say_next, typed
from unnorm.cli.study.options import LEDGER, Ledger, StudyFile, given
from unnorm.cli.study.table import emit_results

_LOCAL, _RAY, _SLURM = "On this machine", "On a Ray cluster", "On a Slurm cluster"
EngineName = Annotated[str, typer.Option(help="Where cells are run: local, ray or slurm.")]
Workers = Annotated[
    str,
    typer.Option(
        help="Processes that share the cells: a number, or auto for one a GPU. 1: this one does it all.",
        rich_help_panel=_LOCAL,
    ),
]
Address = Annotated[str, typer.Option(help="The cluster's address; auto finds one here.", rich_help_panel=_RAY)]
GpuShare = Annotated[
    float, typer.Option(help="The part of a GPU that a cell gets: 0.25 runs four on each.", rich_help_panel=_RAY)
]
Partition = Annotated[str | None, typer.Option(help="The partition to submit to.", rich_help_panel=_SLURM)]
Parallelism = Annotated[int, typer.Option(min=1, help="Jobs of an array that run at once.", rich_help_panel=_SLURM)]
Sbatch = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Any other option of sbatch; may be repeated.", rich_help_panel=_SLURM),
]


def run(
    study: StudyFile,
    ledger: Ledger = LEDGER,
    engine: EngineName = "local",
    workers: Workers = "1",
    address: Address = "auto",
    gpu_share: GpuShare = 1.0,
    partition: Partition = None,
    array_parallelism: Parallelism = 256,
    sbatch: Sbatch = None,
    report_to: ReportTo = None,
    json: JsonOption = False,
) -> None:
    """Run every cell that is not done, or go on where an interrupted run was."""
    options = (engine, workers, address, gpu_share, partition, array_parallelism, tuple(sbatch or ()))
    _run(study, ledger, options, report_to, json, retry_failed=False)


def retry(
    study: StudyFile,
    ledger: Ledger = LEDGER,
    failed: Annotated[bool, typer.Option("--failed", help="The failed ones: what is retried in any case.")] = True,
    held_by: Annotated[
        str | None, typer.Option(metavar="HOST", help="Take over what this host holds, which is gone for good.")
    ] = None,
    engine: EngineName = "local",
    workers: Workers = "1",
    address: Address = "auto",
    gpu_share: GpuShare = 1.0,
    partition: Partition = None,
    array_parallelism: Parallelism = 256,
    sbatch: Sbatch = None,
    report_to: ReportTo = None,
    json: JsonOption = False,
) -> None:
    """Run failed cells again, and whatever else is not done."""
    options = (engine, workers, address, gpu_share, partition, array_parallelism, tuple(sbatch or ()))
    _run(study, ledger, options, report_to, json, retry_failed=failed, held_by=held_by)


def _run(
    study: Path,
    ledger: Path,
    options: tuple[Any, ...],
    report_to: list[str] | None,
    json: bool,
    *,
    retry_failed: bool,
    held_by: str | None = None,
) -> None:
    from unnorm.foundation.places import check_folder
    from unnorm.study.ending import ending_of
    from unnorm.study.engines.interface import Options
    from unnorm.study.hooks import check_trackers
    from unnorm.study.run_study import run_study
    from unnorm.study.spec import read_spec
    from unnorm.study.tables import rows_of

    spec, text = read_spec(study)
    check_folder(ledger, "--ledger")
    view = run_study(
        spec,
        text,
        ledger,
        retry_failed=retry_failed,
        held_by=held_by,
        options=Options(*options),
        report_to=check_trackers(report_to or []),
        say=say,
    )
    if json:
        emit_json(rows_of(view))
    else:
        emit_results(view)
    done = any(cell.done for cell in view.cells)
    commands = [f"unnorm study compare {given(study, ledger)}", f"unnorm report {typed(view.folder)}"] if done else []
    say_next(f"The results are in {view.folder / 'results.csv'}.", *commands)
    amiss = ending_of(view).in_words()
    if amiss is not None:
        say(amiss)
        raise typer.Exit(1)
