"""Which columns make a format, what is taken of them, and what is said of those that hold something else."""

import json
from datetime import date

import pytest

from real_world.rows import KINDS, read, said
from unnorm.data.formats import convert, left_out, recognise
from unnorm.foundation.errors import DataError

TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHARES = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
SAID = ["user: q", "assistant: a"]


@pytest.mark.parametrize("nothing", [None, [], "", {}])
def test_the_first_row_alone_decides_nothing(tmp_path, nothing):
    rows = [{"conversations": nothing, "meta": nothing}, {"conversations": SHARES, "meta": "x"}]
    reading = read(tmp_path, rows)
    assert set(reading.formats.values()) == {"sharegpt"}
    assert said(reading) == [SAID]
    assert sum(reading.dropped.values()) == 1
    assert left_out(recognise(rows, "rows"), rows) == ("meta",)


@pytest.mark.parametrize("kind", KINDS)
def test_system_and_history_of_later_rows_are_read(tmp_path, kind):
    rows = [
        {"instruction": "first", "output": "one"},
        {"instruction": "q", "input": "i", "output": "a", "system": "s", "history": [["h", "g"], ["j", "k"]]},
    ]
    assert said(read(tmp_path, rows, kind)) == [
        ["user: first", "assistant: one"],
        ["system: s", "user: h", "assistant: g", "user: j", "assistant: k", "user: q | i", "assistant: a"],
    ]
    assert left_out(recognise(rows, "rows"), rows) == ()


def test_system_and_history_beside_prompts_and_turns(tmp_path):
    rows = [{"query": "q", "response": "a", "system": "s", "history": TURNS}, {"query": "q", "response": "a"}]
    assert said(read(tmp_path, rows)) == [["system: s", *SAID, *SAID], SAID]
    rows = [{"conversations": SHARES}, {"conversations": SHARES, "system": "s"}]
    assert said(read(tmp_path, rows)) == [SAID, ["system: s", *SAID]]
    rows = [{"messages": [{"role": "system", "content": "s"}, *TURNS], "system_prompt": "s"}]
    assert said(read(tmp_path, rows)) == [["system: s", *SAID]]
    rows = [{"prompt": TURNS[:1], "completion": TURNS[1:], "system": "s"}]
    assert said(read(tmp_path, rows)) == [["system: s", *SAID]]


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        ("earlier", "`history` is text, not a list"),
        ({"q": "a"}, "`history` is an object, not a list"),
        (["q", "a"], "`history` is not a list of questions with their answers"),
        ([["q", None]], "`history` is not a list of questions with their answers"),
        ([{"role": "wizard", "content": "x"}], "in `history` a turn of the unknown role 'wizard'"),
    ],
)
def test_a_history_that_is_not_understood_is_never_left_out(history, reason):
    rows = [{"instruction": "q", "output": "a"}, {"instruction": "q", "output": "a", "history": history}]
    assert convert(recognise(rows, "rows"), rows[1], "rows", 1) == reason


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("empty", [[], None])
def test_turns_are_read_from_the_column_that_has_them(tmp_path, kind, empty):
    rows = [{"conversations": empty, "messages": TURNS}, {"conversations": SHARES, "messages": empty}]
    reading = read(tmp_path, rows, kind)
    assert said(reading) == [SAID, SAID]
    assert not reading.dropped
    assert said(read(tmp_path, rows[:1] * 2, kind)) == [SAID, SAID]


def test_turns_with_the_keys_of_both_forms(tmp_path):
    none = {"role": None, "content": None}
    rows = [{"conversations": [{**none, **turn} for turn in SHARES]}]
    rows += [{"conversations": [{"from": None, "value": None, **turn} for turn in TURNS]}]
    assert said(read(tmp_path, rows, "parquet")) == [SAID, SAID]


@pytest.mark.parametrize("text", [json.dumps(TURNS), str(TURNS), json.dumps(TURNS, indent=2)])
@pytest.mark.parametrize("kind", KINDS)
def test_messages_that_are_text(tmp_path, text, kind):
    reading = read(tmp_path, [{"messages": text, "n": "1"}], kind)
    assert set(reading.formats.values()) == {"messages"}
    assert said(reading) == [SAID]
    assert read(tmp_path, [{"messages": text}, {"messages": "[broken"}], kind).dropped == {
        "`messages` is text, not a list of turns": 1
    }


