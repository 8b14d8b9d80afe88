"""What results call a base or a data set."""

from pathlib import Path


def short_name(name: str) -> str:
    """A hub id as it is; of a path its last part, without a file's suffix."""
    path = Path(name).expanduser()
    return path.resolve().stem if path.is_file() else path.resolve().name if path.is_dir() else name
