"""A study's results, a row a cell (results.csv, results.parquet), and rows of plain values as CSV, Parquet or LaTeX."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unnorm.foundation import atomic
from unnorm.foundation.errors import SettingsError
from unnorm.foundation.parquet import parquet_bytes
from unnorm.foundation.terminal import plain
from unnorm.study.after.stages import STAGES
from unnorm.study.compare import Row, compare_arms
from unnorm.study.view import StudyView

Table = Sequence[Mapping[str, Any]]

_TEXT = {"model", "dataset", "arm", "against", "strategy", "state", "cell", "metric", "task"}
_WHOLE = {
    "seed",
    "steps",
    "train_tokens",
    "trainable_parameters",
    "total_parameters",
    "conversations",
    "questions",
    "threads",
    "start_tokens",
}
_FLAGS = {"matched", "complete", "equivalent", "is_share"}
_LISTS = {"seeds", "paired"}


def as_csv(rows: Table, columns: Sequence[str]) -> bytes:
    """CSV with a header; numbers in full, lists with spaces between."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: _joined(row[column]) for column in columns} for row in rows)
    return text.getvalue().encode()


def as_parquet(rows: Table, columns: Sequence[str]) -> bytes:
    """Parquet. A column's type goes by its name, so that tables of few rows have the same types as those of many."""
    import pyarrow as pa

    def kind(column: str) -> Any:
        if column in _TEXT:
            return pa.string()
        if column in _LISTS:
            return pa.list_(pa.int64())
        return pa.int64() if column in _WHOLE else pa.bool_() if column in _FLAGS else pa.float64()

    table = pa.Table.from_pylist(list(rows), schema=pa.schema([(column, kind(column)) for column in columns]))
    return parquet_bytes(table)


def as_latex(rows: Table, columns: Sequence[str]) -> bytes:
    """A tabular environment (booktabs), escaped; numbers with four digits after the point, hashes left out."""
    shown = [column for column in columns if column != "cell"]
    lines = tabular(shown, ([_short(row[column]) for column in shown] for row in rows), len(shown))
    return "\n".join([*lines, ""]).encode()


def _joined(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(_joined(value))


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


_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "−": "$-$", "<": "$<$", ">": "$>$",
    "[": "{[}", "*": "{*}",  # at the start of a row they would belong to the line break before it
}  # fmt: skip


def latex(text: str) -> str:
    """One line of text, escaped; control characters are gone."""
    return "".join(_SPECIAL.get(character, character) for character in " ".join(plain(text).split()))


def tabular(head: Sequence[str], rows: Iterable[Sequence[str]], names: int) -> list[str]:
    """The lines of a tabular environment (booktabs), escaped; from column `names` on to the right, as numbers are."""
    first, *body = (" & ".join(map(latex, row)) + r" \\" for row in [head, *rows])
    begin = rf"\begin{{tabular}}{{{'l' * names}{'r' * (len(head) - names)}}}"
    return [begin, r"\toprule", first, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]


FORMATS = {"csv": ("csv", as_csv), "parquet": ("parquet", as_parquet), "latex": ("tex", as_latex)}


def export_study(study: StudyView, folder: Path, format: str) -> list[Path]:
    """Write `results` (one row a cell) and `comparisons` (one row a metric of two arms), and a table of each stage that
    has one: `tasks` (one row a task and arm). Returns the files' paths.

    An unknown format is a `SettingsError`.
    """
    if format not in FORMATS:
        raise SettingsError(f"there is no format {format!r}. Known formats: {', '.join(FORMATS)}.")
    suffix, make = FORMATS[format]
    results, comparisons = folder / f"results.{suffix}", folder / f"comparisons.{suffix}"
    atomic.write_bytes(results, make(rows_of(study), COLUMNS))
    atomic.write_bytes(comparisons, make([row._asdict() for row in compare_arms(study)], Row._fields))
    written = [results, comparisons]
    for stage in STAGES:
        if rows := stage.rows(study):
            written.append(folder / f"{stage.name}.{suffix}")
            atomic.write_bytes(written[-1], make([row._asdict() for row in rows], rows[0]._fields))
    return written
