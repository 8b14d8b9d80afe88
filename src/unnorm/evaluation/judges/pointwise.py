"""Judges that score each conversation alone: the preference is the difference of two scores."""

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, NamedTuple

from unnorm.evaluation.judges.interface import AnswerPair, Verdict


class Dialogue(NamedTuple):
    """Questions, one answer to each, and the part that is scored."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]
    part: str


class Rating(NamedTuple):
    """value: higher is better; cut: whether the text was longer than the judge can read."""

    value: float
    cut: bool


class PointwiseJudge:
    """A judge made of a score. Each conversation is scored once, however many pairs it stands in."""

    sees_order = False
    batch = 8

    def __init__(self, identity: dict[str, Any], score: Callable[[Dialogue], Rating], caveat: str | None) -> None:
        self.identity, self.caveat = identity, caveat
        self._score = score
        self._known: dict[Dialogue, Rating] = {}

    def judge(self, pairs: Sequence[AnswerPair]) -> list[Verdict]:
        verdicts = []
        for pair in pairs:
            first = self._of(Dialogue(pair.questions, pair.first, pair.part))
            second = self._of(Dialogue(pair.questions, pair.second, pair.part))
            difference = first.value - second.value
            verdicts.append(Verdict(difference if isfinite(difference) else None, first.cut or second.cut))
        return verdicts

    def _of(self, conversation: Dialogue) -> Rating:
        if conversation not in self._known:
            self._known[conversation] = self._score(conversation)
        return self._known[conversation]
