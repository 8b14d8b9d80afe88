"""The search of the learning rate: the same rates for every arm, tried on a slice that no result is measured on.

Each try is a cell of the ledger like any other, but it trains and is judged on the training part alone, which is split
once more for it; so a rate that is chosen has not seen the held-out part that the results come from.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from unnorm.study.cell import CellSettings
from unnorm.study.sections import Tune
from unnorm.study.slices import Slot
from unnorm.study.spec import StudyFile

_NEVER = 2**40  # tokens: only the end of a try counts


class Try(NamedTuple):
    """A rate, and the held-out loss that training with it ended at; inf where it diverged."""

    learning_rate: float
    loss: float


class Choice(NamedTuple):
    """The rate of the lowest loss (of equals the lower rate), and every try, lowest rate first."""

    slot: Slot
    learning_rate: float
    tries: tuple[Try, ...]

    @property
    def at_edge(self) -> bool:
        """Whether the best rate is the lowest or the highest that was tried: a better one may lie beyond."""
        return self.learning_rate in (self.tries[0].learning_rate, self.tries[-1].learning_rate)


def slot_of(settings: CellSettings) -> Slot:
    return Slot(settings.model_name, settings.dataset_name, settings.arm.id, settings.strategy)


def tries_of(spec: StudyFile, cells: Iterable[CellSettings]) -> list[CellSettings]:
    """The search's cells: for each slot of `cells` every rate of its strategy, with one seed. Empty without `tune`."""
    tune = spec.tune
    if tune is None:
        return []
    seed = tune.seed if tune.seed is not None else spec.seeds[0]
    first = {slot_of(settings): settings for settings in reversed(list(cells))}
    return [
        _try(settings, tune, rate, seed)
        for settings in reversed(first.values())
        for rate in tune.rates_of(settings.strategy)
    ]


def choose(slot: Slot, losses: Mapping[float, float | None]) -> Choice | None:
    """The rate for `slot` from rate -> loss (None: training diverged). None where it always did."""
    tries = tuple(Try(rate, math.inf if loss is None else loss) for rate, loss in sorted(losses.items()))
    best = min(tries, key=lambda one: one.loss)
    return Choice(slot, best.learning_rate, tries) if math.isfinite(best.loss) else None


def with_rate(settings: CellSettings, rate: float) -> CellSettings:
    return settings.model_copy(update={"training": settings.training.model_copy(update={"learning_rate": rate})})


def _try(settings: CellSettings, tune: Tune, rate: float, seed: int) -> CellSettings:
    training = {"learning_rate": rate, **({"tokens": tune.tokens} if tune.tokens else {})}
    return settings.model_copy(
        update={
            "training": settings.training.model_copy(update=training),
            "epochs": None if tune.tokens else settings.epochs,
            "data": settings.data.model_copy(update={"for_search": True}),
            "evaluate_every_tokens": _NEVER,
            "seed": seed,
        }
    )
