"""results.csv and results.parquet: one row a cell, columns as the design has them, in the plan's order."""

import csv
import io
from pathlib import Path
from typing import Any

from unnorm.foundation import atomic
from unnorm.study.view import StudyView

TEXT = ("model", "dataset", "arm", "strategy", "state", "cell")
WHOLE = ("seed", "steps", "train_tokens", "trainable_parameters", "total_parameters")
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
    "cell",
)


def rows_of(study: StudyView) -> list[dict[str, Any]]:
    """The rows. A cell that is not done has its names, its state, and nothing else."""
    rows = []
    for cell in study.cells:
        known = {"seed": cell.seed, "state": cell.state, "cell": cell.cell}
        known |= {"model": cell.model, "dataset": cell.dataset, "arm": cell.arm, "strategy": cell.strategy}
        rows.append({column: known.get(column, (cell.result or {}).get(column)) for column in COLUMNS})
    return rows


def write_results(study: StudyView) -> list[dict[str, Any]]:
    """Write both files into the study's folder, atomically, and return the rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = rows_of(study)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic.write_bytes(study.folder / "results.csv", text.getvalue().encode())
    kinds = {
        column: pa.string() if column in TEXT else pa.int64() if column in WHOLE else pa.float64() for column in COLUMNS
    }
    table = pa.Table.from_pylist(rows, schema=pa.schema(list(kinds.items())))
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    atomic.write_bytes(Path(study.folder / "results.parquet"), buffer.getvalue().to_pybytes())
    return rows
