"""Figures of data from files: what `unnorm data stats` and `unnorm data repair --json` wrote."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unnorm.foundation import atomic
from unnorm.foundation.errors import DataError
from unnorm.report.figures import Figure
from unnorm.report.figures.datasets import damage, lengths, packing


def data_figures(paths: Sequence[Path]) -> list[Figure]:
    """The figures of each file, in order. Anything else is a `DataError` that names it."""
    found = []
    for number, path in enumerate(paths, 1):
        if not path.is_file():
            raise DataError(f"there is no file {str(path)!r}. Give stats.json, or what data repair --json printed.")
        content = atomic.read_json(path)
        suffix = f"-{number}" if len(paths) > 1 else ""
        try:
            found += [figure._replace(name=figure.name + suffix) for figure in _figures(content, path)]
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise DataError(f"{path} is not whole ({error!r}). Make it again.") from error
    return found


def _figures(content: Any, path: Path) -> list[Figure]:
    if isinstance(content, dict) and "histogram" in content:
        return statistics_figures(content)
    if isinstance(content, dict) and "damages" in content:
        return [damage(content)] if content["damages"] else []
    raise DataError(f"{path} is neither stats.json of data stats nor what data repair --json prints.")


def statistics_figures(content: dict[str, Any]) -> list[Figure]:
    """Lengths and packing. content: `Statistics.to_dict()`, with `name` and `max_length`."""
    name = str(content["name"])
    return [lengths(content, name, int(content["max_length"])), packing(content, name)]
