"""YAML whose mistakes can be named by line: text to plain values, and a place in them back to its line."""

import os
import re
from typing import Any

import yaml

from unnorm.foundation.errors import SettingsError

Location = tuple[int | str, ...]
"""Keys and indices from the root down."""


def read_yaml(text: str, where: str) -> tuple[dict[str, Any], Any]:
    """(content with ${VARIABLES} expanded, tree for `locate`) of a mapping. `where` names it in a `SettingsError`."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_twice(node, where)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be read"
        raise SettingsError(f"{where}{at}: not valid YAML: {problem}.") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{where} must hold a mapping with name, models, datasets and arms.")
    return _expand(content, where), node


def locate(node: Any, location: Location) -> tuple[int, list[str]]:
    """The line of the deepest part of `location` that the YAML has, and the keys down to it.

    A key's own line, not its value's. pydantic's names for the branches of a union are no keys, and end the way down.
    """
    line = int(node.start_mark.line + 1)
    keys: list[str] = []
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                break
            line, node = int(found[0].start_mark.line + 1), found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
        keys.append(str(part))
    return line, keys


def _refuse_twice(node: Any, where: str) -> None:
    """A key that stands twice in one mapping is an error: YAML would take the last one in silence."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                raise SettingsError(
                    f"{where}, line {line}: {key.value} stands a second time, after line {seen[key.value]}."
                )
            seen[key.value] = line
            _refuse_twice(value, where)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_twice(value, where)


def _expand(value: Any, where: str) -> Any:
    """`value` with ${VARIABLES} replaced in every text of it."""
    if isinstance(value, str):

        def look_up(match: re.Match[str]) -> str:
            if match[1] not in os.environ:
                raise SettingsError(f"{where} uses ${{{match[1]}}}, which is not set. Set it: export {match[1]}=...")
            return os.environ[match[1]]

        return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", look_up, value)
    if isinstance(value, list):
        return [_expand(item, where) for item in value]
    if isinstance(value, dict):
        return {key: _expand(item, where) for key, item in value.items()}
    return value
