"""What a format of rows is, and what several of them read alike: texts, system prompts, earlier turns."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from unnorm.data.conversation import Conversation, Message
from unnorm.data.formats.turns import Unusable, turns_of
from unnorm.data.values import as_list, as_text, is_blank, kind_of

Row = Mapping[str, Any]


Convert = Callable[[Row, str, int], Conversation | str]
"""(row, name of its source, its number) -> the conversation, or the reason why it cannot be one."""

_SYSTEM_FIELDS = ("system", "system_prompt")


class Joined(NamedTuple):
    """conversations: in the order of their first parts; the counts are of rows."""

    conversations: list[Conversation]
    changed: Counter[str]
    dropped: Counter[str]
    noted: Counter[str]


class Format(NamedTuple):
    """A form in which rows come.

    fields: what it has, for people, columns in backquotes. has: whether a row has its columns; fits: and they hold what
    they should. convert: may raise `Unusable` too. columns: what of a row is taken. join: where one conversation may be
    cut into several rows, which stand anywhere: what joins them again. kin: formats of one kin may stand in one source,
    each row in its own. amiss: of a row that has not its columns, what is wrong with them, where that can be said.
    """

    name: str
    label: str
    fields: str
    has: Callable[[Row], bool]
    fits: Callable[[Row], bool]
    convert: Convert
    columns: Callable[[Row], set[str]]
    join: Callable[[Sequence[Conversation], Literal["join", "apart", "drop"]], Joined] | None = None
    kin: str = ""
    amiss: Callable[[Row], str] = lambda row: ""


def text_in(row: Row, column: str) -> str:
    """The text in a column. Raises `Unusable`, which says column and type, if it holds none."""
    text = as_text(row[column])
    if text is None:
        raise Unusable(f"`{column}` is {kind_of(row[column])}, not text")
    return text


def text_or_none(row: Row, column: str) -> str:
    """The text in a column that may be missing or have nothing in it."""
    return "" if is_blank(row.get(column)) else text_in(row, column)


def system_field(row: Row) -> str:
    return next((field for field in _SYSTEM_FIELDS if not is_blank(row.get(field))), _SYSTEM_FIELDS[0])


def earlier_turns(row: Row) -> tuple[Message, ...]:
    """What comes before the row's own question: its system prompt, and earlier questions with their answers."""
    system = text_or_none(row, system_field(row))
    head: tuple[Message, ...] = (Message("system", system),) if system else ()
    if is_blank(row.get("history")):
        return head
    history = as_list(row["history"])
    if history is None:
        raise Unusable(f"`history` is {kind_of(row['history'])}, not a list")
    if are_turns(history):
        try:
            return head + turns_of(history)
        except Unusable as reason:
            raise Unusable(f"in `history` {reason}") from None
    for pair in history:
        texts = [as_text(text) for text in pair] if isinstance(pair, list) and len(pair) == 2 else [None]
        if None in texts:
            raise Unusable("`history` is not a list of questions with their answers")
        asked, answered = map(str, texts)
        head += (Message("user", asked), Message("assistant", answered))
    return head


def are_turns(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(turn, Mapping) for turn in value)


def has(*fields: str) -> Callable[[Row], bool]:
    return lambda row: all(field in row for field in fields)


def has_texts(*fields: str) -> Callable[[Row], bool]:
    """Texts in all of them, and something in one: CSV writes empty texts for what a row does not have."""
    return lambda row: (
        all(as_text(row.get(field)) is not None for field in fields)
        and not all(is_blank(row[field]) for field in fields)
    )
