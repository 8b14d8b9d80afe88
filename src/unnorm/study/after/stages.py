"""The stages of one study, in order: each cell's answers, then each pair's verdicts, then each pair's times."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from unnorm.evaluation.judges.interface import Judge
from unnorm.evaluation.questions import read_questions
from unnorm.study.after.completions import complete, is_complete
from unnorm.study.after.judge import is_judged, judge, judge_folder
from unnorm.study.after.latency import is_timed, latency_file, time_pair
from unnorm.study.after.pairs import Pair, pairs_of
from unnorm.study.plan import Planned
from unnorm.study.spec import StudyFile
from unnorm.study.view import reference_of


class Stage(NamedTuple):
    """One thing to do after training. cells: those that must be done before. folder: where it is written."""

    name: str
    cells: tuple[Planned, ...]
    folder: Path
    is_done: Callable[[], bool]
    run: Callable[[], None]


class Stages:
    """What comes after the training of `cells`. The judge is loaded when the first pair needs it, and kept."""

    def __init__(self, spec: StudyFile, cells: list[Planned], ledger: Path, *, quiet: bool = False) -> None:
        self.after, self.cells, self.quiet = spec.after, cells, quiet
        self.pairs = pairs_of(cells, reference_of([arm.id for arm in spec.resolved_arms()]), ledger)
        if self.after.completions:
            read_questions(self.after.completions.prompts)  # a mistake in it shows now, not after hours of training

    def __iter__(self) -> Any:
        answers, by, timed = self.after.completions, self.after.judge, self.after.latency
        if answers:
            for cell in self.cells:
                yield Stage(
                    "completions",
                    (cell,),
                    cell.folder,
                    _bound(is_complete, cell, answers),
                    _bound(complete, cell, answers),
                )
        if answers and by:
            for pair in self.pairs:
                done, run = _bound(is_judged, pair, answers, by), _bound(self._judge, pair)
                yield Stage("judge", (pair.arm, pair.against), pair.folder, done, run)
        if timed:
            for pair in self.pairs:
                done, run = _bound(is_timed, pair, timed), _bound(time_pair, pair, timed, quiet=self.quiet)
                yield Stage("latency", (pair.arm, pair.against), pair.folder, done, run)

    @property
    def entries(self) -> list[dict[str, Any]]:
        """For study.json: each pair, and which files of its folder are this study's."""
        return [
            {**pair.place._asdict(), "against": pair.against.settings.arm.id, **self._files(pair)}
            for pair in self.pairs
        ]

    def _files(self, pair: Pair) -> dict[str, str | None]:
        answers, by, timed = self.after.completions, self.after.judge, self.after.latency
        return {
            "folder": pair.folder.name,
            "judge": judge_folder(pair, answers, by) if answers and by else None,
            "latency": latency_file(pair, timed) if timed else None,
        }

    @cached_property
    def _loaded_judge(self) -> Judge:
        from unnorm.evaluation.judges.load import load_judge

        assert self.after.judge is not None
        return load_judge(self.after.judge.kind, self.after.judge.model, self.after.judge.base_url)

    def _judge(self, pair: Pair) -> None:
        assert self.after.completions is not None
        assert self.after.judge is not None
        judge(pair, self.after.completions, self.after.judge, self._loaded_judge, quiet=self.quiet)


def _bound(function: Callable[..., Any], *args: Any, **options: Any) -> Callable[[], Any]:
    return lambda: function(*args, **options)
