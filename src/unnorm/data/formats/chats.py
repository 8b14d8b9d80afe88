"""`sharegpt` and `messages`: a row with the turns of a chat; the two differ in what a turn calls its parts."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

from unnorm.data.conversation import Conversation, Message
from unnorm.data.formats.form import Convert, Format, Joined, Row, system_field, text_or_none
from unnorm.data.formats.turns import turns_of
from unnorm.data.values import as_list, is_blank, kind_of

_PART = re.compile(r"(?P<stem>.+)_(?P<turn>\d{1,9})", re.DOTALL)


_CHAT_FIELDS = ("conversations", "messages", "conversation")
_CHAT_KEYS = {"from": "role", "role": "from"}  # what says whose a turn is -> what would say it in the other form


def _from_turns(role_key: str, content_key: str) -> Convert:
    def convert_turns(row: Row, source: str, number: int) -> Conversation | str:
        messages = turns_of(as_list(row[_chat_field(row)]) or [], role_key, content_key)
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


def _chat(name: str, label: str, fields: str, role_key: str, content_key: str) -> Format:
    return Format(
        name=name,
        label=label,
        fields=fields,
        has=_has_turns(role_key),
        fits=_fits_turns(role_key),
        convert=_from_turns(role_key, content_key),
        columns=lambda row: {_chat_field(row), "id", "language", system_field(row)},
        kin="chat",
        amiss=_amiss,
    )


def join(conversations: Sequence[Conversation], policy: Literal["join", "apart", "drop"]) -> Joined:
    """Join parts of one conversation in the order of their turns, where the numbers show that one follows the other.

    A part that begins where another ends, or repeats its last turns, is joined to it. Where a part between is missing,
    joining would make an answer follow a question it was never given to: they stay apart, and are noted. So do rows
    whose numbers only count rows (`row_1`, `row_2`, `row_4`): of these, some overlap by their numbers and say something
    else. policy: join; apart: join nothing; drop: drop every row that is numbered above 0.
    """
    changed, dropped, noted = Counter[str](), Counter[str](), Counter[str]()
    joined: dict[int, Conversation | None] = dict(enumerate(conversations))
    for parts in _by_stem(conversations).values():
        at = end = -1
        count_turns = not any(
            _contradict(conversations[i], conversations[j], b - a) for (a, i), (b, j) in pairwise(parts)
        )
        for turn, index in parts:
            part = conversations[index]
            whole = joined.get(at)
            overlap = end - turn
            if policy == "join" and count_turns and whole is not None and turn > 0 and _follows(whole, part, overlap):
                joined[at] = replace(
                    whole,
                    messages=whole.messages + part.messages[overlap:],
                    changes=(*whole.changes, f"continued by {part.id}"),
                )
                joined[index] = None
                changed["joined to the row it continues"] += 1
            else:
                at = index
                if turn > 0 and policy == "drop":
                    joined[index] = None
                    dropped["by its id continues another row"] += 1
                elif turn > 0:
                    noted["by its id continues another row, but is not joined"] += 1
            end = turn + len(part.messages)
    return Joined([c for c in joined.values() if c is not None], changed, dropped, noted)


def _follows(whole: Conversation, part: Conversation, overlap: int) -> bool:
    """Whether `part` begins at or before the end of `whole`, and says the same where they overlap."""
    if not 0 <= overlap < len(part.messages) or overlap > len(whole.messages):
        return False
    return overlap == 0 or whole.messages[-overlap:] == part.messages[:overlap]


def _contradict(one: Conversation, other: Conversation, distance: int) -> bool:
    """Whether `other`, which begins `distance` turns after `one`, says something else where they overlap by that."""
    return any(a != b for a, b in zip(one.messages[distance:], other.messages, strict=False))


def _by_stem(conversations: Sequence[Conversation]) -> dict[str, list[tuple[int, int]]]:
    """Stem -> (first turn, index) of its parts, in order of turns."""
    stems: dict[str, list[tuple[int, int]]] = {}
    for index, conversation in enumerate(conversations):
        match = _PART.fullmatch(conversation.id or "")
        if match:
            stems.setdefault(match["stem"], []).append((int(match["turn"]), index))
    return {stem: sorted(parts) for stem, parts in stems.items()}


SHAREGPT = _chat("sharegpt", "ShareGPT", "`conversations` of {from, value}", "from", "value")._replace(join=join)
MESSAGES = _chat("messages", "messages", "`messages` or `conversation` of {role, content}", "role", "content")
