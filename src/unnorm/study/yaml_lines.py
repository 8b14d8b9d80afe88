"""YAML whose mistakes can be named by line: a file to plain values, and a place in them back to its line.

Whatever stands in the file, what is wrong with it is a `SettingsError`; nothing in it can take long or much memory.
"""

import os
import re
from pathlib import Path
from typing import Any

import yaml

from unnorm.foundation.errors import SettingsError
from unnorm.foundation.terminal import shorten
from unnorm.foundation.validation import Location

_MOST_BYTES = 1 << 20
_MOST_VALUES = 50_000
"""With every alias written out: eight aliases of eight, one inside the other, are 16 million values in 200 bytes."""
_DEEPEST = 40
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_MARKS = ((b"\xff\xfe\x00\x00", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))


def read_text(path: Path) -> str:
    """The text of a YAML file."""
    try:
        if path.is_dir():
            raise SettingsError(f"{str(path)!r} is a folder. Give the study file in it.")
        if not path.is_file():
            raise SettingsError(f"there is no study file {str(path)!r}.")
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"the study file {str(path)!r} cannot be read: {error.strerror}.") from error
    if len(content) > _MOST_BYTES:
        raise SettingsError(f"{path} is larger than {_MOST_BYTES >> 20} MiB, which no study file is.")
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            raise SettingsError(f"{path}, line 1: this is {encoding}. Save the file as UTF-8.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingsError(
            f"{path}, line {line}: the byte 0x{content[error.start]:02x} is not UTF-8. "
            "If this is a study file, save it as UTF-8."
        ) from error


def read_yaml(text: str, where: str) -> tuple[dict[str, Any], Any]:
    """(content with ${VARIABLES} expanded, tree for `locate`) of a mapping. `where` names it in a `SettingsError`."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise SettingsError(f"{where}, line 1: there is nothing in it. A study is a mapping {_NEEDED}.")
        _Checked(where).check(node)
        content = loader.construct_document(node)
    except yaml.YAMLError as error:
        line = _line_of(error, text)
        raise SettingsError(f"{where}, line {line}: not valid YAML: {_problem(error)}.{_quotes(text, line)}") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{where}, line {node.start_mark.line + 1}: a study is a mapping {_NEEDED}.")
    return _expand(content), node


_NEEDED = "with name, models, datasets and arms"


def locate(node: Any, location: Location) -> int:
    """The line of the deepest part of `location` that the YAML has: a key's own line, not its value's."""
    line = int(node.start_mark.line + 1)
    for part in location:
        if isinstance(node, yaml.MappingNode):
            # what `<<` merged into it stands first by now, and what it says itself holds
            found = next(((key, value) for key, value in reversed(node.value) if key.value == str(part)), None)
            if found is None:
                break
            line, node = int(found[0].start_mark.line + 1), found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


class _Loader(yaml.SafeLoader):
    """PyYAML's, with a limit to nesting, and with the line of a value that cannot be what its tag or look says."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=self.peek_event().start_mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            what = f"{shorten(str(node.value), 40)!r} is no {node.tag.rpartition(':')[2]} that can be read"
            raise yaml.MarkedYAMLError(problem=what, problem_mark=node.start_mark) from error


class _Checked:
    """What YAML would take in silence, or never come to an end with, before values are made of it."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.sizes: dict[int, tuple[int, int]] = {}
        self.open: set[int] = set()

    def check(self, node: Any) -> tuple[int, int]:
        """(values, depth) of a node with its aliases written out."""
        if id(node) in self.sizes:
            return self.sizes[id(node)]
        if id(node) in self.open:
            self.refuse(node, "this holds an alias of itself")
        self.open.add(id(node))
        if isinstance(node, yaml.MappingNode):
            self.check_keys(node)
            inner = [self.check(value) for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            inner = [self.check(value) for value in node.value]
        else:
            self.check_text(node)
            inner = []
        self.open.remove(id(node))
        size, depth = 1 + sum(size for size, _ in inner), 1 + max((depth for _, depth in inner), default=0)
        if size > _MOST_VALUES or depth > _DEEPEST:
            much = "is nested too deeply" if depth > _DEEPEST else f"holds over {_MOST_VALUES:,} values"
            self.refuse(node, f"with its aliases written out, this {much}")
        self.sizes[id(node)] = size, depth
        return size, depth

    def check_keys(self, node: Any) -> None:
        """A key that stands twice is an error: YAML would take the last one."""
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.refuse(key, "a key must be text, not a list or a mapping")
            if key.tag.rpartition(":")[2] not in ("str", "merge"):
                self.refuse(key, f"the key {shorten(key.value, 40)} is no text to YAML. Put it in quotes")
            if key.value in seen:
                self.refuse(key, f"{shorten(key.value, 40)} stands a second time, after line {seen[key.value]}")
            seen[key.value] = key.start_mark.line + 1

    def check_text(self, node: Any) -> None:
        if "\0" in node.value:
            self.refuse(node, "the character U+0000 cannot stand in it")
        for name in _VARIABLE.findall(node.value):
            if name not in os.environ:
                self.refuse(node, f"${{{name}}} is used, which is not set. Set it: export {name}=...")

    def refuse(self, node: Any, problem: str) -> None:
        end = "" if problem.endswith(".") else "."
        raise SettingsError(f"{self.where}, line {node.start_mark.line + 1}: {problem}{end}")


def _line_of(error: yaml.YAMLError, text: str) -> int:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        return int(mark.line) + 1
    return text.count("\n", 0, getattr(error, "position", 0)) + 1


def _problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        return f"the character U+{error.character:04X} cannot stand in it"
    problem = str(getattr(error, "problem", None) or "cannot be read")
    if "'\\t'" in problem:
        return "a tab stands where YAML wants spaces"
    if "another document" in problem:
        return "a second document begins here (---), and a study is one"
    return problem.rstrip(".")


def _quotes(text: str, line: int) -> str:
    """A hint: within [] and {} YAML takes the braces of ${NAME} for its own."""
    lines = text.splitlines()
    return " Put what holds ${...} in quotes." if line <= len(lines) and "${" in lines[line - 1] else ""


def _expand(value: Any) -> Any:
    """`value` with ${VARIABLES} replaced in every text of it; all of them are set."""
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: os.environ[match[1]], value)
    if isinstance(value, list):
        return [_expand(item) for item in value]
    if isinstance(value, dict):
        return {key: _expand(item) for key, item in value.items()}
    return value
