import pytest

from data.chats import said
from unnorm.data.formats import FORMATS, convert, recognise
from unnorm.foundation.errors import DataError

CASES = {
    "alpaca": ({"instruction": "q", "input": "", "output": "b"}, ["u:q", "a:b"]),
    "sharegpt": (
        {"id": "x_0", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "b"}]},
        ["u:q", "a:b"],
    ),
    "messages": (
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "q"}]},
                {"role": "assistant", "content": "b", "toxic": None},
            ],
            "prompt": "q",
        },
        ["s:s", "u:q", "a:b"],
    ),
    "multiple-choice": (
        {"question": "q", "choices": ["x", "y"], "answer": 1},
        ["u:q\nA. x\nB. y", "a:B. y"],
    ),
    "prompt-response": ({"system_prompt": "s", "question": "q", "response": "b"}, ["s:s", "u:q", "a:b"]),
    "text": ({"text": "some text", "meta": {}}, ["t:some text"]),
}


@pytest.mark.parametrize("name", list(CASES))
def test_each_format_is_recognised_and_read(name):
    row, turns = CASES[name]
    form = recognise([row], "rows")
    assert form.name == name
    assert said(convert(form, row, "rows", 7)) == turns
    assert convert(form, row, "rows", 7).row == 7


def test_every_format_is_tested():
    assert {form.name for form in FORMATS} == set(CASES)


def test_the_format_of_most_rows_is_taken_and_the_others_are_counted():
    rows = [CASES["text"][0], CASES["alpaca"][0], CASES["alpaca"][0], 3]
    form = recognise(rows, "rows")
    assert form.name == "alpaca"
    assert convert(form, rows[0], "rows", 0) == "not in Alpaca form"
    assert convert(form, rows[3], "rows", 3) == "not an object"


def test_an_unknown_format_is_an_error_that_lists_what_is_there_and_what_is_known():
    with pytest.raises(
        DataError,
        match=r"its rows have a \(a whole number\), b \(text\)\. Known .*sharegpt.*alpaca.*--map instruction=",
    ):
        recognise([{"b": "x", "a": 2}], "rows")


def turn(role, content="x", **more):
    return {"messages": [{"role": role, "content": content, **more}, {"role": "assistant", "content": "b"}]}


@pytest.mark.parametrize(
    ("name", "role"),
    [("human", "user"), ("User", "user"), ("bing", "assistant"), ("bard", "assistant"), ("chatgpt", "assistant"),
     ("tool", "tool"), ("function", "tool"), (" system ", "system")],
)  # fmt: skip
def test_roles(name, role):
    form = recognise([turn(name)], "rows")
    assert convert(form, turn(name), "rows", 0).messages[0].role == role


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (turn("wizard"), "a turn of the unknown role 'wizard'"),
        (turn(None), "a turn of the unknown role None"),
        (turn("user", None), "a turn that is not text"),
        (turn("user", [{"type": "image_url"}]), "a turn that is not text"),
        (turn("user", weight=-1), "a turn whose weight is not a number from 0 on"),
        ({"messages": ["x"]}, "a turn that is not an object"),
    ],
)
def test_rows_that_cannot_be_conversations_say_why(row, reason):
    form = recognise([turn("user")], "rows")
    assert convert(form, row, "rows", 0) == reason


def test_weights_of_turns():
    form = recognise([turn("user")], "rows")
    rows = [turn("user", weight=w) for w in (0, 1, 0.5)]
    assert [convert(form, row, "rows", 0).messages[0].weight for row in rows] == [0.0, None, 0.5]


def test_a_prompt_and_a_response_may_be_messages():
    row = {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "b"}]}
    assert said(convert(recognise([row], "rows"), row, "rows", 0)) == ["u:q", "a:b"]


def test_a_misspelt_field_is_named():
    alpaca = recognise([{"instruction": "a", "output": "b"}], "rows")
    reasons = [convert(alpaca, row, "rows", 0) for row in ({"instruction": "a", "ouput": "b"}, {"instruction": "a"})]
    assert reasons == ["not in Alpaca form (ouput for output?)", "not in Alpaca form"]
