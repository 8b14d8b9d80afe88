"""What stands in a data file in place of rows: pointers, pages of errors, lists."""

import gzip
import io
import json
import sys
import zipfile

import pytest

from unnorm.data import files
from unnorm.data.files import READ, rows_of
from unnorm.data.packed_files import PACKED
from unnorm.data.settings import DataSettings
from unnorm.data.sources import read
from unnorm.foundation.errors import DataError

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 22774255\n"
)
PAGE = b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n"


@pytest.mark.parametrize("suffix", [*READ, *PACKED, *(f".jsonl{packed}" for packed in PACKED)])
@pytest.mark.parametrize(("content", "message"), [(POINTER, "a Git LFS pointer"), (PAGE, "an HTML or XML page")])
def test_what_was_not_fetched_is_named(tmp_path, suffix, content, message):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"rows{suffix} is {message}.*[Dd]ownload (it|them) again"):
        list(rows_of(str(path)))
    with pytest.raises(DataError, match=rf"rows{suffix} is {message}"):
        list(rows_of(str(tmp_path)))


def test_a_pointer_within_gzip_or_zip_or_on_stdin(tmp_path, monkeypatch):
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(POINTER))
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        archive.writestr("rows.jsonl", POINTER)
    for name in ("rows.csv.gz", "rows.zip"):
        with pytest.raises(DataError, match="a Git LFS pointer"):
            list(rows_of(str(tmp_path / name)))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(POINTER)))
    files._stdin.cache_clear()
    with pytest.raises(DataError, match="stdin is a Git LFS pointer"):
        rows_of("-")
    files._stdin.cache_clear()


CHAT = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]


@pytest.mark.parametrize("form", [None, "sharegpt"])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "rows.json",
            json.dumps([CHAT, CHAT]),
            r'lists of objects with from, value, .*\{"conversations": \[\.\.\.\]\}',
        ),
        ("rows.jsonl", json.dumps(CHAT) + "\n" + json.dumps(CHAT), "lists of objects with from, value"),
        (
            "rows.jsonl",
            json.dumps([{"prompt": "a", "response": "b"}] * 3),
            r"lists of objects with .*save it as \.json",
        ),
        ("rows.jsonl", '["a", "b"]\n["c", "d"]', 'lists of str, and a row is an object.*"prompt"'),
        ("rows.jsonl", "[1, 2]\n", "lists of int"),
        ("rows.json", "[[], []]", "empty lists"),
        ("rows.json", "[[], [[1]]]", "lists of list"),
    ],
)
def test_rows_that_are_lists_are_said_to_be(tmp_path, name, content, message, form):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=rf"the rows of .*{name} are {message}"):
        read(DataSettings(source=str(tmp_path / name), format=form), quiet=True)


def test_a_list_among_rows_is_dropped_and_counted(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ({"conversations": CHAT}, CHAT)))
    reading = read(DataSettings(source=str(path)), quiet=True)
    assert len(reading.conversations) == 1
    assert reading.dropped == {"not an object": 1}
