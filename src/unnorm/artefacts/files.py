"""The files of an artefact: an account of them is kept in its manifest, and damage is found before anything is read."""

from pathlib import Path

from unnorm.artefacts.manifest import NAME, File
from unnorm.artefacts.weights import SHOW_FROM
from unnorm.foundation import lfs
from unnorm.foundation.errors import ArtefactError
from unnorm.foundation.hashing import digest_file
from unnorm.foundation.progress import Bar


def inventory(folder: Path) -> dict[str, File]:
    """Relative name -> size and digest of every file in `folder` but the manifest."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / NAME)
    return {path.relative_to(folder).as_posix(): account(path) for path in found}


def account(path: Path) -> File:
    """Size and digest of one file."""
    return File(bytes=path.stat().st_size, digest=digest_file(path))


def check_files(folder: Path, files: dict[str, File]) -> None:
    """Compare the files in `folder` with their account; the first that is missing, cut or changed is an error."""
    for name, file in files.items():
        path = folder / name
        if path.is_symlink() and not _is_cached(path):
            raise ArtefactError(f"{path} is a link, which no artefact has. Copy the file itself there.")
        if not path.is_file():
            raise ArtefactError(f"{folder} is not whole: {name} is missing. Save the model again.")
        if lfs.is_pointer(path) and path.stat().st_size != file.bytes:
            raise ArtefactError(f"{path} is a Git LFS pointer, not the file itself. {lfs.REMEDY}")
        size = path.stat().st_size
        if size != file.bytes:
            what = "cut short" if size < file.bytes else "longer than it was"
            raise ArtefactError(
                f"{path} is {what}: {size:,} bytes, {file.bytes:,} were saved. Copy it again, or save the model again."
            )
    total = sum(file.bytes for file in files.values())
    with Bar("checking files (bytes)", total, quiet=total < SHOW_FROM) as bar:
        for name, file in files.items():
            if digest_file(folder / name) != file.digest:
                raise ArtefactError(
                    f"{folder / name} was changed since it was saved: its checksum differs. "
                    "Copy it again, or save the model again."
                )
            bar.advance(file.bytes)


def _is_cached(path: Path) -> bool:
    """Whether a link is one of the hub's cache: snapshots/REVISION/FILE -> ../../blobs/DIGEST."""
    return path.resolve().parent.name == "blobs" and "snapshots" in path.parts
