"""Files that are packed: .gz, .zst, .xz and .zip, and how their content is told by its first bytes."""

import gzip
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO

from unnorm.foundation.errors import DataError

PACKED = (".gz", ".zst", ".xz", ".zip")

_MAGIC = (
    (b"\x1f\x8b", ".gz"),
    (b"\x28\xb5\x2f\xfd", ".zst"),
    (b"\xfd7zXZ\x00", ".xz"),
    (b"PK\x03\x04", ".zip"),
    (b"PAR1", ".parquet"),
    (b"ARROW1", ".arrow"),
    (b"\xff\xff\xff\xff", ".arrow"),  # the streaming form, which `datasets` writes
)


def magic_suffix(content: bytes) -> str:
    """The suffix that a file with this content would have, by its first bytes; empty for plain text."""
    return next((suffix for magic, suffix in _MAGIC if content.startswith(magic)), "")


def unpack(
    name: str, content: bytes | None = None, choose: Callable[[Sequence[str]], Sequence[str]] = sorted
) -> Iterator[tuple[str, bytes]]:
    """(name without the packing's suffix, unpacked content) of each file in the packed file `name`, or in `content`.

    choose: of the names in a zip, those to unpack, in this order. Raises `DataError` for a file that is damaged, whose
    checksum fails, or that wants a password.
    """
    path = Path(name)
    try:
        with open(path, "rb") if content is None else BytesIO(content) as file:
            if path.suffix.lower() == ".zip":
                yield from _unzip(name, file, choose)
            else:
                yield name[: -len(path.suffix)], _decompress(path.suffix.lower(), file)
    except (
        OSError,
        EOFError,
        lzma.LZMAError,
        zlib.error,
        zipfile.BadZipFile,
        RuntimeError,
        NotImplementedError,
    ) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        repair = f", or save what can be saved: unnorm data repair {name}" if path.suffix.lower() == ".gz" else ""
        raise DataError(
            f"{name}: cannot be unpacked ({error}). Fetch it again, or unpack it yourself{repair}."
        ) from error


def _decompress(suffix: str, file: IO[bytes]) -> bytes:
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=file).read()
    if suffix == ".xz":
        return lzma.LZMAFile(file).read()
    import pyarrow as pa

    return bytes(pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd").read())


def _unzip(name: str, file: IO[bytes], choose: Callable[[Sequence[str]], Sequence[str]]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(file) as archive:
        for entry in choose([entry.filename for entry in archive.infolist() if not entry.is_dir()]):
            yield f"{name}/{entry}", archive.read(entry)
