"""Rule 16, on rows of MMLU whose right answers anyone can check."""

import pytest

from data.chats import said
from unnorm.data.formats.multiple_choice import AMBIGUOUS, from_multiple_choice

KNOWN = [
    ("What is 2 + 2?", ["3", "4", "5", "6"], 1, "B. 4"),
    ("Which planet is closest to the Sun?", ["Mercury", "Venus", "Earth", "Mars"], 0, "A. Mercury"),
    ("How many sides has a hexagon?", ["3", "4", "5", "6"], 3, "D. 6"),
    ("What is the capital of France?", ["Rome", "Berlin", "Paris", "Madrid"], 2, "C. Paris"),
]


def read(**row):
    return from_multiple_choice(row, "mmlu", 0)


@pytest.mark.parametrize(("question", "choices", "answer", "right"), KNOWN)
def test_rule_16_the_index_of_an_answer_counts_from_0(question, choices, answer, right):
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCD", choices, strict=True))
    for given in (answer, str(answer), "ABCD"[answer], "abcd"[answer]):
        made = read(question=question, choices=choices, answer=given)
        if given == "3" and right == "D. 6":  # in text, 3 is what choice A says too
            assert made == AMBIGUOUS
        else:
            assert said(made) == [f"u:{question}\n{listed}", f"a:{right}"]


def test_rule_16_without_choices_the_letter_is_the_answer():
    question = "What is 2 + 2?\nA. 3\nB. 4\nC. 5\nD. 6"
    assert said(read(question=question, answer=1)) == [f"u:{question}", "a:B"]
    assert said(read(question="What is 2 + 2?", category="maths", answer="It is 4.")) == [
        "u:What is 2 + 2?",
        "a:It is 4.",
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": " ", "choices": ["a"], "answer": 0}, "empty question"),
        ({"question": "q", "choices": ["a", "b"], "answer": 2}, "an answer that names no choice"),
        ({"question": "q", "choices": ["a", "b"], "answer": -1}, "an answer that names no choice"),
        ({"question": "q", "choices": ["a", "b"], "answer": True}, "an answer that names no choice"),
        ({"question": "q", "choices": [], "answer": 0}, "not 1 to 10 choices"),
        ({"question": "q", "choices": [1], "answer": 0}, "choices that are not texts"),
        ({"question": "q", "answer": ""}, "an answer that names no choice"),
    ],
)
def test_rows_that_cannot_be_used_say_why(row, reason):
    assert read(**row) == reason
