"""Any value in any known column: no error but ours, and no trained text that the row did not hold."""

import ast
import json
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from real_world.rows import cell, read, write
from unnorm.data.encode import encode
from unnorm.data.formats import FORMATS, left_out, recognise
from unnorm.data.formats.turns import CLOSES, OPENS
from unnorm.data.settings import DataSettings
from unnorm.data.sources import read as read_settings
from unnorm.foundation.errors import DataError, UnnormError
from unnorm.metrics.token_sums import IGNORED

EXAMPLES = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
COLUMNS = (
    "conversations", "messages", "conversation", "instruction", "input", "output", "question", "choices", "answer",
    "prompt", "response", "completion", "query", "context", "system", "system_prompt", "history", "text", "category",
    "id", "language", "tools",
)  # fmt: skip
ROLES = ("user", "assistant", "system", "tool", "human", "gpt", "function", "ipython", "function_call", "wizard")

words = st.sampled_from(
    ["", " ", "q", "yes", "A", "b", "0", "3", "noinput", "A. 3\nB. 4", "[1, 2]", "[]", "['x', 'y']", '["x"]', "{}",
     '{"a": 1}', "\u200b", "<|endoftext|>", "é\n\n😀"]
) | st.text(max_size=5)  # fmt: skip
scalars = st.none() | st.booleans() | st.integers(-2, 12) | st.floats(allow_nan=False, allow_infinity=False) | words
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=5
)
calls = st.fixed_dictionaries(
    {}, optional={"name": st.just("f") | anything, "arguments": anything, "function": anything, "id": words}
) | st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": st.just("f"), "arguments": anything})})
parts = (
    words
    | st.fixed_dictionaries({"type": st.just("text"), "text": words | anything})
    | st.fixed_dictionaries({"type": st.just("tool_use"), "name": st.just("f"), "input": anything})
    | st.fixed_dictionaries({"type": st.just("tool_result"), "content": words | anything})
    | anything
)
contents = words | st.lists(parts, max_size=3) | anything
fields = {"tool_calls": st.lists(calls, max_size=2) | anything, "function_call": calls, "weight": scalars}
roles = st.sampled_from(ROLES)
said = st.sampled_from(["q", "yes", "A", "no\u200b", "tool", ""])
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": '{"a": "q"}'}}]}
calling = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(ROLES[:4]), "content": said})
    | st.just(CALL)
    | st.fixed_dictionaries({"role": st.just("assistant"), "content": contents}, optional=fields)
    | st.fixed_dictionaries({"role": roles, "content": said | contents}),
    max_size=6,
)
turns = (
    calling
    | calling.map(lambda more: [{"role": "user", "content": "q"}, *more, {"role": "assistant", "content": "yes"}])
    | st.lists(st.fixed_dictionaries({"from": roles, "value": said | contents}), max_size=4)
)
wild_turns = st.lists(
    st.fixed_dictionaries({}, optional={"role": roles | anything, "content": contents, "from": roles, **fields}),
    max_size=4,
)
values = (
    words
    | scalars
    | turns
    | turns.map(json.dumps)
    | turns.map(str)
    | wild_turns
    | st.lists(words, max_size=4)
    | anything
)
GOOD: tuple[dict[str, Any], ...] = (
    {"instruction": "q", "input": "", "output": "yes"},
    {"question": "q", "choices": ["x", "3", "A"], "answer": 1},
    {"question": "A. 3\nB. 4", "answer": "0"},
    {"question": "q", "answer": 2},
    {"prompt": "q", "response": "yes"},
    {"query": "q", "response": "yes", "history": [["h", "g"]]},
    {"text": "yes"},
    {},
)
chats = st.fixed_dictionaries({"messages": turns}, optional={"conversations": st.none() | turns, "system": words})
shares = st.fixed_dictionaries({"conversations": turns | turns.map(json.dumps)}, optional={"id": words})
GOOD_CHAT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "yes"}]}
GOOD_SHARE = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "yes"}]}


