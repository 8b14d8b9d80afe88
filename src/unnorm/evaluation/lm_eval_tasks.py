"""Which tasks lm-evaluation-harness has, its own and those of a user's folder, and their data (extra `lm-eval`)."""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from unnorm.foundation.errors import DataError, SettingsError, first_line
from unnorm.foundation.hashing import digest_file, hash_json
from unnorm.foundation.nearest import did_you_mean
from unnorm.foundation.quiet import errors_alone

MISSING = "tasks need lm-evaluation-harness, which is not installed: pip install 'unnorm[lm-eval]'."
_MOST_NAMED = 20


def harness_version() -> str:
    """The installed version. A `SettingsError` without one."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        import lm_eval  # noqa: F401  (cheap: it loads its parts when they are asked for)

        return version("lm_eval")
    except (ImportError, PackageNotFoundError) as error:
        raise SettingsError(MISSING) from error


def load_tasks(names: Sequence[str | dict[str, Any]], folder: Path | None = None) -> dict[str, Any]:
    """Name -> task of the harness with its data, for every task that `names` stand for.

    names: of tasks, or of groups and tags, which stand for several tasks; or a task's settings as a mapping. folder:
    where task files (.yaml) lie that come before the harness's own; relative `data_files` in them begin there. A task
    file may name Python functions of its own, which run.

    Raises `SettingsError` for a name that there is not, and where the harness is not installed; `DataError` for a task
    whose data cannot be had.
    """
    harness_version()
    found: dict[str, Any] = {}
    with quiet_harness():
        for name in names:
            manager = _manager_for(name, folder)
            try:
                found |= manager.load([name])["tasks"]
            except Exception as error:  # data that cannot be had, files that contradict themselves: each its own kind
                called = name if isinstance(name, str) else name.get("task")
                raise DataError(
                    f"the task {called!r} cannot be loaded: {first_line(error)} Without a network, give a folder of "
                    "tasks whose data lie beside them."
                ) from error
    return found


def digest_folder(folder: Path) -> str:
    """Hex digest of the files in a folder of tasks: their names and what they hold."""
    _check_folder(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return hash_json({path.relative_to(folder).as_posix(): digest_file(path) for path in files})


def quiet_harness() -> AbstractContextManager[None]:
    """Silence the harness's remarks about how it was called, which no user of ours can act on."""
    return errors_alone("lm_eval")


class _Kept(NamedTuple):
    """An index of tasks, and the folder of files that it reads when it loads them; gone when this is."""

    manager: Any
    files: "tempfile.TemporaryDirectory[str] | None"


def _manager_for(name: str | dict[str, Any], folder: Path | None) -> Any:
    """An index that has the name. The harness's own takes long to read, so only if it is needed."""
    own = partial(_index, None, "", own=True)
    if folder is None:
        if isinstance(name, str) and name not in own().manager.task_index:
            raise SettingsError(_no_such_task(name, own().manager.all_tasks))
        return own().manager
    digest = digest_folder(folder)
    alone = _index(folder, digest, own=False).manager
    if isinstance(name, dict) or name in alone.all_subtasks:
        return alone
    if name not in alone.task_index:
        if name in own().manager.all_subtasks:
            return own().manager
        if name not in own().manager.task_index:
            raise SettingsError(_no_such_task(name, own().manager.all_tasks, folder, alone.all_tasks))
    return _index(folder, digest, own=True).manager  # a group or tag: its tasks may be of either


@cache
def _index(folder: Path | None, digest: str, *, own: bool) -> _Kept:
    """digest: of what is in the folder, so that an index is made again where that has changed."""
    from lm_eval.tasks import TaskManager

    if folder is None:
        return _Kept(TaskManager(include_defaults=own), None)
    resolved = folder.resolve()
    files = tempfile.TemporaryDirectory(prefix="unnorm-tasks-")
    for number, (name, entry) in enumerate(
        TaskManager(include_path=str(resolved), include_defaults=False).task_index.items()
    ):
        options = (entry.cfg or {}).get("dataset_kwargs")
        if not isinstance(options, Mapping) or "data_files" not in options:
            continue
        task = {
            "include": str(entry.yaml_path),
            "task": name,
            "dataset_kwargs": {**options, "data_files": _from(resolved, options["data_files"])},
        }
        (Path(files.name) / f"{number}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    return _Kept(TaskManager(include_path=[str(resolved), files.name], include_defaults=own), files)


def _from(folder: Path, files: Any) -> Any:
    """`data_files` with every relative path beginning at `folder`."""
    if isinstance(files, str):
        return files if "://" in files else str(folder / files)
    if isinstance(files, Mapping):
        return {split: _from(folder, each) for split, each in files.items()}
    return [_from(folder, each) for each in files]


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise SettingsError(f"there is no folder {str(folder)!r}. Give one that holds task files (.yaml).")


def _no_such_task(name: str, own: Sequence[str], folder: Path | None = None, beside: Sequence[str] = ()) -> str:
    """own: the harness's names; beside: those in the folder, among which a mistyped one is looked for first."""
    where = f", nor has the folder {str(folder)!r}" if folder else ""
    hint = did_you_mean(name, beside) or did_you_mean(name, own)
    if folder and not hint:
        hint = f" The folder has: {', '.join(beside[:_MOST_NAMED]) or 'no task file that can be read'}."
    return f"the harness has no task {name!r}{where}.{hint or ' lm_eval ls tasks lists them.'}"
