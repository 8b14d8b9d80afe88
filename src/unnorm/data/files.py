"""Rows out of files: JSON array, JSONL, Parquet, Arrow, CSV, text, packed or not; a folder of them; or stdin.

What the rows mean is not known here.
"""

import io
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from unnorm.data.folders import READ, ChosenFiles, choose
from unnorm.data.known import KNOWN
from unnorm.data.packed_files import PACKED, magic_suffix, unpack
from unnorm.data.repair import repaired_records
from unnorm.data.repair.damage import Account
from unnorm.data.repair.recognise import what_else
from unnorm.data.text_rows import TEXT, csv_rows, text_rows
from unnorm.foundation.errors import DataError, first_line

STDIN = "-"
_HEAD = 4096  # bytes
_BOM = b"\xef\xbb\xbf"  # some editors and spreadsheets put it before UTF-8
_JSON = (".json", ".jsonl", ".ndjson")
_ARROW_FOLDER = ("dataset_info.json", "dataset_dict.json")


def is_file_name(source: str) -> bool:
    """Whether `source` means a file, a folder or stdin, be it there or not, rather than a hub id or a known name."""
    path = Path(source).expanduser()
    return source == STDIN or path.exists() or path.suffix.lower() in (*READ, TEXT, *PACKED)


def check_there(source: str) -> None:
    """Raise `DataError` unless there is a file or a folder of this name."""
    path = Path(source).expanduser()
    if not (path.is_file() or path.is_dir()):
        raise DataError(f"there is no file {source!r}. {choices()}")


class _Asked(NamedTuple):
    """file: what the user named, for messages; split: the one asked for; chosen: is told which files are read;
    repaired: is told of each file of JSON that is repaired, if they are to be."""

    file: str
    split: str
    chosen: Callable[[ChosenFiles], None]
    repaired: Callable[[str, Account], None] | None


def rows_of(
    source: str,
    split: str = "train",
    chosen: Callable[[ChosenFiles], None] = lambda which: None,
    repaired: Callable[[str, Account], None] | None = None,
) -> Iterator[Any]:
    """The rows in a file, in the files of a folder or zip in order of their names, or in what comes on stdin (`-`).

    split: which one, where there are several: in an Arrow folder, or by the names of files. chosen: is told which files
    of a folder or zip are read, when they are. repaired: if given, JSON is read as `unnorm data repair` would write it,
    and this is told of each such file: its name, and an account that is whole when its rows are read. Raises
    `DataError`.
    """
    path = Path(source).expanduser()
    if path.is_dir() and any((path / name).is_file() for name in _ARROW_FOLDER):
        return _rows_of_arrow_folder(path, split)
    asked = _Asked(source, split, chosen, repaired)
    if path.is_dir():
        return _rows_of_folder(path, asked)
    if source == STDIN:
        content = _stdin()
        _check_head("stdin", content)
        suffix = magic_suffix(content) or _text_suffix("stdin", content)
        _check_split("stdin", suffix, split)
        return _rows(f"stdin{suffix}", content, asked._replace(file="FILE"))
    check_there(source)
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if not suffixes or suffixes[-1] not in (*READ, TEXT, *PACKED):
        raise DataError(f"{path}: cannot read {path.suffix or 'a file without a suffix'!r}. {choices()}")
    _check_split(source, suffixes[-1], split)
    return _rows(str(path), None, asked)


def choices() -> str:
    """What can be given as DATA, for messages."""
    return (
        f"DATA is a known name ({', '.join(KNOWN)}), a hub id (owner/name), - for stdin, a folder, or a file: "
        f"only {', '.join((*READ, TEXT))}, alone or packed as {', '.join(PACKED)}."
    )


@lru_cache(maxsize=1)
def _stdin() -> bytes:
    """All of stdin, which can be read once but may be asked for again."""
    return sys.stdin.buffer.read()


