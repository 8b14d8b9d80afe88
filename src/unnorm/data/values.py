"""What a value in a row is: text, a list, nothing; and what messages call it. The same from JSON, CSV and Parquet."""

import ast
import warnings
from collections.abc import Mapping
from typing import Any

import orjson

_KINDS = {
    type(None): "null", bool: "true or false", int: "a whole number", float: "a number with a fraction", str: "text",
    list: "a list", tuple: "a list", bytes: "binary",
}  # fmt: skip


def kind_of(value: Any) -> str:
    """What messages call a value's type: `text`, `a list`, `binary`, …"""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, str) and not value.strip():
        return "empty text"
    return _KINDS.get(type(value), type(value).__name__)


def is_blank(value: Any) -> bool:
    """Whether there is nothing in it: null, which CSV writes as empty text, or an empty list or object."""
    return value is None or (isinstance(value, str) and not value.strip()) or (_is_container(value) and not value)


def as_text(value: Any) -> str | None:
    """Text as it is, and a whole number in digits. None for anything else.

    A fraction has many spellings, and Parquet makes 2.0 of a 2 in a column with gaps; `true` is `True` elsewhere.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else None


def as_list(value: Any) -> list[Any] | None:
    """A list, or text that is one: in JSON, or as Python writes it, which pandas does in CSV files. None for others."""
    if isinstance(value, list):
        return value
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return None
    try:
        found = orjson.loads(value)
    except orjson.JSONDecodeError:
        found = _from_python(value.strip())
    return found if isinstance(found, list) else None


def _from_python(text: str) -> Any:
    """The value that Python writes as `text`; None if there is none that JSON could hold too.

    It must be written as Python would: NumPy writes lists without commas, of which Python would make one long text.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            found = ast.literal_eval(text)
        return orjson.loads(orjson.dumps(found)) if repr(found) == text else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _is_container(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple)
