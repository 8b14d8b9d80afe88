"""Multiple-choice questions (MMLU) as conversations. The answer's index counts from 0: off by one, all are wrong."""

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from unnorm.data.conversation import Conversation, Message
from unnorm.data.formats.form import Format, has_texts
from unnorm.data.values import as_list, as_text, is_blank

LETTERS = "ABCDEFGHIJ"
NAMES_NONE = "an answer that names no choice"
AMBIGUOUS = "an answer that is one choice's text and another's letter or index"

_MARK = re.compile(r"(?<![A-Za-z0-9])([A-J])\s?[.):\]]")
_LINE = re.compile(r"^[ \t]*[(\[]?([A-Ja-j])\s?[.):\]][ \t]*(\S.*)$", re.MULTILINE)


def is_multiple_choice(row: Mapping[str, Any]) -> bool:
    """Whether there is a question, an answer, and choices for it: `choices`, or a question that lists them.

    A number is an index only if there are choices. Where the question lists them, only an answer that names one of
    them by its index makes it a question of this kind: any other says what it means.
    """
    if "question" not in row or "answer" not in row:
        return False
    if not is_blank(row.get("choices")) and as_list(row["choices"]) != []:
        return True
    listed = _listed(as_text(row["question"]) or "")
    index = _digit(row["answer"])
    return index is not None and index < len(listed)


def only_names_a_choice(row: Mapping[str, Any]) -> bool:
    """Whether `answer` is but an index or a letter of choices that are there: nothing to say as it stands."""
    if not is_multiple_choice(row):
        return False
    text = as_text(row["answer"])
    return text is not None and (_digit(text) is not None or _letter(text) is not None)


def from_multiple_choice(row: Mapping[str, Any], source: str, number: int) -> Conversation | str:
    """`question`, `choices` and `answer` as a question with lettered choices, and the right letter with its choice.

    answer: a 0-based index, as a number or in digits; a letter; or the text of a choice. A number is always an index;
    text that is one choice's text and another's letter or index is refused. `choices` may be a list in text, as in CSV.
    Where there are none the question is taken to list them, and the letter alone is the answer. Returns the reason for
    a row that cannot be used.
    """
    question, answer = (as_text(row["question"]) or "").strip(), row["answer"]
    if not question:
        return "empty question"
    if row.get("choices") is None or (isinstance(row["choices"], str) and not row["choices"].strip()):
        return _in_question(question, answer, source, number)
    choices = as_list(row["choices"])
    if choices is None or not all(isinstance(choice, str) for choice in choices):
        return "choices that are not texts"
    if not 0 < len(choices) <= len(LETTERS):
        return f"not 1 to {len(LETTERS)} choices"
    index = _index(answer, choices)
    if isinstance(index, str):
        return index
    listed = "\n".join(f"{letter}. {choice.strip()}" for letter, choice in zip(LETTERS, choices, strict=False))
    return _conversation(f"{question}\n{listed}", f"{LETTERS[index]}. {choices[index].strip()}", source, number)


def _conversation(question: str, response: str, source: str, number: int) -> Conversation:
    return Conversation((Message("user", question), Message("assistant", response)), source, number)


def _in_question(question: str, answer: Any, source: str, number: int) -> Conversation | str:
    """The letter that `answer` names of the choices which the question lists; or the answer, if it says it itself."""
    if _digit(answer) is not None:
        index = _index(answer, _listed(question))
        return index if isinstance(index, str) else _conversation(question, LETTERS[index], source, number)
    if not isinstance(answer, str) or not answer.strip():
        return NAMES_NONE
    letter = _letter(answer)
    return _conversation(question, answer if letter is None else LETTERS[letter], source, number)


def _listed(question: str) -> list[str]:
    """The choices that a question lists as `A. …`, `B) …`; empty texts where they have no lines of their own."""
    lines = {letter.upper(): choice.strip() for letter, choice in reversed(_LINE.findall(question))}
    if {"A", "B"} <= lines.keys():
        return [lines[letter] for letter in takewhile(lines.__contains__, LETTERS)]
    marked = set(_MARK.findall(question))
    return [""] * len(list(takewhile(marked.__contains__, LETTERS))) if {"A", "B"} <= marked else []


def _index(answer: Any, choices: Sequence[str]) -> int | str:
    """The 0-based choice that `answer` names, or why there is none."""
    if isinstance(answer, str):
        text = answer.strip()
        named = {i for i, choice in enumerate(choices) if text and choice.strip() == text}
        named |= {i for i in (_letter(text), _digit(text)) if i is not None and i < len(choices)}
        if len(named) > 1:
            return AMBIGUOUS
        return named.pop() if named else NAMES_NONE
    is_index = isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices)
    return int(answer) if is_index else NAMES_NONE


def _letter(text: str) -> int | None:
    """The index that a letter alone means."""
    letter = text.strip()
    return LETTERS.index(letter.upper()) if len(letter) == 1 and letter in LETTERS + LETTERS.lower() else None


def _digit(answer: Any) -> int | None:
    """The index that a digit alone means, be it a number or text."""
    text = (as_text(answer) or "").strip()
    return int(text) if len(text) == 1 and text.isascii() and text.isdigit() else None


def _fits(row: Mapping[str, Any]) -> bool:
    choices = row.get("choices")
    return (
        is_multiple_choice(row)
        and has_texts("question", "answer")(row)
        and (is_blank(choices) or as_list(choices) is not None)
    )


MULTIPLE_CHOICE = Format(
    name="multiple-choice",
    label="multiple-choice",
    fields="`question`, `choices`, `answer` (counted from 0)",
    has=is_multiple_choice,
    fits=_fits,
    convert=from_multiple_choice,
    columns=lambda row: {"question", "choices", "answer"},
)
