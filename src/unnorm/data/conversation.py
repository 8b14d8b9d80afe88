"""The one internal form of training data: a conversation, with where it came from and what was changed in it."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from unnorm.foundation.hashing import hash_text


@dataclass(frozen=True)
class Message:
    """One turn. `input` is Alpaca's second field, material for the instruction in `content`; elsewhere empty."""

    role: str
    """`system`, `user`, `assistant` or `tool`; or `text`: plain text, all of it trained, with no template around it."""
    content: str
    input: str = ""
    weight: float | None = None
    """What its tokens count in the loss, where they are trained at all; None is 1, and 0 is context only."""
    calls: str = ""
    """Calls of tools that stand beside the text, as text; a policy decides, and after it there are none here."""


@dataclass(frozen=True)
class Conversation:
    """Turns in order, the source and row they came from, and the reason of every change that was made to them."""

    messages: tuple[Message, ...]
    source: str
    row: int
    id: str | None = None
    language: str | None = None
    category: str | None = None
    """What the source says it is about, where it has such a column; evaluation can be told apart by it."""
    changes: tuple[str, ...] = ()


class Piece(NamedTuple):
    """A piece of text that a template makes of turn number `turn`, tokenized by itself, so that its bounds are exact.

    answer: whether the model is to say it. ends: whether an eos follows, if the text does not end in it already.
    """

    text: str
    turn: int
    answer: bool = False
    ends: bool = False


def prompt_hash(conversation: Conversation) -> int:
    """64-bit hash of everything before the first answer to a question, the same on every machine.

    Splits are made by it: two rows with the same prompt, copies or not, always fall on the same side. So does a row
    whose leading answer is kept as context in one place and dropped in another: it is no part of what is asked.
    """
    parts: list[str] = []
    asked = False
    for message in conversation.messages:
        if message.role == "assistant" and asked:
            break
        asked = asked or message.role == "user"
        if asked or message.role in ("system", "text"):
            parts += [message.role, message.content.strip(), message.input.strip()]
    return hash_text("\x1f".join(parts))


def content_hash(conversations: Iterable[Conversation]) -> str:
    """Hex digest of what is said in `conversations`, in order, wherever they came from."""
    digest = hashlib.sha256()
    for conversation in conversations:
        for message in conversation.messages:
            parts: tuple[str, ...] = (message.role, message.content, message.input)
            if message.weight is not None:
                parts += (repr(message.weight),)
            digest.update("\x1f".join(parts).encode("utf-8", "surrogatepass") + b"\x1e")
        digest.update(b"\x1d")
    return digest.hexdigest()[:32]
