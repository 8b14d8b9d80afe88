"""Trackers that a run may report to, through transformers. They change no result, so no hash has any part of it."""

import importlib.util
from collections.abc import Sequence

from unnorm.foundation.errors import SettingsError

_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}


def check_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once. One that is not known or not installed is a `SettingsError`."""
    for name in names:
        if name not in _PACKAGES:
            raise SettingsError(f"there is no tracker {name!r}. Known: {', '.join(_PACKAGES)}.")
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise SettingsError(f"the tracker {name} is not installed: pip install {_PACKAGES[name]}")
    return tuple(dict.fromkeys(names))
