"""The keys of a JSON schema as a table in Markdown."""

import json
from collections.abc import Callable
from typing import Any

Link = Callable[[str], str]
"""Makes words of the name of a definition: a link to where its own keys are."""


def table(schema: dict[str, Any], link: Link) -> str:
    """A row a key: its type, its default, and what the schema says of it."""
    required = set(schema.get("required", ()))
    rows = ["| key | type | default | |", "|---|---|---|---|"]
    for key, value in schema.get("properties", {}).items():
        cells = (f"`{key}`", _type(value, link), _default(key, value, required), prose(value.get("description", "")))
        rows.append(f"| {' | '.join(' '.join(cell.split()) for cell in cells)} |")
    return "\n".join(rows)


def prose(text: str) -> str:
    """Text as Markdown that is no tag, no attribute list and no cell's end."""
    return text.replace("<", "&lt;").replace("{", "&#123;").replace("|", "\\|").strip()


def _type(schema: dict[str, Any], link: Link) -> str:
    """What a value may be, in words; links where it is a mapping with keys of its own."""
    if "$ref" in schema:
        return link(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema or "oneOf" in schema:
        options = schema.get("anyOf") or schema["oneOf"]
        return " or ".join(dict.fromkeys(_type(one, link) for one in options if one.get("type") != "null"))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type")
    if kind == "array":
        inner = schema.get("items")
        return f"list of {_type(inner, link)}" if inner else "list"
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"mapping to {_type(inner, link)}" if isinstance(inner, dict) and inner else "mapping"
    return str(kind or "anything") + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {schema[key]:,}" for key, sign in words.items() if key in schema]
    return f" {', '.join(found)}" if found else ""


def _default(key: str, schema: dict[str, Any], required: set[str]) -> str:
    if key in required:
        return "required"
    value = schema.get("default")
    if value is None:
        return ""
    return "" if isinstance(value, dict) and value else f"`{json.dumps(value, ensure_ascii=False)}`"
