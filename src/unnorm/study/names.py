"""What results call a base or a data set."""

import re
from pathlib import Path

_HASH = re.compile(r"[-_.@]?\b[0-9a-f]{12,64}\b")


def short_name(name: str) -> str:
    """A hub id as it is; of a path its last part, without a file's suffix."""
    path = Path(name).expanduser()
    return path.resolve().stem if path.is_file() else path.resolve().name if path.is_dir() else name


def without_hash(name: str) -> str:
    """The name without the hash that it may end in, which says nothing to people."""
    return _HASH.sub("", name) or name
