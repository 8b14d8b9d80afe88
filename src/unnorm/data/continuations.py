"""Conversations that were cut into rows: `ID_N` holds the turns of `ID` from turn N on. Found, and joined again."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from unnorm.data.conversation import Conversation

_PART = re.compile(r"(?P<stem>.+)_(?P<turn>\d{1,9})", re.DOTALL)


class Joined(NamedTuple):
    """conversations: in the order of their first parts; the counts are of rows."""

    conversations: list[Conversation]
    changed: Counter[str]
    dropped: Counter[str]
    noted: Counter[str]


def join(conversations: Sequence[Conversation], policy: Literal["join", "apart", "drop"]) -> Joined:
    """Join parts of one conversation in the order of their turns, where the numbers show that one follows the other.

    A part that begins where another ends, or repeats its last turns, is joined to it. Where a part between is missing,
    joining would make an answer follow a question it was never given to: they stay apart, and are noted. So do rows
    whose numbers only count rows (`row_1`, `row_2`). policy: join; apart: join nothing; drop: drop every row that is
    numbered above 0.
    """
    changed, dropped, noted = Counter[str](), Counter[str](), Counter[str]()
    joined: dict[int, Conversation | None] = dict(enumerate(conversations))
    for parts in _by_stem(conversations).values():
        at = end = -1
        for turn, index in parts:
            part = conversations[index]
            whole = joined.get(at)
            overlap = end - turn
            if policy == "join" and whole is not None and turn > 0 and _follows(whole, part, overlap):
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


def _by_stem(conversations: Sequence[Conversation]) -> dict[str, list[tuple[int, int]]]:
    """Stem -> (first turn, index) of its parts, in order of turns."""
    stems: dict[str, list[tuple[int, int]]] = {}
    for index, conversation in enumerate(conversations):
        match = _PART.fullmatch(conversation.id or "")
        if match:
            stems.setdefault(match["stem"], []).append((int(match["turn"]), index))
    return {stem: sorted(parts) for stem, parts in stems.items()}
