"""The figures, a file a family. Only cells that are done are drawn, and each caption says which and how sure."""

import re

from unnorm.report.figures import curves, gap, preference, recovery, sites, speed, training
from unnorm.report.figures.figure import Figure, Place
from unnorm.study.view import StudyView

__all__ = ["Figure", "figures"]

_OF_STUDY = (gap.gap_by_strategy, gap.gap_by_size)
_OF_PLACE = (
    training.held_out_loss,
    training.training_loss,
    training.token_accuracy,
    training.grad_norm,
    curves.s_curves,
    sites.fit,
    recovery.recovery,
    sites.alpha,
    sites.alpha_and_sigma,
    sites.saturation,
)
_OF_PAIRS = (preference.by_category, preference.length_and_margin, speed.latency, speed.quality_and_speed)


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
            place = Place(study, model, dataset, cells)
            drawn = [make(place) for make in _OF_PLACE] + [make(study, model, dataset) for make in _OF_PAIRS]
            label = f"{model}, {dataset}" if several else ""
            found += [_of(figure, label) for figure in drawn if figure is not None]
    return found


def _of(figure: Figure, label: str) -> Figure:
    """Told apart from the same figure of another place."""
    if not label:
        return figure
    suffix = re.sub(r"[^A-Za-z0-9._]+", "-", label)
    return figure._replace(name=f"{figure.name}-{suffix}", title=f"{figure.title}: {label}")
