"""The forms in which rows come, each with a name: recognised by their fields, said aloud, never guessed in silence."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from unnorm.data.conversation import Conversation, Message
from unnorm.data.multiple_choice import from_multiple_choice, is_multiple_choice, only_names_a_choice
from unnorm.data.turns import turns_of
from unnorm.data.values import as_list, as_text, is_blank, kind_of
from unnorm.foundation.errors import DataError
from unnorm.foundation.terminal import shorten

FormatName = Literal["alpaca", "sharegpt", "messages", "multiple-choice", "prompt-response", "text"]

_CHAT_FIELDS = ("conversations", "messages", "conversation")
_CHAT_KEYS = {"from": "role", "role": "from"}  # what says whose a turn is -> what would say it in the other form
_PAIRS = (
    ("prompt", "response"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("question", "response"),
    ("instruction", "response"),
    ("query", "response"),
)
_SYSTEM_FIELDS = ("system", "system_prompt")
_KNOWN_COLUMNS = {*_CHAT_FIELDS, *(column for pair in _PAIRS for column in pair), "output", "choices", "text"}
CATEGORY = "category"

Convert = Callable[[Mapping[str, Any], str, int], Conversation | str]


class Format(NamedTuple):
    """has: whether a row has its columns; fits: and they hold what they should. convert: the row as a conversation, or
    the reason why it cannot be one. columns: what of a row is taken. cut: whether one conversation may be cut into
    several rows, which stand anywhere."""

    name: FormatName
    label: str
    fields: str
    has: Callable[[Mapping[str, Any]], bool]
    fits: Callable[[Mapping[str, Any]], bool]
    convert: Convert
    columns: Callable[[Mapping[str, Any]], set[str]]
    cut: bool = False


class _Unusable(Exception):
    """Its text is the reason why a row cannot be a conversation."""


def recognise(rows: Sequence[Any], name: str) -> Format:
    """The format that most of `rows` (the first ones of a source called `name`) have; the more specific one of two.

    Raises `DataError`, listing what is there and what would be understood, if none of them has any.
    """
    objects = [row for row in rows if isinstance(row, Mapping)]
    own = [next((form for form in FORMATS if form.fits(row)), None) for row in objects]  # the most specific one
    fitting = {form: own.count(form) for form in FORMATS}
    best = max(FORMATS, key=lambda form: fitting[form])  # max keeps the first of equals
    if not fitting[best]:
        known = "; ".join(f"{form.name}: {form.fields}" for form in FORMATS)
        raise DataError(
            f"the format of {name} is not known: its rows {_described(rows, objects)}. Known formats are {known}. "
            "Rename the columns, or write their values as text."
        )
    return best


def _described(rows: Sequence[Any], objects: Sequence[Mapping[str, Any]]) -> str:
    """What rows of no known format are: `have answer (text or null), b (a whole number)`, or no columns at all."""
    if objects:
        kinds: dict[str, list[str]] = {}
        for row in objects:
            for column, value in row.items():
                seen, kind = kinds.setdefault(str(column), []), kind_of(value)
                if kind not in seen:
                    seen.append(kind)
        columns = sorted(kinds, key=lambda column: (column not in _KNOWN_COLUMNS, column))  # what is meant, first
        return "have " + shorten(", ".join(f"{column} ({' or '.join(kinds[column])})" for column in columns), 400)
    first = rows[0]
    begins = f" that begins with {kind_of(first[0])}" if isinstance(first, list) and first else ""
    return f"have no named columns: the first is {kind_of(first)}{begins}"


def left_out(form: Format, rows: Iterable[Any]) -> tuple[str, ...]:
    """Columns of `rows` with something in them that is not taken from the row that has it."""
    found: set[str] = set()
    for row in rows:
        if isinstance(row, Mapping):
            taken = form.columns(row)
            found |= {
                str(column) for column, value in row.items()
                if column not in taken and column != CATEGORY and not is_blank(value)
            }  # fmt: skip
    return tuple(sorted(found))


def convert(form: Format, row: Any, source: str, number: int) -> Conversation | str:
    """Row `number` of `source` as a conversation, or the reason why it cannot be one.

    Where chats are expected, both forms of them are read, each row by what its turns have.
    """
    if not isinstance(row, Mapping):
        return "not an object"
    if not form.has(row):
        other = next((f for f in _CHATS if form in _CHATS and f.has(row)), None)
        if other is None:
            return _not_in(form, row)
        form = other
    try:
        conversation = form.convert(row, source, number)
    except _Unusable as reason:
        return str(reason)
    category = row.get(CATEGORY)
    if isinstance(conversation, str) or not isinstance(category, str) or not category.strip():
        return conversation
    return replace(conversation, category=category.strip())


def _not_in(form: Format, row: Mapping[str, Any]) -> str:
    """Why a row that has not the columns of its source's format cannot be used."""
    if form in _CHATS:
        for field in _CHAT_FIELDS:
            if not is_blank(row.get(field)) and as_list(row[field]) is None:
                return f"`{field}` is {kind_of(row[field])}, not a list of turns"
    return f"not in {form.label} form"


