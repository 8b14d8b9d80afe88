"""The three files a repair writes, their account, Parquet, and the command."""

import json
import random
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from data.repair import faults
from data.repair.properties import raw_of, read_lines
from unnorm.cli.main import run as run_command
from unnorm.data.repair import repair_file, repaired_records
from unnorm.data.repair.engine import Repair
from unnorm.foundation.errors import DataError, SettingsError


@pytest.fixture
def damaged(tmp_path):
    """A file of 60 rows, every fifth damaged by another fault; (path, its text)."""
    chance = random.Random(3)
    rows = faults.made_rows(chance, 60)
    opening, texts, between, closing = faults.pretty(rows)
    kinds = list(faults.FAULTS.values())
    parts = [kinds[n % len(kinds)](text, chance) if n % 5 == 4 else text for n, text in enumerate(texts)]
    path = tmp_path / "rows.json"
    path.write_bytes(opening + between.join(parts) + closing)
    return path, path.read_bytes()


def test_the_files_agree_with_the_account_and_with_the_input(damaged, tmp_path):
    path, text = damaged
    done = repair_file(path, tmp_path / "out" / "clean.jsonl", quiet=True)
    account = done.account
    assert account.bytes_in == len(text) == account.kept + account.separators + account.lost
    records = read_lines(done.out)
    assert len(records) == account.records
    report, rejected = read_lines(done.report), read_lines(done.rejected)
    lost = [entry for entry in report if entry["action"] in ("rejected", "removed", "replaced")]
    assert sum(entry["length"] for entry in lost) == account.lost > 0
    for entry in rejected + [entry for entry in lost if entry["action"] != "rejected"]:
        assert text[entry["offset"] : entry["offset"] + entry["length"]] == raw_of(entry)
    assert sum(entry["length"] for entry in rejected) == sum(
        entry["length"] for entry in lost if entry["action"] == "rejected"
    )
    assert {entry["record"] for entry in report if entry["record"] is not None} <= set(range(len(records)))
    assert account.mended_records == len({e["record"] for e in report if e["record"] is not None})
    assert list(repaired_records(path)) == records
    before = {file.name: file.read_bytes() for file in done.out.parent.iterdir()}
    repair_file(path, done.out, quiet=True)
    assert {file.name: file.read_bytes() for file in done.out.parent.iterdir()} == before
    assert set(before) == {"clean.jsonl", "clean.jsonl.report.jsonl", "clean.jsonl.rejected.jsonl"}


def test_repairing_what_was_repaired_changes_nothing(damaged, tmp_path):
    done = repair_file(damaged[0], tmp_path / "one.jsonl", quiet=True)
    again = repair_file(done.out, tmp_path / "two.jsonl", quiet=True)
    assert again.out.read_bytes() == done.out.read_bytes()
    assert again.account.damages == {}


def test_parquet_with_drifting_columns_as_json_text(tmp_path):
    rows = [
        '{"id": 1, "text": "a", "drift": "x", "list": [1], "big": 1, "mixed": 1, "deep": {"a": 1}}',
        '{"id": 2, "text": null, "drift": ["x",  1.0], "list": [], "big": 123456789012345678901, "mixed": 2.5}',
        '{"id": 3, "drift": null, "list": null, "big": 2, "mixed": 3, "deep": {"b": "y"}, "late": true}',
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(rows) + "\n")
    done = repair_file(path, tmp_path / "rows.parquet", quiet=True)
    table = pq.read_table(done.out)
    assert table.num_rows == 3
    assert done.table is not None
    assert {name for name, kind in done.table.items() if kind == "JSON text"} == {"drift", "big"}
    assert table["drift"].to_pylist() == ['"x"', '["x",1.0]', "null"]
    assert table["big"].to_pylist() == ["1", "123456789012345678901", "2"]
    assert table["mixed"].to_pylist() == [1.0, 2.5, 3.0]
    assert table["late"].to_pylist() == [None, None, True]
    assert set(done.drifting) == {"drift"}
    assert done.columns["drift"] == {"string": 1, "array": 1, "null": 1}