def test_prompts_and_responses_that_csv_made_text_of(tmp_path):
    rows = [{"prompt": TURNS[:1], "completion": TURNS[1:]}, {"prompt": str(TURNS[:1]), "completion": "[1, 2]"}]
    assert said(read(tmp_path, rows, "csv")) == [SAID, [f"user: {TURNS[:1]}", "assistant: [1, 2]"]]


@pytest.mark.parametrize("kind", KINDS)
def test_whole_numbers_are_text(tmp_path, kind):
    rows = [{"instruction": "Add", "input": 0, "output": 12}, {"instruction": "Subtract", "input": 5, "output": -3}]
    assert said(read(tmp_path, rows, kind)) == [
        ["user: Add | 0", "assistant: 12"],
        ["user: Subtract | 5", "assistant: -3"],
    ]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"output": 2.5}, "`output` is a number with a fraction, not text"),
        ({"output": True}, "`output` is true or false, not text"),
        ({"output": None}, "`output` is null, not text"),
        ({"output": ["x"]}, "`output` is a list, not text"),
        ({"output": b"x"}, "`output` is binary, not text"),
        ({"output": date(2024, 1, 2)}, "`output` is date, not text"),
        ({"instruction": {"a": 1}}, "`instruction` is an object, not text"),
        ({"input": False}, "`input` is true or false, not text"),
        ({"input": ["x"]}, "`input` is a list, not text"),
        ({"system": ["x"]}, "`system` is a list, not text"),
    ],
)
def test_what_is_no_text_is_refused_by_column_and_type(fields, reason):
    good = {"instruction": "q", "input": "", "output": "a"}
    assert convert(recognise([good], "rows"), {**good, **fields}, "rows", 0) == reason


def test_a_context_is_never_left_out(tmp_path):
    rows = [{"question": "q", "answer": "a", "context": c} for c in ("c", None, 7, ["c"])]
    reading = read(tmp_path, rows)
    assert said(reading) == [["user: q | c", "assistant: a"], SAID, ["user: q | 7", "assistant: a"]]
    assert reading.dropped == {"`context` is a list, not text": 1}


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        ([{"prompt": b"q", "response": b"a"}], "parquet", r"have prompt \(binary\), response \(binary\)\."),
        ([{"messages": "hello", "extra": 1}], "jsonl", r"have messages \(text\), extra \(a whole number\)\."),
        ([{"instruction": "q", "output": 1.5}, {"instruction": "q", "output": None}], "jsonl",
         r"have instruction \(text\), output \(a number with a fraction or null\)\."),
        ([{"conversations": None}, {"conversations": []}], "jsonl", r"have conversations \(null or a list\)\."),
        ([3], "jsonl", "have no named columns: the first is a whole number"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_said_by_column_and_type(tmp_path, rows, kind, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, rows, kind)


def test_rows_that_have_no_columns_are_said_to_be_what_they_are():
    with pytest.raises(DataError, match="the first is a list that begins with an object"):
        recognise([[{"from": "human", "value": "q"}]], "rows")
    with pytest.raises(DataError, match="the first is a list\\. Known"):
        recognise([[], 3], "rows")


@pytest.mark.parametrize("kind", KINDS)
def test_empty_columns_do_not_hide_filled_ones(tmp_path, kind):
    rows = [{"instruction": None, "output": None, "prompt": None, "response": None, "query": "q", "completion": None}]
    rows = [{**rows[0], "prompt": "q", "completion": "a"}]
    assert said(read(tmp_path, rows, kind)) == [SAID]


def test_columns_that_nothing_is_taken_from(tmp_path):
    rows = [
        {"messages": TURNS, "category": "x", "id": 1, "tools": []},
        {"messages": TURNS, "tools": [{"name": "f"}], "prompt": "q"},
        {"messages": [], "conversations": SHARES, "system": "s", "system_prompt": "t"},
    ]
    assert left_out(recognise(rows, "rows"), rows) == ("prompt", "system_prompt", "tools")
