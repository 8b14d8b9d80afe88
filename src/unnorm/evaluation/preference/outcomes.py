"""From verdicts in both orders to the outcome of each question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unnorm.evaluation.judges.interface import Verdict
from unnorm.evaluation.preference.answers import QuestionPair, Turn
from unnorm.evaluation.preference.verdicts import Key, Match, Ruling, is_empty, ruling


@dataclass(frozen=True)
class Outcome:
    """One question, or one turn of it.

    value: 1 if A wins, 0 if B does, 0.5 for a tie, None if the judge gave no verdict. score: above zero for A, in the
    judge's own unit; None where the judge was not asked or said nothing. forward, backward: its preferences for what
    stood first, A and then B; backward is None where the order is not seen.
    """

    prompt_id: str
    category: str
    value: float | None
    score: float | None
    forward: float | None
    backward: float | None
    ruled: Ruling | None
    a_length: int
    """Characters of what is judged."""
    b_length: int


def outcomes_of(
    questions: Sequence[QuestionPair],
    part: str,
    verdicts: Mapping[Key, Verdict],
    margin: float,
    *,
    sees_order: bool,
    null: bool = False,
) -> list[Outcome]:
    """The outcome of each question that has `part`; with `null` those of A against itself."""
    found: list[Outcome] = []
    value: float | None
    score: float | None
    for question in questions:
        if part not in question.parts:
            continue
        a, b = question.judged(part)
        if null and is_empty(a):
            continue
        ruled = None if null else ruling(question, part)
        lengths = (_length(a), _length(a if null else b))
        orders: tuple[Match, Match] = ("A A", "A A again") if null else ("A B", "B A")
        if ruled is not None:
            tie = ruled == "identical"
            value, score = 0.5 if tie else float(is_empty(b)), 0.0 if tie else None
            found.append(Outcome(question.prompt_id, question.category, value, score, None, None, ruled, *lengths))
            continue
        forward, *rest = (verdicts[Key(question.prompt_id, part, o)].preference for o in orders[: 1 + sees_order])
        backward = rest[0] if rest else None
        value, score = decide(forward, backward, margin, sees_order=sees_order)
        found.append(Outcome(question.prompt_id, question.category, value, score, forward, backward, None, *lengths))
    return found


def decide(
    forward: float | None, backward: float | None, margin: float, *, sees_order: bool
) -> tuple[float | None, float | None]:
    """(value, score) from the preferences for what stood first, with A first and with B first.

    score = forward − backward; a tie where the orders disagree, a tie in one of them included, and where |score| ≤
    margin. Without a second order, score = forward.
    """
    if forward is None or (sees_order and backward is None):
        return None, None
    score = forward if backward is None else forward - backward
    agree = backward is None or _sign(forward) == -_sign(backward)
    return (0.5 if not agree or abs(score) <= margin else float(score > 0)), score


def flipped(outcome: Outcome) -> bool | None:
    """Whether the two orders disagree; None where there were not two verdicts."""
    if outcome.forward is None or outcome.backward is None:
        return None
    return _sign(outcome.forward) != -_sign(outcome.backward)


def firsts(outcome: Outcome) -> tuple[int, int]:
    """(verdicts that prefer what stood first, verdicts that prefer either) among the question's two."""
    if outcome.forward is None or outcome.backward is None:
        return 0, 0
    signs = [_sign(outcome.forward), _sign(outcome.backward)]
    return signs.count(1), 2 - signs.count(0)


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


def _length(turns: Sequence[Turn]) -> int:
    return sum(len(turn.text) for turn in turns)
