"""The reference of the study file, as Markdown, from its JSON schema."""

import json
from collections.abc import Iterator
from typing import Any

INTRODUCTION = """\
# Study file

Every key of a study file. [Run studies](../studies.md) says what they are for. This page is made from the JSON schema,
which your editor can use as well:

```sh
unnorm study schema > study.schema.json
```

"""


def study_file() -> str:
    """The page."""
    from unnorm.study.spec import StudyFile

    schema = StudyFile.model_json_schema()
    places = _places(schema)
    parts = [INTRODUCTION, *_section("The file", "the-file", schema)]
    for name, place in places.items():
        parts += _section(f"`{place}`", name.lower(), schema["$defs"][name])
    return "\n".join(parts)


def _places(schema: dict[str, Any]) -> dict[str, str]:
    """Definition -> the first key that takes it (`after.judge`), in the order in which a reader meets them.

    What an override may change is what the part that it changes has, so that has no place of its own.
    """
    found: dict[str, str] = {}
    unread = [("", schema["properties"])]
    while unread:
        path, keys = unread.pop(0)
        for key, value in keys.items():
            for name in _references(value):
                if name not in found and not _changed(name):
                    found[name] = f"{path}{key}"
                    unread.append((f"{path}{key}.", schema["$defs"][name].get("properties", {})))
    return found


def _changed(name: str) -> str:
    """The part of a study that this definition changes: `Dataset` for `DatasetChanges`; empty for any other."""
    return name.removesuffix("Changes") if name.endswith("Changes") else ""


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"].rpartition("/")[2]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def _section(title: str, anchor: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"## {title} {{ #{anchor} }}\n"
    if "description" in schema:
        yield f"{_sentence(schema['description'])}\n"
    required = set(schema.get("required", ()))
    yield "| key | type | default | |\n|---|---|---|---|"
    for key, value in schema.get("properties", {}).items():
        yield f"| `{key}` | {_type(value)} | {_default(key, value, required)} | {_cell(value.get('description', ''))} |"
    yield ""


def _type(schema: dict[str, Any]) -> str:
    """What a value may be, in words; links where it is a mapping with keys of its own."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        changed = _changed(name)
        return f"some of [these keys](#{changed.lower()})" if changed else f"[keys](#{name.lower()})"
    if "anyOf" in schema or "oneOf" in schema:
        options = schema.get("anyOf") or schema["oneOf"]
        return " or ".join(dict.fromkeys(_type(one) for one in options if one.get("type") != "null"))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type")
    if kind == "array":
        inner = schema.get("items")
        return f"list of {_type(inner)}" if inner else "list"
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"mapping to {_type(inner)}" if isinstance(inner, dict) and inner else "mapping"
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


def _sentence(text: str) -> str:
    """Text that is no tag and no attribute list."""
    return text.replace("<", "&lt;").replace("{", "&#123;").strip()


def _cell(text: str) -> str:
    return " ".join(_sentence(text).replace("|", "\\|").split())
