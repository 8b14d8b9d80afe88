"""`prompt-response`: a row with a prompt and the response to it, under one of several pairs of names."""

from typing import Any

from unnorm.data.conversation import Conversation, Message
from unnorm.data.formats.form import (
    Format,
    Row,
    are_turns,
    earlier_turns,
    system_field,
    text_in,
    text_or_none,
)
from unnorm.data.formats.multiple_choice import only_names_a_choice
from unnorm.data.formats.turns import turns_of
from unnorm.data.values import as_list, as_text, is_blank

_PAIRS = (
    ("prompt", "response"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("question", "response"),
    ("instruction", "response"),
    ("query", "response"),
)


def _convert(row: Row, source: str, number: int) -> Conversation | str:
    asked, answered = _pair_of(row)  # type: ignore[misc]
    if (asked, answered) == ("question", "answer") and only_names_a_choice(row):
        return "an answer that only names a choice, among prompts and responses"
    prompt, response, given = row[asked], row[answered], text_or_none(row, "context")
    in_text = _turns_in_text(prompt), _turns_in_text(response)
    if None not in in_text:  # on one side only, it is text that is talked about
        prompt, response = in_text
    if not are_turns(prompt):
        question: tuple[Message, ...] = (Message("user", text_in(row, asked), given),)
    elif given:
        return f"`context` beside a `{asked}` that is a list of turns"
    else:
        question = turns_of(prompt)
    answer = turns_of(response) if are_turns(response) else (Message("assistant", text_in(row, answered)),)
    return Conversation(earlier_turns(row) + question + answer, source, number)


def _turns_in_text(value: Any) -> list[Any] | None:
    """The turns that text holds, as CSV writes them; None where it is text of another kind."""
    turns = as_list(value) if isinstance(value, str) else None
    return turns if are_turns(turns) and all("role" in turn and "content" in turn for turn in turns or ()) else None


def _pair_of(row: Row) -> tuple[str, str] | None:
    """The first pair of columns that has something in both; else the first that is there."""
    pairs = [pair for pair in _PAIRS if pair[0] in row and pair[1] in row]
    return next((p for p in pairs if not is_blank(row[p[0]]) and not is_blank(row[p[1]])), pairs[0] if pairs else None)


def _fits_pair(row: Row) -> bool:
    pair = _pair_of(row) or ()
    return any(not is_blank(row[column]) for column in pair) and all(
        as_text(row[column]) is not None or are_turns(row[column]) for column in pair
    )


PROMPT_RESPONSE = Format(
    name="prompt-response",
    label="prompt/response",
    fields="`prompt` and `response` (or `completion`; `question` and `answer`)",
    has=lambda row: _pair_of(row) is not None,
    fits=_fits_pair,
    convert=_convert,
    columns=lambda row: {*(_pair_of(row) or ()), system_field(row), "history", "context"},
)
