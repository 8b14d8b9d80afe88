"""Engines: where a study's tasks are done. Each is one module here, `NAME_engine`, behind the interface in
`interface.py`; nothing else knows them by name.

A module of an engine has
    OPTIONS            the names of the `Options` that are its own
    check(options, devices)   an `UnnormError` where they, what is installed, or this machine cannot do; devices: the
                       most that a task wants
    make(setting)      the engine, ready to be submitted to, or an `UnnormError`
    is_gone(owner)     whether the task that made a claim is surely gone, as far as it can tell from here
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from unnorm.foundation import processes
from unnorm.foundation.errors import SettingsError
from unnorm.study.engines.interface import Engine, Options, Setting

NAMES = ("local", "ray", "slurm")


def check(options: Options, devices: int = 1) -> None:
    """A `SettingsError` unless there is such an engine, it can be used here, and the options are its own."""
    if options.engine not in NAMES:
        raise SettingsError(f"there is no engine {options.engine!r}. Known engines: {', '.join(NAMES)}.")
    engine = _module(options.engine)
    for option in Options._fields[1:]:
        if getattr(options, option) != Options._field_defaults[option] and option not in engine.OPTIONS:
            owner = next(name for name in NAMES if option in _module(name).OPTIONS)
            raise SettingsError(f"--{option.replace('_', '-')} belongs to --engine {owner}.")
    engine.check(options, devices)


def make(setting: Setting) -> Engine:
    """The engine that is asked for; `check` comes first."""
    return _module(setting.options.engine).make(setting)  # type: ignore[no-any-return]


def is_gone(owner: Mapping[str, Any]) -> bool:
    """Whether the owner of a claim, as its entry tells, is surely gone: its process, or its engine's task."""
    engine = owner.get("engine")
    return processes.is_gone(owner) or (engine in NAMES and bool(_module(engine).is_gone(owner)))


def _module(name: str) -> Any:
    return import_module(f"unnorm.study.engines.{name}_engine")
