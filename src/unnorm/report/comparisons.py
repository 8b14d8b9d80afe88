"""What an arm differs by from the reference: all figures, tables and sentences have it from here."""

from functools import lru_cache

from unnorm.study.compare import Row, compare_arms
from unnorm.study.view import CellView, StudyView


@lru_cache(maxsize=2)
def compared(study: StudyView) -> tuple[Row, ...]:
    """`compare_arms` with the study's reference, resampled once for all that is drawn of one study."""
    return tuple(compare_arms(study))


def others(study: StudyView) -> list[str]:
    """The arms that are compared with the reference."""
    return [arm for arm in study.arms if arm != study.reference]


def behind(study: StudyView, row: Row) -> list[tuple[CellView, CellView]]:
    """The finished cells that a row rests on: (the arm's, the reference's), a pair a seed."""
    done = {(c.model, c.dataset, c.strategy, c.arm, c.seed): c for c in study.cells if c.result}
    here = (row.model, row.dataset, row.strategy)
    return [(done[*here, row.arm, seed], done[*here, row.against, seed]) for seed in row.seeds]
