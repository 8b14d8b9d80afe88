"""`repair: true`: every loader of JSON reads what a repair would write, and says what was lost."""

import gzip
import io
import json
import lzma
import re
import zipfile
from types import SimpleNamespace

import pytest

from unnorm.cli.main import run
from unnorm.data import files
from unnorm.data.settings import DataSettings
from unnorm.data.sources import read
from unnorm.foundation.errors import DataError, SettingsError

ROWS = [{"instruction": f"Join {i}", "output": f"red {i}"} for i in range(6)]
LINES = [json.dumps(row) for row in ROWS]
DAMAGED = "\n".join([*LINES[:2], LINES[2].replace('", "', '" "'), LINES[3], LINES[4][:-20], LINES[5]]).encode() + b"\n"
SAVED = [row["output"] for i, row in enumerate(ROWS) if i != 4]


def outputs(source, **settings):
    reading = read(DataSettings(source=str(source), repair=True, **settings), quiet=True)
    return [conversation.messages[-1].content for conversation in reading.conversations], reading


def written(folder, name):
    path = folder / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("rows.jsonl", DAMAGED)
    else:
        pack = gzip.compress if name.endswith(".gz") else lzma.compress if name.endswith(".xz") else bytes
        path.write_bytes(pack(DAMAGED))
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a.jsonl.gz", "a.gz", "a.JSONL.xz", "a.zip"])
def test_a_damaged_file_is_read_and_accounted_for(tmp_path, name):
    path = written(tmp_path, name)
    with pytest.raises(DataError, match=r"Give --repair .*repair: true"):
        read(DataSettings(source=str(path)), quiet=True)
    found, reading = outputs(path)
    assert found == SAVED
    (account,) = reading.repaired.values()
    assert (account.records, account.mended_records, account.bytes_in) == (5, 1, len(DAMAGED))
    assert account.lost > 0
    assert reading.changed["damaged JSON mended"] == 1
    assert reading.dropped["damaged JSON rejected"] == account.rejected == 1


def test_a_folder_and_stdin(tmp_path, monkeypatch):
    written(tmp_path, "a.jsonl")
    (tmp_path / "b.jsonl").write_text(LINES[0] + "\n")
    (tmp_path / "c.csv").write_text("instruction,output\nJoin,red\n")  # is read as ever
    found, reading = outputs(tmp_path)
    assert found == [*SAVED, "red 0", "red"]
    assert [name.rpartition("/")[2] for name in reading.repaired] == ["a.jsonl", "b.jsonl"]
    files._stdin.cache_clear()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(DAMAGED)))
    assert outputs("-")[0] == SAVED
    files._stdin.cache_clear()


def test_a_gzip_file_that_is_cut_off_is_read_up_to_there(tmp_path):
    packed = gzip.compress("\n".join(json.dumps(row) for row in ROWS * 500).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    found, reading = outputs(tmp_path / "a.jsonl.gz")
    assert 0 < len(found) < 3000
    (account,) = reading.repaired.values()
    assert account.unverified > 0
    assert "no checksum speaks for" in account.describe()


def test_a_healthy_file_gives_the_same_with_repair_and_without(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    found, reading = outputs(tmp_path / "a.json")
    plain = read(DataSettings(source=str(tmp_path / "a.json")), quiet=True)
    assert plain.conversations == reading.conversations
    assert found == [row["output"] for row in ROWS]
    assert not reading.changed
    assert not reading.dropped


def test_no_more_is_read_than_rows_ask_for(tmp_path):
    assert outputs(written(tmp_path, "a.jsonl"), rows=2)[0] == SAVED[:2]


def test_where_it_would_do_nothing_it_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("instruction,output\nJoin,red\n")
    for source, message in [
        (tmp_path / "a.csv", "holds no JSON"),
        (tmp_path, "holds no JSON"),
        ("owner/name", "from the hub"),
        ("rewild", "repair: of no effect on the mix"),
    ]:
        with pytest.raises(SettingsError, match=message):
            outputs(source)


def test_on_the_command_line(tmp_path, capsys, bases):
    path = written(tmp_path, "a.jsonl")
    options = ["--model", str(bases["gpt2"]), "--template", "alpaca-short"]
    assert run(["data", "preview", str(path), *options]) == 2
    assert "--repair" in capsys.readouterr().err
    assert run(["data", "preview", str(path), "--repair", *options]) == 0
    out, err = capsys.readouterr()
    assert "repaired: 5 records kept, 1 of them mended" in err
    assert "24 of 249 bytes lost" in err
    assert re.search(r"dropped\W+damaged JSON rejected\W+1\b", out)
    assert re.search(r"changed\W+damaged JSON mended\W+1\b", out)


def test_an_account_of_rows_that_are_not_all_read_names_no_size(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(DAMAGED * 2000)
    _, reading = outputs(path, rows=1)
    (account,) = reading.repaired.values()
    assert re.search(r"mended; [\d,]+ bytes lost so far$", account.describe())


def test_an_error_names_the_file_that_was_given_and_no_copy(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("rows.jsonl", "[1, 2]\n")
    with pytest.raises(DataError) as raised:
        outputs(tmp_path / "a.zip")
    assert str(raised.value).startswith(f"{tmp_path / 'a.zip'}/rows.jsonl holds no JSON record")


def test_a_record_that_is_nested_too_deeply_is_said_to_be_in_its_file(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{LINES[0]}\n{{"instruction": "q", "output": "a", "x": {"[" * 10**5}{"]" * 10**5}}}\n')
    with pytest.raises(DataError, match=r"a\.jsonl: a record is nested too deeply"):
        outputs(path)
