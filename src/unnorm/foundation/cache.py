"""Where unnorm keeps what it can make again: `UNNORM_CACHE`, else the user's cache folder."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder; it may not exist yet."""
    if "UNNORM_CACHE" in os.environ:
        return Path(os.environ["UNNORM_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "unnorm"
