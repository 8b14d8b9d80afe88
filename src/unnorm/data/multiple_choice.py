"""Multiple-choice questions (MMLU) as conversations. The answer's index counts from 0: off by one, all are wrong."""

from collections.abc import Mapping
from typing import Any

from unnorm.data.conversation import Conversation, Message

LETTERS = "ABCDEFGHIJ"


def from_multiple_choice(row: Mapping[str, Any], source: str, number: int) -> Conversation | str:
    """`question`, `choices` and `answer` as a question with lettered choices, and the right letter with its choice.

    answer: a 0-based index, as a number or in digits; a letter; or the text of the answer itself. Where there are no
    `choices` the question is taken to hold them, and the letter alone is the answer. Returns the reason for a row that
    cannot be used.
    """
    question, choices, answer = row["question"].strip(), row.get("choices"), row["answer"]
    if not question:
        return "empty question"
    if choices is not None and not (isinstance(choices, list) and all(isinstance(c, str) for c in choices)):
        return "choices that are not texts"
    if choices is not None and not 0 < len(choices) <= len(LETTERS):
        return f"not 1 to {len(LETTERS)} choices"
    index = _index(answer, len(choices) if choices else len(LETTERS))
    if index is None and (choices or not isinstance(answer, str) or not answer.strip()):
        return "an answer that names no choice"
    if choices:
        listed = "\n".join(f"{letter}. {choice.strip()}" for letter, choice in zip(LETTERS, choices, strict=False))
        question = f"{question}\n{listed}"
        response = f"{LETTERS[index]}. {choices[index].strip()}"  # type: ignore[index]
    else:
        response = answer if index is None else LETTERS[index]
    return Conversation((Message("user", question), Message("assistant", response)), source, number)


def _index(answer: Any, count: int) -> int | None:
    """The 0-based choice that `answer` names, or None."""
    if isinstance(answer, str):
        text = answer.strip()
        if len(text) == 1 and text.upper() in LETTERS:
            answer = LETTERS.index(text.upper())
        elif len(text) == 1 and text.isascii() and text.isdigit():
            answer = int(text)
        else:
            return None
    return answer if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < count else None
