"""Figures of data, from what the commands really write."""

import json

import pytest

from unnorm.cli.main import run
from unnorm.foundation.errors import DataError
from unnorm.report.data_files import data_figures

DAMAGED = b'[{"a": 1, "b": "x"},\n{"a": 2 "b": "y"},,\n{"a": 3, "b": \'z\'}, {"a": 4, "b": "cut'


def written(capsys, *arguments) -> dict:
    assert run([str(argument) for argument in arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_lengths_and_packing_count_every_conversation_and_row(capsys, data_file, bases, tmp_path):
    options = ("--model", bases["gpt2"], "--template", "alpaca-short", "--max-length", 64)
    known = written(capsys, "data", "stats", data_file, *options, "--out", tmp_path, "--json")
    lengths, packing = data_figures([tmp_path / "stats.json"])
    bars = lengths.spec["data"]["values"]  # no line: nothing is as long as max_length
    assert sum(bar["count"] for bar in bars) + known["histogram"]["beyond"] == known["conversations"] > 0
    rows = packing.spec["data"]["values"]
    assert sum(row["count"] for row in rows) == known["packed_rows"]
    assert rows[-1]["to"] == 64
    filled = [sum(row[end] * row["count"] for row in rows) for end in ("from", "to")]
    assert filled[0] <= known["tokens"] <= filled[1]
    assert {path.name for path in tmp_path.iterdir()} == {
        "stats.json", *(f"{name}.{kind}" for name in ("lengths", "packing") for kind in ("svg", "png", "pdf")),
    }  # fmt: skip


def test_damage_is_what_repair_counted(capsys, tmp_path):
    (tmp_path / "in.json").write_bytes(DAMAGED)
    known = written(capsys, "data", "repair", tmp_path / "in.json", "--json")
    (tmp_path / "repair.json").write_text(json.dumps(known))
    [figure] = data_figures([tmp_path / "repair.json"])
    found = {(r["kind"], r["action"]): r["count"] for r in figure.spec["layer"][0]["data"]["values"]}
    assert found == {(kind, action): n for kind, actions in known["damages"].items() for action, n in actions.items()}
    assert len(found) >= 3
    assert f"{known['bytes_lost']:,} bytes were lost" in figure.caption


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        data_figures([tmp_path / "none.json"])
    (tmp_path / "other.json").write_text('{"histogram": 1}')
    with pytest.raises(DataError, match="not whole"):
        data_figures([tmp_path / "other.json"])
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(DataError, match=r"neither stats\.json"):
        data_figures([tmp_path / "list.json"])
