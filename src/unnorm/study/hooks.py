"""What whoever has a cell or a start trained wants to be asked or told; and what a task asks its lease."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unnorm.foundation import atomic
from unnorm.foundation.errors import SettingsError
from unnorm.foundation.progress import Say
from unnorm.study import events
from unnorm.study.lease import Lease


class Hooks(NamedTuple):
    """check: raises if the run may not go on; asked before anything is written. begun: everything is prepared, and
    training begins; told the run's name. saved: a checkpoint of this step was written. retried: a second start, with so
    many rows a forward. say: is told every stage; warn: what to look at before its result is believed. report_to:
    transformers' names of trackers."""

    check: Callable[[], None] = lambda: None
    begun: Callable[[str], None] = lambda run: None
    saved: Callable[[int], None] = lambda step: None
    retried: Callable[[int], None] = lambda rows: None
    say: Say = lambda text: None
    warn: Say = lambda text: None
    report_to: tuple[str, ...] = ()
    quiet: bool = False

    def of_lease(self, lease: Lease, name: str, tell: Say, file: Path, about: dict[str, Any]) -> "Hooks":
        """The same of a task that works under `lease`, whose events it records; `about` goes into `file` when training
        begins. tell: hears what goes wrong with the task `name`."""

        def begun(run: str) -> None:
            lease.check()
            atomic.write_json(file, about)

        def retried(rows: int) -> None:
            events.record(lease, "retried", failure="out_of_memory", rows_per_forward=rows)
            tell(f"{name}: out of memory; once more with {rows} rows a forward and as many tokens a step")

        def saved(step: int) -> None:
            events.record(lease, "checkpoint", step=step)

        return self._replace(check=lease.check, begun=begun, saved=saved, retried=retried)


_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}


def check_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once. One that is not known or not installed is a `SettingsError`."""
    for name in names:
        if name not in _PACKAGES:
            raise SettingsError(f"there is no tracker {name!r}. Known: {', '.join(_PACKAGES)}.")
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise SettingsError(f"the tracker {name} is not installed: pip install {_PACKAGES[name]}")
    return tuple(dict.fromkeys(names))
