"""The figures, a file a family. Only cells that are done are drawn, and each caption says which and how sure."""

import re
from collections.abc import Callable
from itertools import chain, count
from pkgutil import resolve_name

from unnorm.report.figures.figure import Figure, Slice
from unnorm.study.view import StudyView

__all__ = ["Figure", "figures"]


def _makers(*names: str) -> tuple[Callable[..., Figure | None], ...]:
    """What makes figures: `FILE:FUNCTION` in this folder. Each gives None where there is nothing to draw."""
    return tuple(resolve_name(f"unnorm.report.figures.{name}") for name in names)


_OF_STUDY = _makers(
    "gap:gap_by_strategy",
    "gap:gap_by_size",
)
"""Of (study, data set)."""
_OF_SLICE = _makers(
    "training:held_out_loss",
    "training:training_loss",
    "training:token_accuracy",
    "training:grad_norm",
    "curves:s_curves",
    "sites:fit",
    "recovery:recovery",
    "sites:alpha",
    "sites:alpha_and_sigma",
    "sites:saturation",
    "preference:by_category",
    "preference:length_and_margin",
    "speed:latency",
    "speed:quality_and_speed",
)
"""Of a `Slice`."""


def figures(study: StudyView) -> list[Figure]:
    """Every figure that the study has something to draw for: the gap first, then for each model and data set."""
    many = len(study.datasets) > 1
    found = [
        _of(figure, dataset if many else "")
        for dataset in study.datasets
        for make in _OF_STUDY
        if (figure := make(study, dataset)) is not None
    ]
    several = len(study.models) * len(study.datasets) > 1
    for model in study.models:
        for dataset in study.datasets:
            cells = [c for c in study.cells if c.done and (c.model, c.dataset) == (model, dataset)]
            drawn = [make(Slice(study, model, dataset, cells)) for make in _OF_SLICE]
            label = f"{model}, {dataset}" if several else ""
            found += [_of(figure, label) for figure in drawn if figure is not None]
    return _apart(found)


def _of(figure: Figure, label: str) -> Figure:
    """Told apart from the same figure of another place."""
    if not label:
        return figure
    suffix = re.sub(r"[^A-Za-z0-9._]+", "-", label)
    return figure._replace(name=f"{figure.name}-{suffix}", title=f"{figure.title}: {label}")


def _apart(found: list[Figure]) -> list[Figure]:
    """With a number behind each name that an earlier one has too: names of places may differ in no Latin letter. Of
    two files whose names differ in case alone, some systems keep one."""
    taken: set[str] = set()
    apart = []
    for figure in found:
        names = chain([figure.name], (f"{figure.name}-{number}" for number in count(2)))
        apart.append(figure._replace(name=next(name for name in names if name.lower() not in taken)))
        taken.add(apart[-1].name.lower())
    return apart
