"""The code of norms as one piece of Python that needs torch alone: what a package carries in place of unnorm.

Only what a forward pass reaches is taken: the module's class and its bases, the spec's `build`, and whatever functions,
constants and imports these name. A norm of the user's own is taken from the user's file the same way.
"""

import ast
import builtins
import inspect
import sys
import textwrap
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from unnorm.foundation.errors import SettingsError
from unnorm.norms.spec import Norm, NormSpec

_BASES = '''class SettingsError(ValueError):
    pass


class Norm(nn.Module):
    """A norm of `width` channels; `spec` holds its settings."""


def fused():
    return lambda norm, x: None


class Settings:
    """Settings of a norm, as they stand in config.json."""

    def __init__(self, **settings):
        self.__dict__.update(settings)

    def model_dump(self):
        return dict(self.__dict__)
'''
_GIVEN = {"fused", "Norm", "Settings", "SettingsError", "torch", "nn"}
_GIVEN_BY_SETTINGS = {"model_dump", "norm"}


def norm_code(specs: Iterable[type[NormSpec]]) -> str:
    """Python source that defines, for each of `specs`, a class of its name with `build(width)`.

    It expects `torch` and `nn` to be imported above it. Raises `SettingsError` for a norm whose code cannot be taken
    out of its file, saying which name stands in the way.
    """
    writer = _Writer()
    for spec in sorted(set(specs), key=lambda spec: spec.norm):
        writer.add_spec(spec)
    parts = [*sorted(writer.imports), *([""] if writer.imports else []), _BASES.rstrip()]
    return "\n\n\n".join(["\n".join(parts), *writer.pieces]) + "\n"


class _Writer:
    """Collects pieces of source in an order in which each names only what stands above it."""

    def __init__(self) -> None:
        self.imports: set[str] = set()
        self.pieces: list[str] = []
        self._origin: dict[str, str] = {}

    def add_spec(self, spec: type[NormSpec]) -> None:
        texts = [self._member("build", spec)]
        done = {"build", *spec.model_fields, *_GIVEN_BY_SETTINGS}
        # Whatever attribute the code so far names, if the spec has it, belongs to that code.
        while names := sorted(n for n in _attributes("\n".join([*self.pieces, *texts])) - done if _has(spec, n)):
            done.update(names)
            texts += [self._member(name, spec) for name in names]
        self._claim(spec.__name__, spec.__module__)
        body = textwrap.indent("\n\n".join(texts), "    ")
        self.pieces.append(f"class {spec.__name__}(Settings):\n{body}")

    def _member(self, name: str, spec: type[NormSpec]) -> str:
        owner = next(base for base in spec.__mro__ if name in vars(base))
        value = vars(owner)[name]
        function = _function_of(value)
        if function is None:
            if isinstance(value, bool | int | float | str | tuple):
                return f"{name} = {value!r}"
            raise _cannot(spec.__name__, name, "is no plain value")
        text = _source(function, spec.__name__)
        if "super()" in text:
            raise _cannot(spec.__name__, name, "calls super()")
        self._add_names(text, sys.modules[owner.__module__], spec.__name__)
        return text

    def _add_object(self, value: Any, name: str, asked_by: str) -> None:
        """A class or a function of a module of ours or of the user's, with everything it names."""
        if value is Norm:
            return
        if self._claim(name, value.__module__):
            return
        text = _source(value, asked_by)
        self._add_names(text, sys.modules[value.__module__], name)
        self.pieces.append(text)

    def _add_names(self, text: str, module: ModuleType, asked_by: str) -> None:
        for name in sorted(_globals(text)):
            if name in _GIVEN or hasattr(builtins, name) or name == asked_by:
                continue
            if not hasattr(module, name):
                continue  # a local name
            statement = _statement(module, name)
            value = getattr(module, name)
            if isinstance(statement, ast.Import | ast.ImportFrom):
                if _is_ours(statement):
                    self._add_object(value, name, asked_by)
                else:
                    self._add_import(statement, name)
            elif inspect.isclass(value) or inspect.isfunction(value):
                self._add_object(value, name, asked_by)
            elif isinstance(statement, ast.Assign | ast.AnnAssign):
                if not self._claim(name, module.__name__):
                    line = ast.unparse(statement)
                    self._add_names(line, module, name)
                    self.pieces.append(line)
            else:
                raise _cannot(asked_by, name, f"is not defined at the top of {module.__name__}")

    def _add_import(self, statement: ast.Import | ast.ImportFrom, name: str) -> None:
        alias = next(a for a in statement.names if (a.asname or a.name.split(".")[0]) == name)
        one = type(statement)(**{**dict(ast.iter_fields(statement)), "names": [alias]})
        self.imports.add(ast.unparse(one))

    def _claim(self, name: str, module: str) -> bool:
        """Whether `name` was taken from `module` already; two things of one name are an error."""
        if name in self._origin and self._origin[name] != module:
            raise _cannot(name, name, f"is another thing in {self._origin[name]} and in {module}")
        known = name in self._origin
        self._origin[name] = module
        return known


def _has(spec: type[NormSpec], name: str) -> bool:
    own = [base for base in spec.__mro__ if issubclass(base, NormSpec) and base is not NormSpec]
    return any(name in vars(base) for base in own)


def _function_of(value: Any) -> Any:
    if isinstance(value, staticmethod | classmethod):
        return value.__func__
    if isinstance(value, property):
        return value.fget
    return value if inspect.isfunction(value) else None


def _source(value: Any, asked_by: str) -> str:
    try:
        return textwrap.dedent(inspect.getsource(value)).rstrip()
    except (OSError, TypeError) as error:
        raise _cannot(asked_by, getattr(value, "__name__", str(value)), "has no source file") from error


def _globals(text: str) -> set[str]:
    """Names that `text` reads, but for those in annotations, which are never evaluated."""
    return {node.id for node in _walk(ast.parse(text)) if isinstance(node, ast.Name)}


def _attributes(text: str) -> set[str]:
    return {node.attr for node in _walk(ast.parse(text)) if isinstance(node, ast.Attribute)}


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _walk(child)


def _statement(module: ModuleType, name: str) -> ast.stmt | None:
    """The statement at the top of `module` that binds `name`."""
    for statement in ast.parse(inspect.getsource(module)).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            if any((alias.asname or alias.name.split(".")[0]) == name for alias in statement.names):
                return statement
        elif isinstance(statement, ast.Assign):
            if any(isinstance(target, ast.Name) and target.id == name for target in statement.targets):
                return statement
        elif isinstance(statement, ast.AnnAssign):
            if isinstance(statement.target, ast.Name) and statement.target.id == name:
                return statement
        elif getattr(statement, "name", None) == name:
            return statement
    return None


def _is_ours(statement: ast.Import | ast.ImportFrom) -> bool:
    if isinstance(statement, ast.ImportFrom):
        return bool(statement.level) or (statement.module or "").split(".")[0] == "unnorm"
    return any(alias.name.split(".")[0] == "unnorm" for alias in statement.names)


def _cannot(norm: str, name: str, why: str) -> SettingsError:
    return SettingsError(
        f"the code of the norm {norm!r} cannot be put into a package: {name!r} {why}. "
        "Keep what its module needs at the top of the file that defines it."
    )
