"""Two files of completions, paired question by question."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from unnorm.evaluation.judges.interface import WHOLE, AnswerPair
from unnorm.evaluation.questions import json_lines
from unnorm.foundation.errors import DataError


class Turn(NamedTuple):
    """A prompt, the answer to it, and whether the answer was stopped by the limit of tokens."""

    prompt: str
    text: str
    truncated: bool


@dataclass(frozen=True)
class QuestionPair:
    """One prompt_id that both files answer, with as many turns in each and the same prompts."""

    prompt_id: str
    category: str
    a: tuple[Turn, ...]
    b: tuple[Turn, ...]

    @property
    def parts(self) -> list[str]:
        """`whole`, and each turn where there are several."""
        turns = [f"turn {number}" for number in range(1, len(self.a) + 1)]
        return [WHOLE, *(turns if len(turns) > 1 else [])]

    def judged(self, part: str) -> tuple[tuple[Turn, ...], tuple[Turn, ...]]:
        """The turns of A and of B that `part` is about."""
        turns = slice(None) if part == WHOLE else slice(_number(part) - 1, _number(part))
        return self.a[turns], self.b[turns]

    def pair(self, part: str) -> AnswerPair:
        """What the judge is shown for `part`, A first: everything up to its end."""
        end = len(self.a) if part == WHOLE else _number(part)
        return AnswerPair(
            tuple(turn.prompt for turn in self.a[:end]),
            tuple(turn.text for turn in self.a[:end]),
            tuple(turn.text for turn in self.b[:end]),
            part,
        )


class Paired(NamedTuple):
    """Questions in A's order; prompt_ids that only one file answers, or with other turns than the other."""

    questions: list[QuestionPair]
    unpaired: list[str]


def pair_answers(a: Path, b: Path) -> Paired:
    """Pair two completions files (JSONL with prompt_id, category, turn, prompt, text, finish_reason).

    The same prompt_id with another prompt, a turn twice, a line that is no completion, or nothing in common is a
    `DataError` that names the place.
    """
    ours, theirs = _read(a), _read(b)
    questions, unpaired = [], [prompt_id for prompt_id in theirs if prompt_id not in ours]
    for prompt_id, (category, mine) in ours.items():
        other = theirs.get(prompt_id)
        if other is None or other[1].keys() != mine.keys():
            unpaired.append(prompt_id)
            continue
        for turn in mine:
            if mine[turn].prompt != other[1][turn].prompt:
                raise DataError(
                    f"{a} and {b} ask something else under prompt_id {prompt_id!r}, turn {turn}. "
                    "Compare answers to the same prompts."
                )
        order = sorted(mine)
        questions.append(
            QuestionPair(prompt_id, category, tuple(mine[t] for t in order), tuple(other[1][t] for t in order))
        )
    if not questions:
        raise DataError(f"{a} and {b} have no question in common with as many turns in both. Give answers to one set.")
    return Paired(questions, unpaired)


def _number(part: str) -> int:
    return int(part.removeprefix("turn "))


def _read(path: Path) -> dict[str, tuple[str, dict[int, Turn]]]:
    """prompt_id -> (category, turn -> Turn)."""
    found: dict[str, tuple[str, dict[int, Turn]]] = {}
    for where, row in _rows(path):
        prompt_id, number = str(row["prompt_id"]), row["turn"]
        _, turns = found.setdefault(prompt_id, (row["category"], {}))
        if number in turns:
            raise DataError(
                f"{where}: turn {number} of prompt_id {prompt_id!r} a second time. Give one answer to each."
            )
        turns[number] = Turn(row["prompt"], row["text"], row.get("finish_reason") == "length")
    return found


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path.is_file():
        raise DataError(f"there is no file {str(path)!r}. Give completions, as unnorm generate writes them.")
    for where, row in json_lines(path, str(path)):
        if not _is_completion(row):
            raise DataError(f"{where}: a completion needs prompt_id, category, turn (a number), prompt and text.")
        yield where, row


def _is_completion(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("prompt_id"), str | int)
        and all(isinstance(row.get(name), str) for name in ("category", "prompt", "text"))
        and isinstance(row.get("turn"), int)
    )
