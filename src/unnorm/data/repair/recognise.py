"""Files that are no damaged JSON but something else altogether: recognised by their first bytes, and named."""

import re
from pathlib import Path

from unnorm.foundation import lfs
from unnorm.foundation.errors import DataError

_MAGIC = {
    b"PAR1": ("a Parquet file", "Read it with pyarrow or datasets."),
    b"ARROW1": ("an Arrow file", "Read it with pyarrow or datasets."),
    b"PK\x03\x04": ("a zip archive", "Unpack it first."),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "Decompress it first (zstd -d)."),
    b"\xfd7zXZ\x00": ("compressed with xz", "Decompress it first (xz -d)."),
    b"BZh": ("compressed with bzip2", "Decompress it first (bzip2 -d)."),
}
_HTML = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|body|\?xml)\b", re.IGNORECASE)


def check_place(path: Path) -> None:
    """Raise `DataError` where there is no file, or a folder stands in its place."""
    if path.is_dir():
        if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
            raise DataError(
                f"{path} is a folder made by save_to_disk of datasets, not JSON. Load it with datasets.load_from_disk."
            )
        raise DataError(f"{path} is a folder. Name one file in it.")
    if not path.is_file():
        raise DataError(f"there is no file {str(path)!r}.")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty.")


def check_head(path: Path, head: bytes) -> None:
    """Raise `DataError` if `head`, the first bytes of the text of `path`, are of something known that is no JSON."""
    for magic, (what, advice) in _MAGIC.items():
        if head.startswith(magic):
            raise DataError(f"{path} is {what}, not JSON. {advice}")
    if known := what_else(head):
        what, advice = known
        raise DataError(f"{path} is {what}, not JSON. {advice}")


def what_else(head: bytes) -> tuple[str, str] | None:
    """What stands in place of data that was not fetched, by its first bytes, and what to do; None if it may be data."""
    if head.startswith(lfs.MARK):
        return "a Git LFS pointer, which stands in the place of the data", lfs.REMEDY
    if _HTML.match(head):
        return "an HTML or XML page, most likely an error page saved in place of the data", "Download it again."
    return None
