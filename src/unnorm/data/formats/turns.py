"""Turns of a chat, `{role, content}` or `{from, value}`, as messages; or the reason why they cannot be."""

from collections.abc import Mapping, Sequence
from typing import Any

from unnorm.data.conversation import Message
from unnorm.data.tool_calls import UnknownCall, calls_beside, calls_in
from unnorm.data.values import as_text, kind_of
from unnorm.foundation.terminal import shorten

ROLES = {
    "user": ("human", "user", "prompter"),
    "assistant": ("gpt", "chatgpt", "bing", "bard", "assistant", "model", "bot"),
    "system": ("system",),
    "tool": (
        "tool", "function", "observation", "ipython", "tool_response", "tool_result", "function_response",
        "function_result",
    ),
}  # fmt: skip
_ROLE_OF = {name: role for role, names in ROLES.items() for name in names}
_CALL_ROLES = ("function_call", "tool_call")
"""An answer whose text as a whole is a call."""

_TEXT_PARTS = ("text", "input_text", "output_text")
_CALL_PARTS = ("tool_use", "tool_call", "function_call")
_RESULT_PARTS = ("tool_result", "tool_response")


class _Unusable(Exception):
    """Its text is the reason."""


def turns_of(turns: Sequence[Any], role_key: str = "role", content_key: str = "content") -> tuple[Message, ...] | str:
    """A list of `{role, content, …}` objects as messages, or the reason why it cannot be.

    Calls of tools go into `Message.calls`; other keys are left out.
    """
    messages: list[Message] = []
    try:
        for turn in turns:
            if not isinstance(turn, Mapping):
                raise _Unusable("a turn that is not an object")
            messages += _messages_of(turn, turn.get(role_key), turn.get(content_key))
    except _Unusable as reason:
        return str(reason)
    except UnknownCall:
        return "a tool call of an unknown form"
    return tuple(messages)


def _messages_of(turn: Mapping[str, Any], name: Any, content: Any) -> list[Message]:
    """The messages of one turn; more than one, if it holds results of tools beside a question."""
    plain_name = name.strip().lower() if isinstance(name, str) else ""
    role = "assistant" if plain_name in _CALL_ROLES else _ROLE_OF.get(plain_name)
    if role is None:
        shown = kind_of(name) if isinstance(name, Mapping | list) else shorten(repr(name), 24)
        raise _Unusable(f"a turn of the unknown role {shown}")
    weight = _weight(turn.get("weight"))
    calls = calls_beside(turn)
    if plain_name in _CALL_ROLES:
        calls, content = calls_in(content) + calls, ""
    if content is None and calls:
        content = ""
    made: list[Message] = []
    text, called = "", False
    for part in content if isinstance(content, list) else [content]:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in _CALL_PARTS:
            calls, called = calls + calls_in(part), True
        elif kind in _RESULT_PARTS:
            made += [Message(role, text, weight=weight)] if text.strip() else []
            made.append(Message("tool", _said(part.get("content")), weight=weight))
            text = ""
        else:
            said = _said([part] if isinstance(content, list) else part)
            if called and said.strip():
                raise _Unusable("a turn that goes on after its tool call")
            text += said
    if made and role not in ("user", "tool"):
        raise _Unusable("a tool's result within an answer")
    if calls and role != "assistant":
        raise _Unusable("a tool call in a turn that is no answer")
    if text.strip() or not made:
        made.append(Message(role, text, weight=weight, calls="\n".join(calls)))
    return made


def _said(content: Any) -> str:
    """Text, or the texts of content parts one after the other."""
    said = ""
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, Mapping) and part.get("type") in _TEXT_PARTS:
            part = "" if part.get("text") is None else part["text"]
        text = part if isinstance(content, list) else as_text(part)
        if not isinstance(text, str):
            raise _Unusable("a turn that is not text")
        said += text
    return said


def _weight(weight: Any) -> float | None:
    if weight is None:
        return None
    if not isinstance(weight, int | float) or not 0 <= weight < 1e6:
        raise _Unusable("a turn whose weight is not a number from 0 on")
    return None if weight == 1 else float(weight)
