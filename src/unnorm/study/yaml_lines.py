"""YAML whose mistakes can be named by line: a file to plain values, and a place in them back to its line.

Whatever stands in the file, what is wrong with it is a `SettingsError`; nothing in it can take long or much memory.
A file may build on another one (`extends: other.yaml`): mappings are merged, anything else replaces what stood there.
"""

import copy
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from unnorm.foundation.errors import SettingsError
from unnorm.foundation.terminal import shorten
from unnorm.foundation.validation import Location

T = TypeVar("T")
_MOST_BYTES = 1 << 20
_MOST_VALUES = 50_000
"""With every alias written out: eight aliases of eight, one inside the other, are 16 million values in 200 bytes."""
_DEEPEST = 40
_EXTENDS, _MOST_FILES = "extends", 10
_NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"
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


class Yaml(NamedTuple):
    """content: with ${VARIABLES} expanded; tree: for `locate`; text: which needs no other file."""

    content: dict[str, Any]
    tree: Any
    text: str


def read_yaml(text: str, where: str, folder: Path | None = None) -> Yaml:
    """Read a mapping. `where` names it in a `SettingsError`.

    folder: where the file lies, from which the path of one that it extends counts; None where there is no file.
    """
    own = _compose(text, where)
    tree = _extended(own, folder, _MOST_FILES)
    content: dict[str, Any] = _guarded(lambda: _Loader("", where).construct_document(tree), text, where)
    return Yaml(_expand(content), tree, text if tree is own else str(yaml.serialize(tree, allow_unicode=True)))


def _extended(node: Any, folder: Path | None, files: int) -> Any:
    """The tree on top of the one that it extends, if it does. files: how many may still be read."""
    found = next(((key, value) for key, value in node.value if key.value == _EXTENDS), None)
    if found is None:
        return node
    at = f"{found[0].start_mark.name}, line {found[0].start_mark.line + 1}: {_EXTENDS}"
    name = _expand(found[1].value) if isinstance(found[1], yaml.ScalarNode) else ""
    if not name:
        raise SettingsError(f"{at}: give the path of one study file.")
    if folder is None:
        raise SettingsError(f"{at}: this study is no file, so there is no folder to look for {name!r} in.")
    if not files:
        raise SettingsError(f"{at}: {_MOST_FILES} files extend each other already. Does one of them extend itself?")
    path = folder / name
    try:
        text = read_text(path)
    except SettingsError as error:
        raise SettingsError(f"{at}: {error}") from error
    base = _extended(_compose(text, str(path)), path.parent, files - 1)
    node.value = [pair for pair in node.value if pair[0] is not found[0]]
    return _merged(base, node)


def _merged(base: Any, node: Any) -> Any:
    """`node` on top of `base`. A null in it takes out what stood there."""
    if not (isinstance(base, yaml.MappingNode) and isinstance(node, yaml.MappingNode)):
        return node
    own = {key.value: (key, value) for key, value in node.value}
    pairs = [
        (own[key.value][0], _merged(value, own.pop(key.value)[1])) if key.value in own else (key, value)
        for key, value in base.value
    ]
    left = [(key, value) for key, value in [*pairs, *own.values()] if value.tag != _NULL]
    return yaml.MappingNode(base.tag, left, node.start_mark, node.end_mark)


def _compose(text: str, where: str) -> Any:
    """The checked tree of one file, which is a mapping, with what `<<` takes over written out."""
    node = _guarded(lambda: _Loader(text, where).get_single_node(), text, where)
    if node is None:
        raise SettingsError(f"{where}, line 1: there is nothing in it. A study is a mapping {_NEEDED}.")
    _Checked(where).check(node)
    if not isinstance(node, yaml.MappingNode):
        raise SettingsError(f"{where}, line {node.start_mark.line + 1}: a study is a mapping {_NEEDED}.")
    _guarded(lambda: _Loader("", where).flatten(node, set()), text, where)
    return node


def _guarded(make: Callable[[], T], text: str, where: str) -> T:
    """What `make` gives; what YAML has against `text` is a `SettingsError` with its line."""
    try:
        return make()
    except yaml.YAMLError as error:
        line = _line_of(error, text)
        file = getattr(getattr(error, "problem_mark", None), "name", where)
        hint = _quotes(text, line) if file == where else ""
        raise SettingsError(f"{file}, line {line}: not valid YAML: {_problem(error)}.{hint}") from error


_NEEDED = "with name, models, datasets and arms"


def locate(node: Any, location: Location) -> str:
    """File and line of the deepest part of `location` that the YAML has: a key's own line, not its value's."""
    mark = node.start_mark
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                break
            mark, node = found[0].start_mark, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            mark = node.start_mark
        else:
            break
    return f"{mark.name}, line {mark.line + 1}"


class _Loader(yaml.SafeLoader):
    """PyYAML's, with a limit to nesting, and with the line of a value that cannot be what its tag or look says."""

    def __init__(self, text: str, where: str) -> None:
        super().__init__(text)
        self.name = where  # which every mark then has
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=self.peek_event().start_mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def flatten(self, node: Any, seen: set[int]) -> None:
        """Write out what `<<` takes over, in every mapping below `node`."""
        if id(node) in seen or isinstance(node, yaml.ScalarNode):
            return
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            self.flatten_mapping(node)
        for child in node.value:
            self.flatten(child[1] if isinstance(child, tuple) else child, seen)

    def flatten_mapping(self, node: Any) -> None:
        """PyYAML leaves a key that is taken over and set again standing twice, which no file may say."""
        if all(key.tag != _MERGE for key, _ in node.value):
            return
        super().flatten_mapping(node)
        once = {key.value: (key, value) for key, value in node.value}  # the last one is the mapping's own
        # copies, for the same node in two places would be written as an anchor and an alias
        node.value = [
            (copy.copy(key), copy.copy(value) if isinstance(value, yaml.ScalarNode) else value)
            for key, value in once.values()
        ]

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