def like(good: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A good row with other values in some of its columns, and in others."""
    return st.dictionaries(st.sampled_from([*good, *COLUMNS]), values, max_size=2).map(lambda more: good | more)


tables = st.sampled_from(
    [(like(good), good) for good in GOOD] + 4 * [(chats, GOOD_CHAT)] + 2 * [(shares, GOOD_SHARE)]
).flatmap(lambda kind: st.lists(kind[0], min_size=1, max_size=3).map(lambda rows: [*rows, kind[1]]))
sources = tables | tables | st.lists(chats | shares | values, min_size=1, max_size=4)
options = st.fixed_dictionaries(
    {
        "policies": st.fixed_dictionaries(
            {"tool_calls": st.sampled_from(["text", "drop"]), "leading_answer": st.sampled_from(["drop", "context"])}
        ),
        "format": st.sampled_from([*[None] * 12, *(form.name for form in FORMATS)]),
    }
)


def texts_in(value: Any) -> set[str]:
    """Every text in a value, in lists that are text too, and the digits of every whole number."""
    if isinstance(value, dict):
        return set().union(*(texts_in(inner) for pair in value.items() for inner in pair))
    if isinstance(value, list):
        return set().union(*map(texts_in, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return {str(value)}
    if not isinstance(value, str):
        return set()
    found = {value, value.strip(), value.replace("\u200b", "").replace("\u2060", "").replace("\ufeff", "")}
    for reads in (json.loads, ast.literal_eval):
        try:
            inner = reads(value)
        except (ValueError, SyntaxError):
            continue
        if not isinstance(inner, str):
            found |= texts_in(inner)
    return found


def is_made_of(text: str, texts: set[str]) -> bool:
    """Whether `text` is nothing but some of `texts`, one after the other, with line breaks between them."""
    reached = {0}
    ends = [t for t in (*texts, "\n", "\n\n") if t]
    for at in range(len(text)):
        if at in reached:
            reached |= {at + len(t) for t in ends if text.startswith(t, at)}
    return len(text) in reached


def without_calls(text: str, row: Any) -> str:
    """The text without the calls in it, each of which says what the row says."""
    before, opens, rest = text.partition(OPENS)
    if not opens:
        return text
    call, _, after = rest.partition(CLOSES)
    made = json.loads(call)
    assert made.keys() == {"name", "arguments"}
    assert texts_in(made) - {"name", "arguments"} <= texts_in(row) | {made["name"]}
    assert made["name"] in texts_in(row)
    return before + without_calls(after, row)


def check(reading, made: list[Any]) -> None:
    """Every answer holds what its row holds; every row is a conversation or counted."""
    assert reading.rows == len(made)
    for conversation in reading.conversations:
        row = made[conversation.row]
        texts = texts_in(row)
        assert not any(message.calls for message in conversation.messages)
        speakers = ["", *(message.role for message in conversation.messages)]
        assert all(before in ("assistant", "tool") for before, role in pairwise(speakers) if role == "tool")
        for message in conversation.messages:
            if message.role not in ("assistant", "text"):
                continue
            said = without_calls(message.content, row)
            if reading.formats[reading.name] == "multiple-choice":
                letter, dot, choice = said.partition(". ")
                listed = letter in str(row["question"]).upper()
                assert choice in texts or said in texts if dot else letter in texts or (len(letter) == 1 and listed)
            else:
                assert is_made_of(said, texts), (said, row)


@given(made=sources, settings=options)
@EXAMPLES
def test_any_json_in_any_column(made, settings):
    with tempfile.TemporaryDirectory() as folder:
        try:
            reading = read(Path(folder), made, "jsonl", **settings)
        except UnnormError:
            return
        known = next(form for form in FORMATS if form.name == reading.formats[reading.name])
        left_out(known, made)
        joined = reading.changed["joined to the row it continues"]
        assert len(reading.conversations) + sum(reading.dropped.values()) + joined == len(made)
        check(reading, made)


@given(made=tables, kind=st.sampled_from(["csv", "parquet"]))
@EXAMPLES
def test_any_table(made, kind):
    if not any(made):
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = write(Path(folder), kind, made)
        except (ValueError, TypeError, OverflowError, NotImplementedError):  # what a Parquet column cannot hold
            return
        try:
            reading = read_settings(DataSettings(source=path), quiet=True)
        except DataError:
            return
        held = [{c: cell(v) for c, v in row.items()} for row in made] if kind == "csv" else made
        check(reading, held)


@given(made=st.lists(chats, min_size=1, max_size=3), template=st.sampled_from(["plain", "alpaca", "chatml"]))
@EXAMPLES
def test_what_is_trained_is_what_the_answers_say(tokenizer, made, template):
    with tempfile.TemporaryDirectory() as folder:
        try:
            reading = read(Path(folder), made)
        except DataError:
            return
    for conversation in reading.conversations:
        encoding = encode([conversation], tokenizer, template=template, max_length=4096, quiet=True)
        for row in encoding.rows:
            trained = row.ids[1:][row.labels[1:] != IGNORED]
            ends = "<|im_end|><|endoftext|>" if template == "chatml" else "<|endoftext|>"
            answers = [m.content + ends for m in conversation.messages if m.role == "assistant" and m.weight != 0]
            text = tokenizer.decode(np.asarray(trained), clean_up_tokenization_spaces=False)
            assert text == "".join(answers)


@pytest.mark.parametrize("column", COLUMNS)
def test_each_column_alone_is_read_or_refused(tmp_path, column):
    for value in (None, 0, 1.5, True, "x", [], ["x"], [[]], {}, {"a": 1}, [{"role": 1}], [{"from": []}], "[", "[[]]"):
        try:
            reading = read(tmp_path, [{column: value}])
        except DataError:
            continue
        assert column == "text"
        assert reading.conversations[0].messages[0].content == value


def test_rows_that_only_look_alike_are_told_apart():
    for form in FORMATS:
        with pytest.raises(DataError, match="is not known"):
            recognise([{}], form.name)
