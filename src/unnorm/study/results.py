"""results.csv and results.parquet: one row a cell, columns as the design has them, in the plan's order."""

from typing import Any

from unnorm.foundation import atomic
from unnorm.study.tables import as_csv, as_parquet
from unnorm.study.view import StudyView

COLUMNS = (
    "model",
    "dataset",
    "arm",
    "strategy",
    "seed",
    "state",
    "steps",
    "train_tokens",
    "trainable_parameters",
    "total_parameters",
    "start_eval_loss",
    "eval_loss",
    "loss_drop",
    "eval_token_accuracy",
    "grad_norm_last",
    "tokens_per_second",
    "wall_seconds",
    "threads",
    "load",
    "cell",
    "start_tokens",
)


def rows_of(study: StudyView) -> list[dict[str, Any]]:
    """The rows. A cell that is not done has its names, its state, and nothing else."""
    rows = []
    for cell in study.cells:
        known = {"seed": cell.seed, "state": cell.state, "cell": cell.cell}
        environment = (cell.result or {}).get("environment", {})
        known |= {name: environment.get(name) for name in ("threads", "load")}
        known |= {"start_tokens": cell.result.get("start_tokens", 0)} if cell.result else {}
        known |= {"model": cell.model, "dataset": cell.dataset, "arm": cell.arm, "strategy": cell.strategy}
        rows.append({column: known.get(column, (cell.result or {}).get(column)) for column in COLUMNS})
    return rows


def write_results(study: StudyView) -> list[dict[str, Any]]:
    """Write both files into the study's folder, atomically, and return the rows."""
    rows = rows_of(study)
    atomic.write_bytes(study.folder / "results.csv", as_csv(rows, COLUMNS))
    atomic.write_bytes(study.folder / "results.parquet", as_parquet(rows, COLUMNS))
    return rows
