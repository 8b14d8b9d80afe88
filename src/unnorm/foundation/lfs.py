"""Git LFS pointers: small text files that stand in the place of the files themselves until those are fetched."""

from collections.abc import Iterable
from pathlib import Path

MARK = b"version https://git-lfs"
"""How every pointer begins."""
REMEDY = "Fetch the files themselves (git lfs pull, or download them again)."


def is_pointer(path: Path) -> bool:
    """Whether the file `path` is a pointer; one that cannot be read is none."""
    try:
        with path.open("rb") as file:
            return file.read(len(MARK)) == MARK
    except OSError:
        return False


def pointers(folder: Path, names: Iterable[str] = ("*",)) -> list[str]:
    """Names of the files in `folder` itself that match one of `names` (globs) and are pointers, in order."""
    return sorted({path.name for pattern in names for path in folder.glob(pattern) if is_pointer(path)})
