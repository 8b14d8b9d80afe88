"""What `data repair` writes is what the name of its file promises."""

import json

import pyarrow.parquet
import pytest

from cli.test_main import call
from data.repair.properties import read_lines
from unnorm.data.files import rows_of

ROWS = [{"id": n, "text": f"line {n}\nof two, with a [ and a \\"} for n in range(300)]


@pytest.fixture
def damaged(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(ROWS)[:-1].replace('"id": 7,', '"id": 7'))
    return path


@pytest.mark.parametrize("name", ["y.csv", "y.tsv", "y.txt", "y.jsonl.gz", "y.json.zst", "y.arrow", "y.CSV", "y.xlsx"])
def test_an_ending_that_is_not_written_is_refused(capsys, damaged, tmp_path, name):
    code, _, err = call(capsys, "data", "repair", damaged, "-o", tmp_path / name)
    assert code == 2
    assert "Name a file that ends in one of .jsonl, .ndjson, .json, .parquet" in err
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("name", ["y.json", "y.JSON"])
def test_json_is_an_array_with_record_n_in_line_n(capsys, damaged, tmp_path, name):
    out = tmp_path / name
    code, _, err = call(capsys, "data", "repair", damaged, "-o", out)
    assert code == 0, err
    assert json.loads(out.read_text()) == ROWS
    assert list(rows_of(str(out))) == ROWS
    (mended,) = (line for line in read_lines(tmp_path / f"{name}.report.jsonl") if line["action"] == "mended")
    assert mended["record"] == 7
    assert json.loads(out.read_text().splitlines()[7].removesuffix(",")) == ROWS[7]


def test_an_array_of_no_records(capsys, tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": "no end\n')
    code, _, err = call(capsys, "data", "repair", tmp_path / "x.jsonl", "-o", tmp_path / "y.json")
    assert code == 0, err
    assert json.loads((tmp_path / "y.json").read_text()) == []


@pytest.mark.parametrize("name", ["y.jsonl", "y.NDJSON", "y"])
def test_lines(capsys, damaged, tmp_path, name):
    assert call(capsys, "data", "repair", damaged, "-o", tmp_path / name)[0] == 0
    assert read_lines(tmp_path / name) == ROWS


@pytest.mark.parametrize("name", ["y.parquet", "y.Parquet"])
def test_a_table(capsys, damaged, tmp_path, name):
    assert call(capsys, "data", "repair", damaged, "-o", tmp_path / name)[0] == 0
    assert pyarrow.parquet.read_table(tmp_path / name).to_pylist() == ROWS
