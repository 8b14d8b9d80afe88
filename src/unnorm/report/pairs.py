"""What an arm differs by from the reference, over seeds: losses, judged answers, latencies. All figures, tables and
sentences have it from here."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from unnorm.evaluation.preference.summary import WinRate
from unnorm.study.audit import doubt_of, matched_at
from unnorm.study.compare import Row, compare_arms
from unnorm.study.slices import Place
from unnorm.study.view import CellView, PairView, StudyView
from unnorm.study.win_rates import win_rates


@dataclass(frozen=True)
class Group:
    """One arm against another in one place, a pair a seed."""

    model: str
    dataset: str
    strategy: str
    arm: str
    against: str
    pairs: list[PairView]
    cells: list[CellView]
    matched: bool | None
    seeds: int
    """How many seeds the study has for this place."""

    @property
    def title(self) -> str:
        return f"{self.arm}, {self.strategy}"

    @property
    def judged(self) -> list[PairView]:
        return [pair for pair in self.pairs if pair.judge]

    @property
    def timed(self) -> list[PairView]:
        return [pair for pair in self.pairs if pair.latency]

    @property
    def scored(self) -> list[dict[str, Any]]:
        """Verdicts with a score, over all seeds."""
        return [verdict for pair in self.judged for verdict in pair.verdicts if verdict["score"] is not None]

    @property
    def doubt(self) -> str:
        """Why the judgements are no result to conclude from; empty where they are."""
        return doubt_of(self.matched, len(self.judged) >= self.seeds)

    @property
    def doubt_of_times(self) -> str:
        """As `doubt`, of the times."""
        return doubt_of(self.matched, len(self.timed) >= self.seeds)


def groups(study: StudyView) -> list[Group]:
    """In the study's order."""
    found: dict[tuple[str, ...], list[PairView]] = {}
    for pair in study.pairs:
        found.setdefault((pair.model, pair.dataset, pair.strategy, pair.arm, pair.against), []).append(pair)

    def place(key: tuple[str, ...]) -> tuple[int, ...]:
        return (
            study.models.index(key[0]), study.datasets.index(key[1]), study.strategies.index(key[2]),
            study.arms.index(key[3]),
        )  # fmt: skip

    return [_group(study, key, found[key]) for key in sorted(found, key=place)]


def tallies(group: Group) -> list[tuple[str, WinRate]]:
    """`all` first, then each category in the judge's order: the study's own win rates."""
    return [("all" if name is None else name, found) for name, found in win_rates(group.judged).items()]


def _group(study: StudyView, key: tuple[str, ...], pairs: list[PairView]) -> Group:
    model, dataset, strategy, arm, against = key
    seeds = {pair.seed for pair in pairs}
    here = [c for c in study.cells if c.place.stratum == key[:3] and c.arm in (arm, against)]
    return Group(
        model, dataset, strategy, arm, against,
        pairs=sorted(pairs, key=lambda pair: pair.seed),
        cells=[c for c in here if c.seed in seeds],
        matched=matched_at(study.audit, {pair.place for pair in pairs}),
        seeds=len({c.seed for c in here if c.arm == arm}),
    )  # fmt: skip


@lru_cache(maxsize=2)
def compared(study: StudyView) -> tuple[Row, ...]:
    """`compare_arms` with the study's reference, resampled once for all that is drawn of one study."""
    return tuple(compare_arms(study))


def others(study: StudyView) -> list[str]:
    """The arms that are compared with the reference."""
    return [arm for arm in study.arms if arm != study.reference]


def behind(study: StudyView, row: Row) -> list[tuple[CellView, CellView]]:
    """The finished cells that a row rests on: (the arm's, the reference's), a pair a seed."""
    mine, other = (Place(row.model, row.dataset, arm, row.strategy, 0) for arm in (row.arm, row.against))
    return [(study.done[mine._replace(seed=s)], study.done[other._replace(seed=s)]) for s in row.seeds]
