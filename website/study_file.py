"""The reference of the study file, as Markdown, from its JSON schema."""

from collections.abc import Iterator
from typing import Any

from schema_table import prose, table

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
        yield f"{prose(schema['description'])}\n"
    yield f"{table(schema, _link)}\n"


def _link(name: str) -> str:
    changed = _changed(name)
    return f"some of [these keys](#{changed.lower()})" if changed else f"[keys](#{name.lower()})"
