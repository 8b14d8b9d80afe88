"""What every judge is given and gives back, and nothing of how it decides."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

WHOLE = "whole"
"""The part of a conversation that is all of it; the others are `turn 1`, `turn 2`, …"""


@dataclass(frozen=True)
class AnswerPair:
    """Two conversations over the same questions, to be compared as a whole or in their last turn.

    Which model gave `first` is not the judge's business: it sees each pair in both orders. `repeat` tells apart two
    requests that are the same in words, so that a judge that answers from a cache is asked twice.
    """

    questions: tuple[str, ...]
    first: tuple[str, ...]
    """One answer a question, as `second`."""
    second: tuple[str, ...]
    part: str = WHOLE
    repeat: int = 0

    @property
    def swapped(self) -> "AnswerPair":
        """The same in the other order."""
        return AnswerPair(self.questions, self.second, self.first, self.part, self.repeat)


@dataclass(frozen=True)
class Verdict:
    """preference: above zero if the first answer is better, below if the second is, 0 for a tie; None: no verdict."""

    preference: float | None
    cut: bool = False
    """Whether the text was longer than the judge can read, and was cut."""
    reply: str | None = None
    """What the judge said, where it says anything: untrusted text."""
    prompt_tokens: int = 0
    """Tokens paid for, with those of replies that could not be used."""
    reply_tokens: int = 0


class Judge(Protocol):
    """A judge. Its verdicts depend on nothing but the pair and what `identity` holds."""

    sees_order: bool
    """False for a judge that scores each answer alone: swapping then turns the sign, and need not be asked."""
    batch: int
    """How many pairs are handed over at a time."""
    caveat: str | None
    """What a reader of its numbers must be told."""

    @property
    def identity(self) -> dict[str, Any]:
        """Kind, model and every setting that a verdict depends on, as JSON."""
        ...

    def judge(self, pairs: Sequence[AnswerPair]) -> list[Verdict]:
        """One verdict a pair, in order."""
        ...
