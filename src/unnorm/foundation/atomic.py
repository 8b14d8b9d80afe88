"""Atomic writes: a reader, or a run that comes after a kill, sees the old content or the new, never a part."""

import errno
import glob
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from unnorm.foundation.errors import DataError, DiskError


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` while writing to `path` into a `DiskError` that says where and what to do."""
    try:
        yield
    except Exception as error:
        if is_full(error):
            raise DiskError(
                f"the disk is full: could not write {path}. Free some space and run the same command again; "
                "what was finished is intact."
            ) from error
        if isinstance(error, OSError) and _is_forbidden(error, path):
            raise DiskError(
                f"cannot write {path}: {error.strerror}. Choose another --out, or mend the rights."
            ) from error
        raise


def is_full(error: Exception) -> bool:
    """Whether the disk is full, or the user's share of it.

    safetensors and tokenizers tell what the system said in words of their own, as no `OSError`.
    """
    full = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError):
        return error.errno in full
    return any(f"(os error {number})" in str(error) for number in full)


def _is_forbidden(error: OSError, path: Path) -> bool:
    """Whether nothing can be written at `path`, by its rights or by what it is."""
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return True
    place = Path(os.path.abspath(path))
    about = Path(os.path.abspath(os.fsdecode(error.filename))) if isinstance(error.filename, str | bytes) else None
    impossible = (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG)
    ours = about is not None and (about in (place, *place.parents) or about.parent == place.parent)
    return ours and error.errno in impossible


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one rename, flushed to disk before it."""
    with files(Path(path)) as [file]:
        file.write(content)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically. NaN is written as null, as JSON has no NaN."""
    write_bytes(path, orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY) + b"\n")


def read_json(path: Path) -> Any:
    """Read one JSON file of ours; a damaged one is a `DataError` that names it."""
    try:
        return orjson.loads(Path(path).read_bytes())
    except orjson.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON ({error}). Delete the folder it stands in and run again.") from error


@contextmanager
def folder(path: Path) -> Iterator[Path]:
    """A fresh folder beside `path` to write into; on success it takes the place of `path` whole, on failure it goes.

    Replacing a folder takes two renames, so the old one is moved aside first and deleted last: a kill in between
    leaves it whole beside the place, under the name `.NAME.old`, and `restore_folder` brings it back. Where `path` is a
    link, all this is done where it leads.
    """
    path = behind_link(Path(path))
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_after_kills(path)
        fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path, os.getpid())))
        aside = path.parent / f".{path.name}.old"
        try:
            yield fresh
            _sync(fresh)
            fresh.chmod(0o755)
            if path.exists():
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(path, aside)
            os.replace(fresh, path)
            shutil.rmtree(aside, ignore_errors=True)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            restore_folder(path)
            raise


def behind_link(path: Path) -> Path:
    """`path`, or what it is a link to: a folder can be renamed to the latter, and never takes the place of a link."""
    return path.resolve() if os.path.islink(path) else path


def _prefix(path: Path, process: int | str) -> str:
    return f".{path.name}.{socket.gethostname()}.{process}."


def _clear_after_kills(path: Path) -> None:
    """Delete what processes of this machine that are gone had begun to write for `path`."""
    import psutil

    for left in path.parent.glob(glob.escape(_prefix(path, "")[:-1]) + "*.*"):
        process = left.name.removeprefix(_prefix(path, "")[:-1]).split(".")[0]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            shutil.rmtree(left, ignore_errors=True)


def restore_folder(path: Path) -> None:
    """Bring back what `folder` had moved aside, if it was interrupted before the new folder stood in its place."""
    path = behind_link(Path(path))
    aside = path.parent / f".{path.name}.old"
    if aside.exists() and not path.exists():
        os.replace(aside, path)


def _sync(root: Path) -> None:
    for file in root.rglob("*"):
        if file.is_file():
            file.chmod(0o644)
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())


@contextmanager
def files(*paths: Path) -> Iterator[list[BinaryIO]]:
    """Fresh files to write into, one for each of `paths`; on success they take their places, the last one last.

    On failure all of them go, and what stood at `paths` stays.
    """
    fresh: list[Path] = []
    handles: list[BinaryIO] = []
    with disk_errors(paths[-1]):
        try:
            for path in paths:
                path.parent.mkdir(parents=True, exist_ok=True)
                handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
                fresh.append(Path(name))
                handles.append(os.fdopen(handle, "wb", buffering=1 << 20))
            yield handles
            for file in handles:
                file.flush()
                os.fsync(file.fileno())
                file.close()
            for written, path in zip(fresh, paths, strict=True):
                written.chmod(0o644)
                os.replace(written, path)
        except BaseException:
            for file in handles:
                with suppress(OSError):
                    file.close()
            for written in fresh:
                written.unlink(missing_ok=True)
            raise
