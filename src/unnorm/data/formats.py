"""The forms in which rows come, each with a name: recognised by their fields, said aloud, never guessed in silence."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from unnorm.data.conversation import Conversation, Message
from unnorm.data.multiple_choice import from_multiple_choice
from unnorm.foundation.errors import DataError
from unnorm.foundation.terminal import shorten

FormatName = Literal["alpaca", "sharegpt", "messages", "multiple-choice", "prompt-response", "text"]

ROLES = {
    "user": ("human", "user", "prompter"),
    "assistant": ("gpt", "chatgpt", "bing", "bard", "assistant", "model", "bot"),
    "system": ("system",),
    "tool": ("tool", "function", "observation"),
}
_ROLE_OF = {name: role for role, names in ROLES.items() for name in names}

_CHAT_FIELDS = ("conversations", "messages", "conversation")
_PAIRS = (
    ("prompt", "response"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("question", "response"),
    ("instruction", "response"),
    ("query", "response"),
)
_SYSTEM_FIELDS = ("system", "system_prompt")
CATEGORY = "category"

Convert = Callable[[Mapping[str, Any], str, int], Conversation | str]


class Format(NamedTuple):
    """fits: whether a row has its fields; convert: the row as a conversation, or the reason why it cannot be one."""

    name: FormatName
    label: str
    fields: str
    fits: Callable[[Mapping[str, Any]], bool]
    convert: Convert
    columns: Callable[[Mapping[str, Any]], set[str]]


def recognise(rows: Sequence[Any], name: str) -> Format:
    """The format that most of `rows` (the first ones of a source called `name`) have; the more specific one of two.

    Raises `DataError`, listing what is there and what would be understood, if none of them has any.
    """
    objects = [row for row in rows if isinstance(row, Mapping)]
    fitting = {form.name: sum(form.fits(row) for row in objects) for form in FORMATS}
    best = max(FORMATS, key=lambda form: fitting[form.name])  # max keeps the first of equals
    if not fitting[best.name]:
        first = rows[0]
        found = ", ".join(sorted(map(str, first))) if isinstance(first, Mapping) else type(first).__name__
        known = "; ".join(f"{form.name}: {form.fields}" for form in FORMATS)
        raise DataError(
            f"the format of {name} is not known: its first row has {shorten(found, 200)}. Known formats are {known}. "
            "Rename the columns."
        )
    return best


def convert(form: Format, row: Any, source: str, number: int) -> Conversation | str:
    """Row `number` of `source` as a conversation, or the reason why it cannot be one."""
    if not isinstance(row, Mapping):
        return "not an object"
    if not form.fits(row):
        return f"not in {form.label} form"
    conversation = form.convert(row, source, number)
    category = row.get(CATEGORY)
    if isinstance(conversation, str) or not isinstance(category, str) or not category.strip():
        return conversation
    return replace(conversation, category=category.strip())


def _from_alpaca(row: Mapping[str, Any], source: str, number: int) -> Conversation | str:
    instruction, given, output = row["instruction"], row.get("input"), row["output"]
    if not isinstance(given or "", str):
        return "not in Alpaca form"
    if not instruction.strip():
        return "empty instruction"
    if not output.strip():
        return "empty output"
    return Conversation((Message("user", instruction, given or ""), Message("assistant", output)), source, number)


def _from_turns(role_key: str, content_key: str) -> Convert:
    def convert_turns(row: Mapping[str, Any], source: str, number: int) -> Conversation | str:
        messages = turns_of(row[_chat_field(row)], role_key, content_key)
        if isinstance(messages, str):
            return messages
        language, identity = row.get("language"), row.get("id")
        return Conversation(
            messages,
            source,
            number,
            id=identity if isinstance(identity, str) else None,
            language=language if isinstance(language, str) and language else None,
        )

    return convert_turns


def turns_of(turns: Sequence[Any], role_key: str = "role", content_key: str = "content") -> tuple[Message, ...] | str:
    """A list of `{role, content, …}` objects as messages, or the reason why it cannot be. Other keys are left out."""
    messages = []
    for turn in turns:
        if not isinstance(turn, Mapping):
            return "a turn that is not an object"
        name, content = turn.get(role_key), turn.get(content_key)
        role = _ROLE_OF.get(name.strip().lower()) if isinstance(name, str) else None
        if role is None:
            return f"a turn of the unknown role {shorten(repr(name), 24)}"
        content = _text_of(content)
        if content is None:
            return "a turn that is not text"
        weight = turn.get("weight")
        if weight is not None and (not isinstance(weight, int | float) or not 0 <= weight < 1e6):
            return "a turn whose weight is not a number from 0 on"
        messages.append(Message(role, content, weight=None if weight is None or weight == 1 else float(weight)))
    return tuple(messages)


def _text_of(content: Any) -> str | None:
    """Plain text, or the texts of content parts one after the other; None if there is anything else in it."""
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        content = "".join(part["text"] if isinstance(part.get("text"), str) else "" for part in content)
    return content if isinstance(content, str) else None


def _from_pair(row: Mapping[str, Any], source: str, number: int) -> Conversation | str:
    asked, answered = _pair_of(row)  # type: ignore[misc]
    prompt, response = row[asked], row[answered]
    if isinstance(prompt, list) and isinstance(response, list):
        messages = turns_of([*prompt, *response])
        return messages if isinstance(messages, str) else Conversation(messages, source, number)
    if not isinstance(prompt, str) or not isinstance(response, str):
        return "not in prompt/response form"
    system = next((row[key] for key in _SYSTEM_FIELDS if isinstance(row.get(key), str) and row[key].strip()), None)
    given = row.get("context")
    question = Message("user", prompt, given if isinstance(given, str) else "")
    head = (Message("system", system),) if system else ()
    return Conversation((*head, question, Message("assistant", response)), source, number)


def _from_text(row: Mapping[str, Any], source: str, number: int) -> Conversation | str:
    return Conversation((Message("text", row["text"]),), source, number) if row["text"].strip() else "empty text"


def _chat_field(row: Mapping[str, Any]) -> str:
    return next((key for key in _CHAT_FIELDS if isinstance(row.get(key), list)), "")


def _has_turns(role_key: str) -> Callable[[Mapping[str, Any]], bool]:
    def has_turns(row: Mapping[str, Any]) -> bool:
        turns = row.get(_chat_field(row))
        # a row without turns has no form of its own: it is left to the form of the others, which counts it
        return isinstance(turns, list) and all(not isinstance(turn, Mapping) or role_key in turn for turn in turns)

    return has_turns


def _pair_of(row: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((pair for pair in _PAIRS if pair[0] in row and pair[1] in row), None)


def _pair_columns(row: Mapping[str, Any]) -> set[str]:
    return {*(_pair_of(row) or ()), *_SYSTEM_FIELDS, "context"}


def _has_texts(*fields: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda row: all(isinstance(row.get(field), str) for field in fields)


def _chat_columns(row: Mapping[str, Any]) -> set[str]:
    return {_chat_field(row), "id", "language"}


FORMATS = (
    Format(
        "sharegpt", "ShareGPT", "`conversations` of {from, value}", _has_turns("from"), _from_turns("from", "value"),
        _chat_columns,
    ),
    Format(
        "messages", "messages", "`messages` or `conversation` of {role, content}", _has_turns("role"),
        _from_turns("role", "content"), _chat_columns,
    ),
    Format(
        "alpaca", "Alpaca", "`instruction`, `output`, perhaps `input`", _has_texts("instruction", "output"),
        _from_alpaca, lambda row: {"instruction", "input", "output"},
    ),
    Format(
        "multiple-choice", "multiple-choice", "`question`, `choices`, `answer` (counted from 0)",
        lambda row: isinstance(row.get("question"), str) and isinstance(row.get("answer"), int | str)
        and (isinstance(row.get("choices"), list) or isinstance(row["answer"], int)),
        from_multiple_choice, lambda row: {"question", "choices", "answer"},
    ),
    Format(
        "prompt-response", "prompt/response", "`prompt` and `response` (or `completion`; `question` and `answer`)",
        lambda row: _pair_of(row) is not None, _from_pair, _pair_columns,
    ),
    Format("text", "text", "`text`", _has_texts("text"), _from_text, lambda row: {"text"}),
)  # fmt: skip
"""In the order in which they are tried."""
