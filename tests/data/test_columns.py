"""Columns of one's own, by `map`."""

import json

import pytest
import yaml
from pydantic import ValidationError

from unnorm.cli.main import run
from unnorm.data.settings import Dataset, DataSettings
from unnorm.data.sources import read
from unnorm.foundation.errors import DataError, SettingsError

MAP = {"instruction": "ask", "output": "say"}
ROWS = [{"ask": f"Join {i}", "say": f"red {i}", "output": "not this", "id": i} for i in range(4)]


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in ROWS))
    return str(file)


def said(source, columns, **settings):
    reading = read(DataSettings(source=source, map=columns, **settings), quiet=True)
    assert set(reading.formats.values()) == {"alpaca"}
    return [[message.content for message in one.messages] for one in reading.conversations]


def test_named_columns_are_read_in_place_of_any_of_the_fields_own_name(path):
    with pytest.raises(DataError):
        read(DataSettings(source=path), quiet=True)
    assert said(path, MAP) == [[row["ask"], row["say"]] for row in ROWS]


def test_one_column_may_fill_two_fields(path):
    assert said(path, {"instruction": "ask", "output": "ask"})[1] == ["Join 1", "Join 1"]


def test_settings_with_columns_can_be_hashed_and_written_and_read_again():
    one = DataSettings(source="a.csv", map=MAP)
    assert hash(one) == hash(DataSettings(source="a.csv", map="instruction=ask, output=say"))
    assert DataSettings(**one.model_dump()) == DataSettings(**json.loads(one.model_dump_json())) == one
    assert Dataset.model_json_schema()["properties"]["map"]["type"] == "object"


@pytest.mark.parametrize("columns", ["instruction", "=ask", {"instruction": 3}, [["instruction"]], "a=b,a=c", 7])
def test_what_is_no_map(columns):
    with pytest.raises(ValidationError, match="must"):
        DataSettings(source="a.csv", map=columns)


def test_a_column_that_is_not_there_is_named_with_those_that_are(path):
    with pytest.raises(DataError, match=r"no column 'sya'.*'output'.*It has: ask, say, output, id.*Did you mean 'say'"):
        said(path, {"instruction": "ask", "output": "sya"})
    with pytest.raises(DataError, match="The field comes first: instruction=ask"):
        said(path, {"ask": "instruction"})
    with pytest.raises(SettingsError, match="map: of no effect on the mix"):
        said("rewild", MAP)


def test_on_the_command_line_and_in_a_study(path, capsys, bases):
    options = ["--model", str(bases["gpt2"]), "--template", "alpaca-short", "--json"]
    assert run(["data", "preview", path, "--map", "instruction=ask,output=say", *options]) == 0
    assert json.loads(capsys.readouterr().out)["formats"] == {path: "alpaca"}
    assert run(["data", "preview", path, "--map", "instruction", *options]) == 2
    assert "--map: must give each field of the format its column" in " ".join(capsys.readouterr().err.split())
    from unnorm.study.spec import parse_spec

    study = {
        "name": "mine", "models": [bases["gpt2"]], "datasets": [{"source": path, "map": MAP}], "arms": ["original"],
        "strategies": ["frozen"], "training": {"tokens": 100, "max_length": 64, "batch_tokens": 64},
    }  # fmt: skip
    (cell,) = parse_spec(yaml.safe_dump(study), "study.yaml").cells()
    assert cell.data.map == tuple(MAP.items())
