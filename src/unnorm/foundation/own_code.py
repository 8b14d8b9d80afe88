"""A Python file of the user's own, run as a module."""

import sys
from pathlib import Path
from types import ModuleType

from unnorm.foundation.errors import SettingsError


def run_file(file: str, kind: str, named_by: str) -> ModuleType:
    """The module that `file` makes; it runs once a process. kind: what is in it, as `norms`; named_by: for messages.

    Raises `SettingsError` for a file that is not there, that fails, or whose name another one has that was run.
    """
    path = Path(file).expanduser().resolve()
    name = f"unnorm_{kind}_of_{path.stem}"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path):
        return known
    if not path.is_file():
        raise SettingsError(f"{named_by} names {file}, which is not a file.")
    if known is not None:
        raise SettingsError(f"{named_by} names {file}, and {known.__file__} has the same name. Rename one of them.")
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[name]
        raise SettingsError(f"{path}, named by {named_by}, failed: {type(error).__name__}: {error}.") from error
    return module
