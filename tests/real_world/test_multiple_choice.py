"""A number is an index only where there are choices, and what an answer means does not depend on the kind of file."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from real_world.rows import KINDS, read, said
from unnorm.data.formats import FORMATS, convert, recognise
from unnorm.data.formats.multiple_choice import AMBIGUOUS, NAMES_NONE

LISTED = "1+1?\nA. 2\nB. 3\nC. 4"


@pytest.mark.parametrize("kind", KINDS)
def test_without_choices_a_number_is_the_answer(tmp_path, kind):
    reading = read(tmp_path, [{"question": "1+1?", "answer": 2}, {"question": "2+2?", "answer": 4}], kind)
    assert set(reading.formats.values()) == {"prompt-response"}
    assert said(reading) == [["user: 1+1?", "assistant: 2"], ["user: 2+2?", "assistant: 4"]]


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_is_a_choices_text_means_that_choice(tmp_path, kind):
    rows = [
        {"question": "1+6?", "choices": ["5", "6", "7", "8"], "answer": "7"},
        {"question": "Who?", "choices": ["Ann", "Bob"], "answer": " Bob "},
        {"question": "Who?", "choices": ["Ann", "Bob"], "answer": "b"},
        {"question": "Who?", "choices": ["Ann", "Bob"], "answer": "0"},
    ]
    reading = read(tmp_path, rows, kind)
    assert [turns[1] for turns in said(reading)] == [
        "assistant: C. 7", "assistant: B. Bob", "assistant: B. Bob", "assistant: A. Ann",
    ]  # fmt: skip
    assert said(reading)[1][0] == "user: Who?\nA. Ann\nB. Bob"


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_could_be_two_choices_is_refused_and_counted(tmp_path, kind):
    rows = [
        {"question": "1+2?", "choices": ["2", "3", "4", "5"], "answer": "3"},
        {"question": "Which blood group?", "choices": ["B", "A", "AB"], "answer": "A"},
        {"question": "Twice?", "choices": ["x", "x"], "answer": "x"},
        {"question": "Which?", "choices": ["1", "0"], "answer": "5"},
        {"question": "1+1?", "choices": ["1", "2"], "answer": "2"},
    ]
    reading = read(tmp_path, rows, kind)
    assert reading.dropped == {AMBIGUOUS: 3, NAMES_NONE: 1}
    assert said(reading) == [["user: 1+1?\nA. 1\nB. 2", "assistant: B. 2"]]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_number_beside_choices_is_an_index_whatever_the_choices_say(tmp_path, kind):
    reading = read(tmp_path, [{"question": "A hexagon?", "choices": ["3", "4", "5", "6"], "answer": 3}], kind)
    assert said(reading)[0][1] == "assistant: D. 6"


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_that_lists_its_choices(tmp_path, kind):
    rows = [{"question": LISTED, "answer": 1}, {"question": "1+1? (A) 2 (B) 3", "answer": 0}]
    assert said(read(tmp_path, rows, kind)) == [
        [f"user: {LISTED}", "assistant: B"],
        ["user: 1+1? (A) 2 (B) 3", "assistant: A"],
    ]


@pytest.mark.parametrize("answer", [7, "7"])
def test_an_index_of_choices_that_are_nowhere_is_refused_even_where_the_format_is_named(answer):
    form = next(form for form in FORMATS if form.name == "multiple-choice")
    assert convert(form, {"question": "1+1?", "answer": answer}, "rows", 0) == "not in multiple-choice form"


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_among_prompts_and_responses_is_no_response(tmp_path, kind):
    rows = [{"question": f"{i}+1?", "answer": f"It is {i + 1}."} for i in range(3)]
    rows += [{"question": "1+1?", "choices": ["2", "3"], "answer": "1"}, {"question": LISTED, "answer": "1"}]
    reading = read(tmp_path, rows, kind)
    assert set(reading.formats.values()) == {"prompt-response"}
    assert len(reading.conversations) == 3
    assert reading.dropped == {"an answer that only names a choice, among prompts and responses": 2}


def test_rows_with_choices_are_not_outvoted_by_what_they_also_could_be(tmp_path):
    rows = [{"question": "Who?", "choices": ["Ann", "Bob"], "answer": 1}] * 9 + [{"question": "Why?", "answer": "So."}]
    reading = read(tmp_path, rows)
    assert set(reading.formats.values()) == {"multiple-choice"}
    assert reading.dropped == {"not in multiple-choice form": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_empty_choices_are_no_choices(tmp_path, kind):
    rows = [{"question": "1+1?", "choices": [], "answer": "2"}] * 2
    assert said(read(tmp_path, rows, kind)) == [["user: 1+1?", "assistant: 2"]] * 2


@pytest.mark.parametrize(
    ("choices", "turns"),
    [
        ("['Ann', \"O'Hara\"]", ["user: Who?\nA. Ann\nB. O'Hara", "assistant: B. O'Hara"]),
        ('["Ann", "Bob"]', ["user: Who?\nA. Ann\nB. Bob", "assistant: B. Bob"]),
        ("[]", ["user: Who?", "assistant: 1"]),
    ],
)
def test_a_list_that_pandas_wrote_as_text(tmp_path, choices, turns):
    assert said(read(tmp_path, [{"question": "Who?", "choices": choices, "answer": "1"}], "csv")) == [turns]


def test_a_list_that_numpy_wrote_as_text_is_not_run_together(tmp_path):
    good = {"question": "Who?", "choices": '["Ann", "Bob"]', "answer": "Ann"}
    reading = read(tmp_path, [good, {**good, "choices": "['Ann' 'Bob']"}], "csv")
    assert reading.dropped == {"choices that are not texts": 1}


names = st.text("AaB0123 x", min_size=1, max_size=3)


@given(st.lists(names, min_size=1, max_size=5), names | st.integers(-1, 6))
@settings(max_examples=300, deadline=None)
def test_the_same_values_train_the_same_text_from_every_kind_of_file(choices, answer):
    row = {"question": "q?", "choices": choices, "answer": answer}
    in_text = {**row, "choices": str(choices), "answer": str(answer)}
    made = [convert(recognise([r], "rows"), r, "rows", 0) for r in (row, in_text)]
    answers = {m.messages[1].content for m in made if not isinstance(m, str)}
    assert len(answers) < 2
    if isinstance(answer, str):
        assert made[0] == made[1]
    for text in answers:
        letter, _, choice = text.partition(". ")
        assert choices["ABCDE".index(letter)].strip() == choice
