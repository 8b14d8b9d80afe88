"""Which code this is."""

from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from unnorm.foundation.hashing import hash_json


@lru_cache
def code_digest() -> str:
    """Digest of unnorm's own source files: between releases the version alone does not tell what ran."""
    return hash_json(sorted(_sources(files("unnorm"), "")))


def _sources(folder: Any, prefix: str) -> list[tuple[str, str]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _sources(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".py"):
            found.append((prefix + entry.name, entry.read_text(encoding="utf-8")))
    return found


def this_code() -> str:
    """Version and digest, as they are compared between machines."""
    return f"{version('unnorm')} (code {code_digest()})"
