"""Whether something can be written where the user wants it: found out before anything is computed for it."""

import errno
import os
import tempfile
from pathlib import Path

from unnorm.foundation.atomic import behind_link, is_full
from unnorm.foundation.errors import DiskError, SettingsError

_ROOM_FOR_OURS = 12
"""Bytes that the name of what is written for a while, before it takes its place, has more than its own."""


def check_file(path: Path, option: str = "--out") -> None:
    """Refuse a place that no file can be written to: a `SettingsError`, a `DiskError` on a full disk."""
    _check(path, path.parent, "file", option)


def check_folder(path: Path, option: str = "--out") -> None:
    """Refuse a place that no folder can be made at and written into, as `check_file` does."""
    _check(path, path, "folder", option)


def check_new_folder(path: Path, option: str = "--out") -> None:
    """As `check_folder`, for a folder that is written beside `path` and then put there whole (`atomic.folder`)."""
    if is_here(path):
        raise SettingsError(
            f"{option} {path} is the folder that this command runs in, and no other can take its place. Name a new one "
            "in it."
        )
    path = behind_link(path)
    _check(path, path.parent, "folder", option)


def is_here(path: Path) -> bool:
    """Whether `path` is the working directory."""
    return os.path.exists(path) and os.path.samefile(path, os.curdir)


def _check(path: Path, inside: Path, kind: str, option: str) -> None:
    """Make a temporary file or folder where `inside` is, or would be, and leave no trace of it.

    Nothing else is made: another process may be about to make `path`.
    """
    other = "folder" if kind == "file" else "file"
    try:
        if path.is_dir() if kind == "file" else path.exists() and not path.is_dir():
            raise SettingsError(f"{path} is a {other}, and {option} wants a {kind}. Choose another {option}.")
        there = inside
        while not there.exists():
            there = there.parent
        if not there.is_dir():
            raise SettingsError(f"cannot write {path}: {there} is a file. Choose another {option}.")
        os.rmdir(tempfile.mkdtemp(dir=there, prefix=".unnorm."))
        longest = max(
            (len(os.fsencode(part)) for part in path.absolute().relative_to(there.absolute()).parts), default=0
        )
        if longest + _ROOM_FOR_OURS > os.pathconf(there, "PC_NAME_MAX"):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    except OSError as error:
        if is_full(error):
            raise DiskError(f"the disk is full: could not write {path}. Free some space.") from error
        raise SettingsError(f"cannot write {path}: {error.strerror}. Choose another {option}.") from error
