import json

import pytest

from unnorm.data.conversation import Message
from unnorm.data.settings import DataSettings
from unnorm.data.sources import read as read_settings
from unnorm.foundation.errors import DataError

GOOD = {"instruction": "Add 1 and 2", "input": "", "output": "3"}


def read(source, path=None, **settings):
    return read_settings(DataSettings(source=source, path=path, **settings), quiet=True)


def write(path, content: str):
    path.write_text(content)
    return str(path)


def test_rows_become_conversations_and_bad_ones_are_counted_by_reason(tmp_path):
    rows = [
        GOOD,
        {"instruction": "Sum", "input": "1 2", "output": "3"},
        {"instruction": "Say nothing", "input": "", "output": "  "},
        {"instruction": "", "output": "x"},
        {"prompt": "no"},
        "text",
        {"instruction": "no input field", "output": "fine"},
    ]
    reading = read(write(tmp_path / "rows.json", json.dumps(rows)))
    assert reading.rows == 7
    assert [c.row for c in reading.conversations] == [0, 1, 6]
    assert reading.conversations[1].messages == (Message("user", "Sum", "1 2"), Message("assistant", "3"))
    assert reading.dropped == {"empty output": 1, "empty instruction": 1, "not in Alpaca form": 1, "not an object": 1}


def test_jsonl(tmp_path):
    path = write(tmp_path / "rows.jsonl", json.dumps(GOOD) + "\n\n" + json.dumps(GOOD) + "\n")
    assert len(read(path).conversations) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.json", "", "is empty"),
        ("rows.json", "[]", "holds no rows"),
        ("rows.json", "{}", "JSON array"),
        ("rows.json", "[{", "not valid JSON"),
        ("rows.jsonl", '{"instruction": "a", "output": "b"}\n{oops}\n', "line 2"),
        ("rows.csv", "a,b\n", "holds no rows"),
        ("rows.tsv", "a\tb\n", "only .json"),
        ("rows.json", '[{"words": "x"}]', "its first row has words. Known formats are .*instruction"),
        ("rows.json", '["x"]', "its first row has str"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / name, content))


def test_missing_files_and_wrong_names(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        read(str(tmp_path / "absent.json"))
    with pytest.raises(DataError, match="neither a known name nor a file"):
        read("alpacca")
    with pytest.raises(DataError, match="from the hub"):
        read("nobody/nothing")
