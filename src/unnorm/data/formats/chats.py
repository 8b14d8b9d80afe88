"""`sharegpt` and `messages`: a row with the turns of a chat; the two differ in what a turn calls its parts."""

from collections.abc import Callable, Mapping

from unnorm.data.conversation import Conversation, Message
from unnorm.data.formats.form import Convert, Format, Row, system_field, text_or_none
from unnorm.data.formats.turns import turns_of
from unnorm.data.values import as_list, is_blank, kind_of

_CHAT_FIELDS = ("conversations", "messages", "conversation")
_CHAT_KEYS = {"from": "role", "role": "from"}  # what says whose a turn is -> what would say it in the other form


def _from_turns(role_key: str, content_key: str) -> Convert:
    def convert_turns(row: Row, source: str, number: int) -> Conversation | str:
        messages = turns_of(as_list(row[_chat_field(row)]) or [], role_key, content_key)
        if isinstance(messages, str):
            return messages
        system = text_or_none(row, system_field(row))
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


def _chat_field(row: Row) -> str:
    """The column whose turns are taken: the first that has any; else the first that could; else none."""
    lists = {field: as_list(row.get(field)) for field in _CHAT_FIELDS}
    return next((f for f in lists if lists[f]), next((f for f in lists if lists[f] is not None), ""))


def _has_turns(role_key: str) -> Callable[[Row], bool]:
    other_key = _CHAT_KEYS[role_key]

    def has_turns(row: Row) -> bool:
        turns = as_list(row.get(_chat_field(row)))
        # a row without turns has no form of its own: it is left to the form of the others, which counts it
        return turns is not None and all(
            not isinstance(turn, Mapping)
            or turn.get(role_key) is not None
            or (role_key in turn and turn.get(other_key) is None)
            for turn in turns
        )

    return has_turns


def _fits_turns(role_key: str) -> Callable[[Row], bool]:
    has_turns = _has_turns(role_key)
    return lambda row: has_turns(row) and bool(as_list(row[_chat_field(row)]))


def _amiss(row: Row) -> str:
    for field in _CHAT_FIELDS:
        if not is_blank(row.get(field)) and as_list(row[field]) is None:
            return f"`{field}` is {kind_of(row[field])}, not a list of turns"
    return ""


def _chat(name: str, label: str, fields: str, role_key: str, content_key: str, *, cut: bool) -> Format:
    return Format(
        name=name,
        label=label,
        fields=fields,
        has=_has_turns(role_key),
        fits=_fits_turns(role_key),
        convert=_from_turns(role_key, content_key),
        columns=lambda row: {_chat_field(row), "id", "language", system_field(row)},
        cut=cut,
        kin="chat",
        amiss=_amiss,
    )


SHAREGPT = _chat("sharegpt", "ShareGPT", "`conversations` of {from, value}", "from", "value", cut=True)
MESSAGES = _chat(
    "messages", "messages", "`messages` or `conversation` of {role, content}", "role", "content", cut=False
)
