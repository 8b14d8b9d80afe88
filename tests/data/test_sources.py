import json

import pytest

from unnorm.data.conversation import Message
from unnorm.data.policies import Policies
from unnorm.data.settings import DataSettings
from unnorm.data.sources import read as read_settings
from unnorm.foundation.errors import DataError, SettingsError

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
        ("rows.json", '[{"words": "x"}]', "its rows have words .text.. Known formats are .*instruction"),
        ("rows.json", '["x"]', "no named columns: the first is text"),
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


def test_the_format_can_be_named(tmp_path):
    path = write(tmp_path / "rows.jsonl", json.dumps({"text": "once", "prompt": "q", "response": "b"}) + "\n")
    reading = read(path)
    assert reading.formats == {path: "prompt-response"}
    assert reading.ignored == ("text",)
    assert read(path, format="text").conversations[0].messages == (Message("text", "once"),)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "rows.jsonl", "streaming": True}, "streaming: of no effect on files"),
        ({"source": "alpaca", "path": "rows.json", "subset": "x"}, "subset: of no effect on files"),
        ({"source": "rewild", "split": "test", "format": "text"}, "format, split: of no effect on the mix rewild"),
    ],
)
def test_settings_that_would_be_passed_over_are_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        read(**settings)


def test_rows_are_counted_from_the_start_and_no_more_are_read_than_needed(tmp_path):
    path = write(tmp_path / "rows.jsonl", "\n".join(json.dumps(GOOD) for _ in range(500)))
    reading = read(path, rows=3)
    assert [c.row for c in reading.conversations] == [0, 1, 2]
    assert reading.rows == 3


def sharegpt(identity, *turns):
    values = [{"from": {"u": "human", "a": "gpt"}[turn[0]], "value": turn[2:]} for turn in turns]
    return {"id": identity, "conversations": values}


def test_every_row_is_accounted_for(tmp_path):
    rows = [
        sharegpt("c_2", "u:3", "a:4"),
        sharegpt("b_0", "a:leading", "u:q", "a:b"),
        sharegpt("c_0", "u:1", "a:2"),
        sharegpt("d_7", "a:x", "u:q", "a:b<div>c</div>"),
        sharegpt("e_0", "u:q"),
        sharegpt("f_0"),
        {"id": "g_0", "conversations": [{"from": "wizard", "value": "x"}]},
        "text",
        sharegpt("h_0", "u:q", "u:r", "a:b", "u:t"),
    ]
    reading = read("sharegpt", write(tmp_path / "rows.json", json.dumps(rows)))
    assert reading.rows == len(rows) == len(reading.conversations) + sum(reading.dropped.values()) + 1  # one was joined
    assert reading.dropped == {
        "a turn of the unknown role 'wizard'": 1,
        "not an object": 1,
        "no answer": 1,
        "no question": 1,
    }
    assert reading.changed == {
        "joined to the row it continues": 1,
        "leading answer dropped": 2,
        "turns of one role merged": 1,
        "closing turn without an answer dropped": 1,
    }
    assert reading.noted == {
        "by its id continues another row, but is not joined": 1,
        "holds HTML as text or code, left as it is": 1,
    }
    (joined,) = (c for c in reading.conversations if c.id == "c_0")
    assert [m.content for m in joined.messages] == ["1", "2", "3", "4"]


def test_the_real_alpaca_file(shared):
    reading = read("alpaca", str(shared / "data" / "alpaca" / "alpaca_data.json"))
    assert reading.rows == 52_002
    assert len(reading.conversations) == 52_002 - 28
    assert reading.dropped == {"empty output": 28}
    assert reading.changed == {'"no input" made an empty input': 636, "zero-width characters stripped": 6}


def test_the_real_sharegpt_file(shared):
    path = str(shared / "data" / "sharegpt" / "sharegpt_real_1k.json")
    reading = read("sharegpt", path)
    assert list(reading.formats.values()) == ["sharegpt"]
    assert reading.rows == 1000
    assert len(reading.conversations) == 1000 - 14 - 2
    assert reading.dropped == {"no answer": 5, "no question": 9}
    assert reading.changed == {
        "joined to the row it continues": 2,
        "leading answer dropped": 327,
        "zero-width characters stripped": 11,
        "empty turn dropped": 10,
        "closing turn without an answer dropped": 3,
        "turns of one role merged": 5,
    }
    assert reading.noted == {
        "by its id continues another row, but is not joined": 438,
        "holds HTML as text or code, left as it is": 28,
    }
    as_it_is = Policies(
        continuations="apart", leading_answer="context", same_role="drop", html="keep", zero_width="keep"
    )
    plain = read("sharegpt", path, policies=as_it_is)
    assert plain.noted["by its id continues another row, but is not joined"] == 440
    assert plain.dropped["two turns of one role in a row"] > 0
