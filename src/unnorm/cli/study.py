"""`unnorm study`: plan, run, status, retry, table, schema."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unnorm.cli.output import JsonOption, emit_json, emit_table, say

if TYPE_CHECKING:
    from unnorm.study.view import StudyView

app = typer.Typer(
    help="A matrix of models × datasets × arms × strategies × seeds, from a YAML file.", no_args_is_help=True
)

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")]
Ledger = Annotated[Path, typer.Option(help="Folder of the ledger; studies in one ledger share their cells.")]
_LEDGER = Path("studies")


def _example(verb: str) -> str:
    return f"Example: [bold]unnorm study {verb} recipes/alpaca-pythia-14m/study.yaml[/bold]"


@app.command(epilog=_example("plan"))
def plan(study: StudyFile, ledger: Ledger = _LEDGER, json: JsonOption = False) -> None:
    """Show every cell: what trains, tokens, steps, time and memory from a measured step, and what is done."""
    from unnorm.study.estimate import estimates
    from unnorm.study.ledger import check_format, state_of
    from unnorm.study.runner import plan_cells
    from unnorm.study.spec import read_spec
    from unnorm.study.workbench import Workbench

    spec, _ = read_spec(study)
    check_format(ledger)
    bench = Workbench(quiet=json)
    planned = plan_cells(spec, ledger, bench)
    say(f"{len(planned)} cells; measuring one training step of each kind")
    found = estimates(planned, bench)
    records = [
        {
            "model": cell.settings.model_name,
            "dataset": cell.settings.dataset_name,
            "arm": cell.settings.arm.id,
            "strategy": cell.settings.strategy,
            "seed": cell.settings.seed,
            "cell": cell.cell,
            "state": state_of(cell.folder)[0],
            "trainable_parameters": estimate.trainable.parameters,
            "total_parameters": estimate.trainable.total_parameters,
            "tokens": estimate.tokens,
            "steps": estimate.steps,
            "estimated_seconds": estimate.seconds,
            "memory_bytes": estimate.memory_bytes,
        }
        for cell, estimate in zip(planned, found, strict=True)
    ]
    left = sum(r["estimated_seconds"] for r in records if r["state"] != "done")  # type: ignore[misc]
    if json:
        emit_json({"study": spec.name, "cells": records, "estimated_seconds_left": left})
        return
    rows = [
        [
            _name(r),
            str(r["state"]),
            " + ".join(f"{n:,} {group}" for group, n in r["trainable_parameters"].items()),  # type: ignore[attr-defined]
            f"{r['tokens']:,}",
            f"{r['steps']:,}",
            f"{r['estimated_seconds'] / 60:.1f}",  # type: ignore[operator]
            f"{r['memory_bytes'] / 2**30:.1f}",  # type: ignore[operator]
        ]
        for r in records
    ]
    columns = ["cell", "state", "trains", "tokens", "steps", "minutes", "GiB"]
    emit_table(f"{spec.name}: about {left / 60:.0f} minutes left here", columns, rows, align_right_from=3)


@app.command(epilog=_example("run"))
def run(study: StudyFile, ledger: Ledger = _LEDGER, json: JsonOption = False) -> None:
    """Run every cell that is not done, or go on where an interrupted run was."""
    _run(study, ledger, json, retry_failed=False)


@app.command(epilog=_example("retry"))
def retry(study: StudyFile, ledger: Ledger = _LEDGER, json: JsonOption = False) -> None:
    """Run failed cells again, and whatever else is not done."""
    _run(study, ledger, json, retry_failed=True)


@app.command(epilog=_example("status"))
def status(study: StudyFile, ledger: Ledger = _LEDGER, json: JsonOption = False) -> None:
    """Show the state of every cell, and why failed ones failed."""
    view = _view(study, ledger, logs=True)
    records = [
        {
            "model": cell.model,
            "dataset": cell.dataset,
            "arm": cell.arm,
            "strategy": cell.strategy,
            "seed": cell.seed,
            "state": cell.state,
            "step": cell.steps[-1]["step"] if cell.steps else 0,
            "loss": cell.steps[-1]["loss"] if cell.steps else None,
            "error": cell.error,
        }
        for cell in view.cells
    ]
    if json:
        emit_json({"study": view.name, "cells": records})
        return
    rows = [
        [
            _name(r),
            str(r["state"]),
            str(r["step"] or ""),
            f"{r['loss']:.4f}" if r["loss"] is not None else "",
            str(r["error"] or ""),
        ]
        for r in records
    ]
    done = sum(cell.done for cell in view.cells)
    columns = ["cell", "state", "step", "train loss", "error"]
    emit_table(f"{view.name}: {done} of {len(rows)} cells done", columns, rows, align_right_from=9)


@app.command(epilog=_example("table"))
def table(study: StudyFile, ledger: Ledger = _LEDGER, json: JsonOption = False) -> None:
    """Print the results, as they stand in results.csv."""
    from unnorm.study.results import rows_of

    view = _view(study, ledger, logs=False)
    if json:
        emit_json(rows_of(view))
    else:
        emit_results(view)


@app.command(epilog="Example: [bold]unnorm study schema > study.schema.json[/bold]")
def schema(json: JsonOption = True) -> None:
    """Print the JSON Schema of study files, for editors."""
    from unnorm.study.spec import StudyFile as Spec

    emit_json(Spec.model_json_schema())


def emit_results(view: "StudyView") -> None:
    """Print a study's results as a table, the gap to the reference beside each."""
    done = {(c.model, c.dataset, c.strategy, c.seed, c.arm): c.result for c in view.cells if c.result is not None}
    rows = []
    order = (view.models, view.datasets, view.strategies, view.seeds, view.arms)
    for cell in sorted(
        view.cells,
        key=lambda c: [
            known.index(value)  # type: ignore[attr-defined]
            for known, value in zip(order, (c.model, c.dataset, c.strategy, c.seed, c.arm), strict=True)
        ],
    ):
        result = cell.result
        name = f"{cell.model} / {cell.dataset}" if len(view.models) * len(view.datasets) > 1 else cell.strategy
        names = [name, cell.strategy] if name != cell.strategy else [name]
        against = done.get((cell.model, cell.dataset, cell.strategy, cell.seed, view.reference))
        rows.append([*names, cell.arm, str(cell.seed), *_numbers(cell.state, result, against)])
    first = ["model / data", "strategy"] if len(view.models) * len(view.datasets) > 1 else ["strategy"]
    columns = [*first, "arm", "seed", "start loss", "end loss", f"gap to {view.reference}", "accuracy"]
    emit_table(f"{view.name}: held-out loss in nats per token", columns, rows, align_right_from=len(first) + 2)


def _name(record: dict[str, Any]) -> str:
    return " / ".join(str(record[key]) for key in ("model", "dataset", "arm", "strategy", "seed"))


def _numbers(state: str, result: dict[str, Any] | None, against: dict[str, Any] | None) -> list[str]:
    if result is None:
        return [state, "", "", ""]
    gap = f"{result['eval_loss'] / against['eval_loss'] - 1:+.1%}" if against and against is not result else ""
    return [
        f"{result['start_eval_loss']:.4f}",
        f"{result['eval_loss']:.4f}",
        gap,
        f"{result['eval_token_accuracy']:.1%}",
    ]


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


def _view(study: Path, ledger: Path, *, logs: bool) -> "StudyView":
    from unnorm.foundation.errors import ArtefactError
    from unnorm.study.spec import read_spec
    from unnorm.study.view import STUDY, read_study

    spec, _ = read_spec(study)
    folder = ledger / spec.name
    if not (folder / STUDY).is_file():
        raise ArtefactError(f"{spec.name} has not been run in {ledger} yet: unnorm study run {study}")
    return read_study(folder, logs=logs)
