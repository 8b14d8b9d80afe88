import contextlib
import gzip
import io
import json
import lzma
import sys
import zipfile

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unnorm.data import files
from unnorm.data.files import is_file_name, rows_of
from unnorm.foundation.errors import DataError

ROWS = [{"prompt": f"say {i}, “twice”\n", "response": f'{i} "{i}"'} for i in range(7)]


def content_of(suffix: str, rows=ROWS) -> bytes:
    if suffix == ".json":
        return json.dumps(rows).encode()
    if suffix in (".jsonl", ".ndjson"):
        return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    table, out = pa.Table.from_pylist(rows), io.BytesIO()
    if suffix == ".parquet":
        pa.parquet.write_table(table, out)
    elif suffix == ".csv":
        pa.csv.write_csv(table, out)
    else:
        with pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
    return out.getvalue()


def packed(suffix: str, name: str, content: bytes) -> bytes:
    if suffix == ".gz":
        return gzip.compress(content)
    if suffix == ".xz":
        return lzma.compress(content)
    if suffix == ".zst":
        return pa.compress(content, codec="zstd", asbytes=True)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, content)
        archive.writestr("README.md", b"not data")
        archive.writestr("__MACOSX/._" + name, b"\x00")
    return out.getvalue()


@pytest.mark.parametrize("suffix", files.READ)
@pytest.mark.parametrize("packing", ["", *files.PACKED])
def test_every_kind_of_file_packed_or_not(tmp_path, suffix, packing):
    name = f"rows{suffix}"
    content = content_of(suffix)
    path = tmp_path / (name + packing)
    path.write_bytes(packed(packing, name, content) if packing else content)
    assert list(rows_of(str(path))) == ROWS


@pytest.mark.parametrize("packing", ["", ".gz", ".zst", ".xz", ".zip"])
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet", ".arrow"])
def test_stdin_is_known_by_its_first_bytes_and_may_be_asked_for_again(monkeypatch, suffix, packing):
    content = content_of(suffix)
    content = packed(packing, f"rows{suffix}", content) if packing else content
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    files._stdin.cache_clear()
    assert is_file_name("-")
    assert list(rows_of("-")) == list(rows_of("-")) == ROWS
    files._stdin.cache_clear()


@pytest.mark.parametrize(("content", "message"), [(b"", "stdin is empty"), (b"a,b\n1,2\n", "stdin holds no JSON")])
def test_stdin_that_is_not_understood(monkeypatch, content, message):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    files._stdin.cache_clear()
    with pytest.raises(DataError, match=message):
        list(rows_of("-"))
    files._stdin.cache_clear()


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.jsonl").write_bytes(content_of(".jsonl", ROWS[3:]))
    (tmp_path / "1.json.gz").write_bytes(gzip.compress(content_of(".json", ROWS[:3])))
    (tmp_path / "README.md").write_text("not data")
    assert list(rows_of(str(tmp_path))) == ROWS
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no data"):
        rows_of(str(tmp_path / "empty"))


def test_a_zip_of_packed_files(tmp_path):
    path, chosen = tmp_path / "rows.zip", []
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("1.jsonl.gz", gzip.compress(content_of(".jsonl", ROWS[:3])))
        archive.writestr("2.jsonl", content_of(".jsonl", ROWS[3:]))
        archive.writestr("logs.tar.gz", b"not data")
    assert list(rows_of(str(path), chosen=chosen.append)) == ROWS
    assert list(chosen[0].taken) == ["1.jsonl.gz", "2.jsonl"]


def test_an_arrow_folder_and_its_splits(tmp_path):
    import datasets

    one = datasets.Dataset.from_list(ROWS)
    one.save_to_disk(tmp_path / "one")
    assert list(rows_of(str(tmp_path / "one"))) == ROWS
    datasets.DatasetDict({"train": one, "test": one.select([6])}).save_to_disk(tmp_path / "two")
    assert list(rows_of(str(tmp_path / "two"), split="test")) == ROWS[6:]
    with pytest.raises(DataError, match=r"no split 'dev'\. It has: train, test"):
        rows_of(str(tmp_path / "two"), split="dev")
    (tmp_path / "one" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(DataError, match="save_to_disk"):
        rows_of(str(tmp_path / "one"))


def test_a_split_of_what_has_none(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(content_of(".jsonl"))
    with pytest.raises(DataError, match="has no splits"):
        rows_of(str(tmp_path / "rows.jsonl"), split="test")


def test_json_lines_in_a_json_file_and_byte_order_marks(tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes(b"\xef\xbb\xbf" + content_of(".jsonl"))
    assert list(rows_of(str(path))) == ROWS
    path.write_bytes(b"\xef\xbb\xbf" + content_of(".json"))
    assert list(rows_of(str(path))) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b'{"a": 1}\n{"a": \n', "rows.jsonl, line 2: not valid JSON.*unnorm data repair .*rows.jsonl"),
        ("rows.json", b'[{"a": 1}, {"a', "not valid JSON.*unnorm data repair .*rows.json"),
        ("rows.json", b'[{"a": "\xff"}]', "not valid JSON"),
        (
            "rows.jsonl.gz",
            gzip.compress(b"{oops}"),
            "line 1: not valid.*unnorm data repair .*rows.jsonl.gz",
        ),
        ("rows.csv", b"a,a\n1,2\n", "two columns have the same name"),
        ("rows.json.gz", b"\x1f\x8bnonsense", "cannot be unpacked"),
        ("rows.json.gz", gzip.compress(b'[{"a": 1}]')[:-9], "cannot be unpacked"),
        ("rows.json.xz", b"nonsense", "cannot be unpacked"),
        ("rows.json.zst", b"nonsense", "cannot be unpacked"),
        ("rows.zip", b"nonsense", "cannot be unpacked"),
        ("rows.gz", gzip.compress(b"a,b"), "rows.gz holds no JSON array"),
        ("empty.zip", packed(".zip", "other.log", b"x"), "holds no data"),
        ("rows.parquet", b"PAR1nonsense", "damaged"),
        ("rows.arrow", b"nonsense and more of it", "damaged"),
        ("rows.csv", b'a,b\n"1,2\n', "CSV"),
        ("rows.csv", b"a,b\n1,2,3\n", "line 2: not as many fields"),
        ("rows.csv", b"a,b\n1\n", "line 2: not as many fields"),
        ("rows.csv", b"a\n\xff\n", "UTF-8"),
        ("rows.json", b"3", "JSON array"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # packed bytes hold the time they were packed at
)
def test_damaged_files_are_one_clear_error(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(rows_of(str(tmp_path / name)))


@given(st.sampled_from([*files.READ, *files.PACKED]), st.binary(min_size=1, max_size=60))
@settings(max_examples=150, deadline=None)
def test_no_bytes_are_more_than_a_clear_error(tmp_path_factory, suffix, content):
    path = tmp_path_factory.mktemp("wild") / f"rows{suffix}"
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        list(rows_of(str(path)))


def test_what_is_taken_for_a_file(tmp_path):
    assert is_file_name("absent.jsonl.gz")
    assert is_file_name(str(tmp_path))
    assert not is_file_name("alpaca")
    assert not is_file_name("owner/name")
