"""What models and data sets are called where people read: as they were named, without hashes and without folders."""

import re
from dataclasses import replace
from typing import Any, TypeVar

from unnorm.study.slices import without_hash
from unnorm.study.view import StudyView

_FOLDERS = re.compile(r"(?<![\w.$}~:/\\-])(?:~/|/|[A-Za-z]:\\)(?:[^\s\"',\[\]{}()/\\]+[/\\])+(?=[^\s\"',\[\]{}()/\\])")
_QUOTED = re.compile(r"([\"'])(?:~/|/|[A-Za-z]:\\)[^\"'\n]*[/\\](?=[^\"'/\\\n]+\1)")
T = TypeVar("T")


def display_name(name: str) -> str:
    """Of a model or a data set: the last part of its place, without the hash that it may end in."""
    last = name.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    return without_hash(last)


def named(study: StudyView) -> StudyView:
    """The study with its models and data sets by the names that people read, wherever it has them.

    Names that would be the same for two of them stay as the ledger has them.
    """
    models, datasets = _unlike(study.models), _unlike(study.datasets)
    parts = {name: shown for name, shown in (models | datasets).items() if name != shown}

    def placed(thing: T) -> T:
        """A cell or a pair."""
        given: Any = thing
        found: T = replace(given, model=models[given.model], dataset=datasets[given.dataset])
        return found

    def renamed(record: dict[str, Any]) -> dict[str, Any]:
        return {**record, "model": models[record["model"]], "dataset": datasets[record["dataset"]]}

    def recovered(recovery: dict[str, Any] | None) -> dict[str, Any] | None:
        if recovery is None:
            return None
        return {**recovery, "data": [{**part, "name": display_name(part["name"])} for part in recovery["data"]]}

    def told(comparison: dict[str, Any]) -> dict[str, Any]:
        noted = list(comparison.get("noted", ()))
        for name, shown in parts.items():
            noted = [line.replace(name, shown) for line in noted]
        return {**renamed(comparison), "noted": noted}

    return replace(
        study,
        models=list(models.values()),
        datasets=list(datasets.values()),
        cells=[replace(placed(cell), recovery=recovered(cell.recovery)) for cell in study.cells],
        pairs=[placed(pair) for pair in study.pairs],
        choices=[renamed(each) for each in study.choices],
        audit={**study.audit, "comparisons": [told(each) for each in study.audit["comparisons"]]},
    )


def without_folders(text: str) -> str:
    """A study file with the places of the machine that it ran on taken out: `/home/me/models/tiny` is `…/tiny`."""
    return _FOLDERS.sub("…/", _QUOTED.sub(r"\1…/", text))


def _unlike(names: list[str]) -> dict[str, str]:
    shown = {name: display_name(name) for name in names}
    said = list(shown.values())
    return {name: short if said.count(short) == 1 else name for name, short in shown.items()}
