"""Calls of tools that stand beside a turn's text, as text: the form that Hermes and Qwen were trained on.

Which conversations keep them is a policy; here they are only read.
"""

import json
from collections.abc import Mapping
from typing import Any

import orjson

from unnorm.data.values import is_blank

OPENS, CLOSES = "<tool_call>\n", "\n</tool_call>"
_FIELDS = ("tool_calls", "function_call")
_ARGUMENTS = ("arguments", "parameters", "input")


class UnknownCall(ValueError):
    """A call that has no name, or whose arguments JSON cannot hold."""


def calls_beside(turn: Mapping[str, Any]) -> list[str]:
    """The calls in a turn's `tool_calls` and `function_call`, each as text. Raises `UnknownCall`."""
    listed, single = (calls_in(turn.get(field)) for field in _FIELDS)
    return listed + [call for call in single if call not in listed]  # some say the same in both


def calls_in(value: Any) -> list[str]:
    """The calls that `value` holds, each as text: one or a list of them, or JSON of such. Raises `UnknownCall`.

    A call is `{name, arguments}` (or `parameters`, or `input`), or such a `function`.
    """
    if is_blank(value):
        return []
    try:
        value = orjson.loads(value) if isinstance(value, str) else value
        calls = value if isinstance(value, list) else [value]
        return [_written(call) for call in calls if not _is_empty(call)]
    except (TypeError, ValueError, RecursionError) as error:
        raise UnknownCall from error


def _written(call: Any) -> str:
    call = call.get("function") or call if isinstance(call, Mapping) else call
    name = call.get("name") if isinstance(call, Mapping) else None
    if not isinstance(name, str) or not name.strip():
        raise UnknownCall
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