def _text_suffix(name: str, content: bytes) -> str:
    start = content[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if not start:
        raise DataError(f"{name} is empty.")
    if start not in (b"[", b"{"):
        raise DataError(
            f"{name} holds no JSON array, JSONL, Parquet or Arrow, as far as its first bytes tell. "
            "Save it in a file whose suffix says what it is."
        )
    return ".json" if start == b"[" else ".jsonl"


def _rows_of_folder(path: Path, asked: _Asked) -> Iterator[Any]:
    names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
    chosen = choose(names, asked.split, f"the folder {path}")
    asked.chosen(chosen)
    return (
        row for name in chosen.taken for row in _rows(str(path / name), None, asked._replace(file=str(path / name)))
    )


def _check_split(source: str, suffix: str, split: str) -> None:
    if split != "train" and suffix != ".zip":
        raise DataError(f"{source} has no splits, so there is no split {split!r}. Leave it out.")


def _rows_of_arrow_folder(path: Path, split: str) -> Iterator[Any]:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # datasets and pyarrow each raise their own kinds
        raise DataError(f"{path}: not a folder that save_to_disk wrote whole: {first_line(error)}") from error
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise DataError(f"{path} has no split {split!r}. It has: {', '.join(loaded)}.")
        loaded = loaded[split]
    elif split != "train":
        raise DataError(f"{path} has no splits, so there is no split {split!r}. Leave it out.")
    return iter(loaded)


def _rows(name: str, content: bytes | None, asked: _Asked) -> Iterator[Any]:
    """Rows of the file `name`, or of `content` that would stand in a file of that name and came out of `asked.file`."""
    suffix = Path(name).suffix.lower()
    _check_head(name, content)
    if asked.repaired is not None and _may_be_json(name) and suffix in (*_JSON, ".gz"):
        yield from _repaired(name, content, asked.repaired)
        return
    if suffix == ".zip":

        def chosen_of(names: Sequence[str]) -> Sequence[str]:
            chosen = choose(names, asked.split, name, packed=True)  # other files are left alone, as in a folder
            asked.chosen(chosen)
            return chosen.taken

        for inner, unpacked in unpack(name, content, chosen_of):
            yield from _rows(inner, unpacked, asked)
        return
    if suffix in PACKED:
        ((inner, unpacked),) = unpack(name, content)
        if Path(inner).suffix.lower() not in (*READ, TEXT):
            inner += magic_suffix(unpacked) or _text_suffix(name, unpacked)
        yield from _rows(inner, unpacked, asked)
        return
    if content is None and suffix in (".parquet", ".arrow"):
        yield from _columnar(name, name)
        return
    content = Path(name).read_bytes() if content is None else content
    if not content.strip():
        raise DataError(f"{name} is empty.")
    if suffix == ".json":
        yield from _json(name, content, asked.file)
    elif suffix in (".jsonl", ".ndjson"):
        yield from _json_lines(name, content, asked.file)
    elif suffix == ".csv":
        yield from csv_rows(name, content)
    elif suffix == TEXT:
        yield from text_rows(name, content)
    else:
        yield from _columnar(name, io.BytesIO(content))


def _may_be_json(name: str) -> bool:
    """Whether the suffixes of a file, packed or not, leave it open that it is JSON."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes[-2:]]
    inner = suffixes[:-1] if suffixes and suffixes[-1] in PACKED else suffixes
    return not inner or inner[-1] in _JSON or inner[-1] not in (*READ, TEXT)


def _repaired(name: str, content: bytes | None, told: Callable[[str, Account], None]) -> Iterator[Any]:
    begun = partial(told, name)
    if content is None:
        yield from repaired_records(Path(name), begun=begun)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(name).name
        file.write_bytes(content)
        try:
            yield from repaired_records(file, begun=begun)
        except DataError as error:  # it names a file that is gone by the time it is read
            raise DataError(str(error).replace(str(file), name)) from error


def _check_head(name: str, content: bytes | None) -> None:
    """Name what is there in place of data: a Git LFS pointer, or a page of an error."""
    if content is None:
        with open(name, "rb") as file:
            head = file.read(_HEAD)
    else:
        head = content[:_HEAD]
    if known := what_else(head):
        what, advice = known
        raise DataError(f"{name} is {what}. {advice}")


def _json(name: str, content: bytes, file: str) -> Iterator[Any]:
    try:
        rows = orjson.loads(content.removeprefix(_BOM))
    except orjson.JSONDecodeError as error:
        first, _, rest = content.lstrip(b"\xef\xbb\xbf \t\r\n").partition(b"\n")
        if rest and first.startswith(b"{") and first.rstrip().endswith(b"}"):  # JSONL under another name
            yield from _json_lines(name, content, file)
            return
        raise _damaged(name, file, error) from error
    if not isinstance(rows, list):
        raise DataError(f"{name} must hold a JSON array of rows, not {type(rows).__name__}.")
    yield from rows


def _json_lines(name: str, content: bytes, file: str) -> Iterator[Any]:
    for number, line in enumerate(content.removeprefix(_BOM).split(b"\n"), 1):
        if line.strip():
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise _damaged(f"{name}, line {number}", file, error) from error


def _columnar(name: str, file: Any) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        if Path(name).suffix.lower() == ".parquet":
            for batch in pa.parquet.ParquetFile(file, page_checksum_verification=True).iter_batches(1024):
                yield from batch.to_pylist()
            return
        with pa.memory_map(file) if isinstance(file, str) else file as source:
            try:
                stream = iter(pa.ipc.open_stream(source))
            except pa.ArrowInvalid:
                opened = pa.ipc.open_file(source)
                stream = (opened.get_batch(i) for i in range(opened.num_record_batches))
            for batch in stream:
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # the last two: a value Python has not
        raise DataError(f"{name}: damaged: {first_line(error)} Fetch or write it again.") from error


def _damaged(where: str, file: str, error: Exception) -> DataError:
    return DataError(
        f"{where}: not valid JSON ({error}). Give --repair (in a study repair: true) to read what can be read of it. "
        f"Save what can be saved: unnorm data repair {file}"
    )
