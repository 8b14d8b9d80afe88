"""Turns of a chat, `{role, content}` or `{from, value}`, as messages.

Calls of tools that stand beside a turn's text become text, in the form that Hermes and Qwen were trained on. Which
conversations keep them is a policy.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from unnorm.data.conversation import Message
from unnorm.data.values import as_text, is_blank, kind_of
from unnorm.foundation.terminal import shorten

OPENS, CLOSES = "<tool_call>\n", "\n</tool_call>"
_FIELDS = ("tool_calls", "function_call")
_ARGUMENTS = ("arguments", "parameters", "input")


class Unusable(Exception):
    """Its text is the reason why a row cannot be a conversation."""


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


def turns_of(turns: Sequence[Any], role_key: str = "role", content_key: str = "content") -> tuple[Message, ...]:
    """A list of `{role, content, …}` objects as messages. Raises `Unusable` for one that cannot be.

    Calls of tools go into `Message.calls`; other keys are left out.
    """
    messages: list[Message] = []
    for turn in turns:
        if not isinstance(turn, Mapping):
            raise Unusable("a turn that is not an object")
        messages += _messages_of(turn, turn.get(role_key), turn.get(content_key))
    return tuple(messages)


def _messages_of(turn: Mapping[str, Any], name: Any, content: Any) -> list[Message]:
    """The messages of one turn; more than one, if it holds results of tools beside a question."""
    plain_name = name.strip().lower() if isinstance(name, str) else ""
    role = "assistant" if plain_name in _CALL_ROLES else _ROLE_OF.get(plain_name)
    if role is None:
        shown = kind_of(name) if isinstance(name, Mapping | list) else shorten(repr(name), 24)
        raise Unusable(f"a turn of the unknown role {shown}")
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
                raise Unusable("a turn that goes on after its tool call")
            text += said
    if made and role not in ("user", "tool"):
        raise Unusable("a tool's result within an answer")
    if calls and role != "assistant":
        raise Unusable("a tool call in a turn that is no answer")
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
            raise Unusable("a turn that is not text")
        said += text
    return said


def _weight(weight: Any) -> float | None:
    if weight is None:
        return None
    if not isinstance(weight, int | float) or not 0 <= weight < 1e6:
        raise Unusable("a turn whose weight is not a number from 0 on")
    return None if weight == 1 else float(weight)


def calls_beside(turn: Mapping[str, Any]) -> list[str]:
    """The calls in a turn's `tool_calls` and `function_call`, each as text."""
    listed, single = (calls_in(turn.get(field)) for field in _FIELDS)
    return listed + [call for call in single if call not in listed]  # some say the same in both


def calls_in(value: Any) -> list[str]:
    """The calls that `value` holds, each as text: one or a list of them, or JSON of such.

    A call is `{name, arguments}` (or `parameters`, or `input`), or such a `function`. Raises `Unusable` for one that
    has no name, or whose arguments JSON cannot hold.
    """
    if is_blank(value):
        return []
    try:
        value = orjson.loads(value) if isinstance(value, str) else value
        calls = value if isinstance(value, list) else [value]
        return [_written(call) for call in calls if not _is_empty(call)]
    except (TypeError, ValueError, RecursionError) as error:
        raise Unusable("a tool call of an unknown form") from error


def _written(call: Any) -> str:
    call = call.get("function") or call if isinstance(call, Mapping) else call
    name = call.get("name") if isinstance(call, Mapping) else None
    if not isinstance(name, str) or not name.strip():
        raise ValueError("no name")
    arguments: Any = next((call[key] for key in _ARGUMENTS if call.get(key) is not None), {})
    return f'{OPENS}{{"name": {_json(name)}, "arguments": {_arguments(arguments)}}}{CLOSES}'


def _arguments(arguments: Any) -> str:
    """Arguments as JSON: as they are written, where they are JSON already."""
    if not isinstance(arguments, str):
        return _json(_without_nulls(arguments))
    try:
        is_object = isinstance(orjson.loads(arguments), dict)
    except orjson.JSONDecodeError:
        is_object = False
    return arguments.strip() if is_object else _json(arguments) if arguments.strip() else "{}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _without_nulls(value: Any) -> Any:
    """Without the keys that are null: Parquet, and the hub's library, give each call the arguments of all others."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _is_empty(call: Any) -> bool:
    """Whether nothing in it is filled in: what Parquet makes of a call that is not there."""
    return is_blank(call) or (isinstance(call, Mapping) and all(_is_empty(inner) for inner in call.values()))
