"""What every judge is given and gives back; and what judges have in common that score each conversation alone."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, NamedTuple, Protocol

from unnorm.data.chat_template import special_texts

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
        return replace(self, first=self.second, second=self.first)


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


_BROKEN = re.compile(r"(\S)")


def neutralise(text: str, tokenizer: Any) -> str:
    """Untrusted `text` with a space after the first visible character of every literal special token of `tokenizer`.

    Without it an answer that holds the end of text, or a judge's own marker, would speak to the judge in its voice.
    Breaking one token can complete no other: every special token that is matched is broken, and a space is added,
    never taken away; the loop is there for tokens that overlap.
    """
    marks = sorted((mark for mark in special_texts(tokenizer) if len(mark.strip()) > 1), key=len, reverse=True)
    if not marks:
        return text
    # a tokenizer may lowercase before it looks for them
    pattern = re.compile("|".join(map(re.escape, marks)), re.IGNORECASE)
    while pattern.search(text):
        text = pattern.sub(lambda found: _BROKEN.sub(r"\1 ", found[0], count=1), text)
    return text


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
    """A judge made of a score: its preference is the difference of two. Each conversation is scored once, however many
    pairs it stands in."""

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
