"""A study's tables as files for other programs."""

from pathlib import Path

from unnorm.foundation import atomic
from unnorm.foundation.errors import SettingsError
from unnorm.study.after.stages import STAGES
from unnorm.study.compare import Row, compare_arms
from unnorm.study.tables import COLUMNS, as_csv, as_latex, as_parquet, rows_of
from unnorm.study.view import StudyView

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