def test_what_stands_in_the_way_is_left_alone(damaged, tmp_path):
    path, text = damaged
    with pytest.raises(SettingsError, match="the damaged file itself"):
        repair_file(path, path, quiet=True)
    thesis = tmp_path / "thesis.jsonl"
    thesis.write_text("precious")
    with pytest.raises(SettingsError, match="no repair made it"):
        repair_file(path, thesis, quiet=True)
    with pytest.raises(SettingsError, match="is a folder"):
        repair_file(path, tmp_path, quiet=True)
    assert thesis.read_text() == "precious"
    assert path.read_bytes() == text


@pytest.mark.parametrize("content", ["[]", "a,b\n1,2\n", '["a", "b"]', "[1, 2]", "\n\n"])
def test_a_file_without_records_is_an_error_and_writes_nothing(tmp_path, content):
    path = tmp_path / "rows.json"
    path.write_text(content)
    with pytest.raises(DataError, match="no JSON record"):
        repair_file(path, tmp_path / "out.jsonl", quiet=True)
    with pytest.raises(DataError, match="no JSON record"):
        list(repaired_records(path))
    assert [file.name for file in tmp_path.iterdir()] == ["rows.json"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_repair_leaves_what_was_there(damaged, tmp_path, monkeypatch, error):
    path, _ = damaged
    done = repair_file(path, tmp_path / "clean.jsonl", quiet=True)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    real = Repair.events

    def stop(self):
        for number, event in enumerate(real(self)):
            if number == 5:
                raise error
            yield event

    monkeypatch.setattr(Repair, "events", stop)
    with pytest.raises((KeyboardInterrupt, Exception)) as raised:
        repair_file(path, done.out, quiet=True)
    assert raised.type.__name__ in ("KeyboardInterrupt", "DiskError")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_the_command(damaged, tmp_path, capsys):
    path, text = damaged
    assert run_command(["data", "repair", str(path), "-o", str(tmp_path / "out.jsonl")]) == 0
    out, err = capsys.readouterr()
    assert f"{len(text):,} bytes = " in out
    assert "what was lost, as it was" in err
    assert run_command(["data", "repair", str(path), "-o", str(tmp_path / "out.jsonl"), "--json", "--strict"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert len(found["damages"]) > 4
    assert all(kind in out for kind in found["damages"])
    assert found["bytes_in"] == found["bytes_kept"] + found["bytes_separators"] + found["bytes_lost"]
    clean = tmp_path / "out.jsonl"
    assert run_command(["data", "repair", str(clean), "--strict"]) == 0
    assert (tmp_path / "out.repaired.jsonl").read_bytes() == clean.read_bytes()
    capsys.readouterr()
    assert run_command(["data", "repair", "--help"]) == 0
    assert "Example: unnorm data repair" in capsys.readouterr().out
    assert run_command(["data", "repair", str(tmp_path / "absent.json")]) == 2
    assert "there is no file" in capsys.readouterr().err


def test_text_of_the_file_cannot_speak_to_the_terminal(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a\\u001b[31m": 1}\n{"a\\u001b[31m": "x"}\n\x1b[2Jnoise\n')
    assert run_command(["data", "repair", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "columns with values of several types" in out
    assert "\x1b" not in out + err


def test_memory_does_not_grow_with_the_file(tmp_path):
    if not sys.platform.startswith("linux"):
        pytest.skip("reads the peak of resident memory from /proc")
    row = json.dumps({"id": 1, "text": "some words " * 40}).encode()
    peaks = []
    for megabytes in (4, 60):
        path = tmp_path / f"{megabytes}.jsonl"
        with open(path, "wb") as file:
            for number in range(megabytes * 1_000_000 // len(row)):
                file.write(row[: -5 if number % 500 == 7 else None] + b"\n")
        program = f"""
from pathlib import Path
from unnorm.data.repair import repair_file
repair_file(Path({str(path)!r}), quiet=True)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) / 1000)
    assert peaks[1] < peaks[0] + 20
    assert peaks[1] < 150