def _text(row: Mapping[str, Any], column: str) -> str:
    """The text in a column. Raises `_Unusable`, which says column and type, if it holds none."""
    text = as_text(row[column])
    if text is None:
        raise _Unusable(f"`{column}` is {kind_of(row[column])}, not text")
    return text


def _perhaps(row: Mapping[str, Any], column: str) -> str:
    """The text in a column that may be missing or have nothing in it."""
    return "" if is_blank(row.get(column)) else _text(row, column)


def _system_field(row: Mapping[str, Any]) -> str:
    return next((field for field in _SYSTEM_FIELDS if not is_blank(row.get(field))), _SYSTEM_FIELDS[0])


def _head(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """What comes before the row's own question: its system prompt, and earlier questions with their answers."""
    system = _perhaps(row, _system_field(row))
    head: tuple[Message, ...] = (Message("system", system),) if system else ()
    if is_blank(row.get("history")):
        return head
    history = as_list(row["history"])
    if history is None:
        raise _Unusable(f"`history` is {kind_of(row['history'])}, not a list")
    if _are_turns(history):
        return head + _read(history, "in `history` ")
    for pair in history:
        texts = [as_text(text) for text in pair] if isinstance(pair, list) and len(pair) == 2 else [None]
        if None in texts:
            raise _Unusable("`history` is not a list of questions with their answers")
        asked, answered = map(str, texts)
        head += (Message("user", asked), Message("assistant", answered))
    return head


def _from_alpaca(row: Mapping[str, Any], source: str, number: int) -> Conversation | str:
    instruction, given, output = _text(row, "instruction"), _perhaps(row, "input"), _text(row, "output")
    if not instruction.strip():
        return "empty instruction"
    if not output.strip():
        return "empty output"
    turns = (Message("user", instruction, given), Message("assistant", output))
    return Conversation(_head(row) + turns, source, number)


def _from_turns(role_key: str, content_key: str) -> Convert:
    def convert_turns(row: Mapping[str, Any], source: str, number: int) -> Conversation | str:
        messages = turns_of(as_list(row[_chat_field(row)]) or [], role_key, content_key)
        if isinstance(messages, str):
            return messages
        system = _perhaps(row, _system_field(row))
        if system and not any(message.role == "system" and message.content == system for message in messages[:1]):
            messages = (Message("system", system), *messages)
        language, identity = row.get("language"), row.get("id")
        return Conversation(
            messages,
            source,
            number,
            id=identity if isinstance(identity, str) else None,
            language=language if isinstance(language, str) and language else None,
        )

    return convert_turns


def _from_pair(row: Mapping[str, Any], source: str, number: int) -> Conversation | str:
    asked, answered = _pair_of(row)  # type: ignore[misc]
    if (asked, answered) == ("question", "answer") and only_names_a_choice(row):
        return "an answer that only names a choice, among prompts and responses"
    prompt, response, given = row[asked], row[answered], _perhaps(row, "context")
    in_text = _turns_in_text(prompt), _turns_in_text(response)
    if None not in in_text:  # on one side only, it is text that is talked about
        prompt, response = in_text
    if not _are_turns(prompt):
        question: tuple[Message, ...] = (Message("user", _text(row, asked), given),)
    elif given:
        return f"`context` beside a `{asked}` that is a list of turns"
    else:
        question = _read(prompt)
    answer = _read(response) if _are_turns(response) else (Message("assistant", _text(row, answered)),)
    return Conversation(_head(row) + question + answer, source, number)


def _read(turns: Sequence[Any], where: str = "") -> tuple[Message, ...]:
    messages = turns_of(turns)
    if isinstance(messages, str):
        raise _Unusable(where + messages)
    return messages


def _are_turns(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(turn, Mapping) for turn in value)


def _turns_in_text(value: Any) -> list[Any] | None:
    """The turns that text holds, as CSV writes them; None where it is text of another kind."""
    turns = as_list(value) if isinstance(value, str) else None
    return turns if _are_turns(turns) and all("role" in turn and "content" in turn for turn in turns or ()) else None


def _from_text(row: Mapping[str, Any], source: str, number: int) -> Conversation | str:
    text = _text(row, "text")
    return Conversation((Message("text", text),), source, number) if text.strip() else "empty text"


def _chat_field(row: Mapping[str, Any]) -> str:
    """The column whose turns are taken: the first that has any; else the first that could; else none."""
    lists = {field: as_list(row.get(field)) for field in _CHAT_FIELDS}
    return next((f for f in lists if lists[f]), next((f for f in lists if lists[f] is not None), ""))


def _has_turns(role_key: str) -> Callable[[Mapping[str, Any]], bool]:
    other_key = _CHAT_KEYS[role_key]

    def has_turns(row: Mapping[str, Any]) -> bool:
        turns = as_list(row.get(_chat_field(row)))
        # a row without turns has no form of its own: it is left to the form of the others, which counts it
        return turns is not None and all(
            not isinstance(turn, Mapping)
            or turn.get(role_key) is not None
            or (role_key in turn and turn.get(other_key) is None)
            for turn in turns
        )

    return has_turns


def _fits_turns(role_key: str) -> Callable[[Mapping[str, Any]], bool]:
    has_turns = _has_turns(role_key)
    return lambda row: has_turns(row) and bool(as_list(row[_chat_field(row)]))


def _pair_of(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first pair of columns that has something in both; else the first that is there."""
    pairs = [pair for pair in _PAIRS if pair[0] in row and pair[1] in row]
    return next((p for p in pairs if not is_blank(row[p[0]]) and not is_blank(row[p[1]])), pairs[0] if pairs else None)


def _fits_pair(row: Mapping[str, Any]) -> bool:
    pair = _pair_of(row) or ()
    return any(not is_blank(row[column]) for column in pair) and all(
        as_text(row[column]) is not None or _are_turns(row[column]) for column in pair
    )


def _has(*fields: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda row: all(field in row for field in fields)


def _has_texts(*fields: str) -> Callable[[Mapping[str, Any]], bool]:
    """Texts in all of them, and something in one: CSV writes empty texts for what a row does not have."""
    return lambda row: (
        all(as_text(row.get(field)) is not None for field in fields)
        and not all(is_blank(row[field]) for field in fields)
    )


def _fits_multiple_choice(row: Mapping[str, Any]) -> bool:
    choices = row.get("choices")
    return (
        is_multiple_choice(row)
        and _has_texts("question", "answer")(row)
        and (is_blank(choices) or as_list(choices) is not None)
    )


def _chat_columns(row: Mapping[str, Any]) -> set[str]:
    return {_chat_field(row), "id", "language", _system_field(row)}


def _pair_columns(row: Mapping[str, Any]) -> set[str]:
    return {*(_pair_of(row) or ()), _system_field(row), "history", "context"}


FORMATS = (
    Format(
        "sharegpt", "ShareGPT", "`conversations` of {from, value}", _has_turns("from"), _fits_turns("from"),
        _from_turns("from", "value"), _chat_columns, cut=True,
    ),
    Format(
        "messages", "messages", "`messages` or `conversation` of {role, content}", _has_turns("role"),
        _fits_turns("role"), _from_turns("role", "content"), _chat_columns,
    ),
    Format(
        "alpaca", "Alpaca", "`instruction`, `output`, perhaps `input`", _has("instruction", "output"),
        _has_texts("instruction", "output"), _from_alpaca,
        lambda row: {"instruction", "input", "output", "history", _system_field(row)},
    ),
    Format(
        "multiple-choice", "multiple-choice", "`question`, `choices`, `answer` (counted from 0)", is_multiple_choice,
        _fits_multiple_choice, from_multiple_choice, lambda row: {"question", "choices", "answer"},
    ),
    Format(
        "prompt-response", "prompt/response", "`prompt` and `response` (or `completion`; `question` and `answer`)",
        lambda row: _pair_of(row) is not None, _fits_pair, _from_pair, _pair_columns,
    ),
    Format(
        "text", "text", "`text`", _has("text"), lambda row: isinstance(row.get("text"), str), _from_text,
        lambda row: {"text"},
    ),
)  # fmt: skip
"""In the order in which they are tried."""

_CHATS = FORMATS[:2]
