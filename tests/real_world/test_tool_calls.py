"""Calls of tools: one policy, whatever form they come in; nothing is trained across a call or a result that is gone."""

import json

import pytest

from real_world.rows import read, said
from unnorm.data.chat_template import Refused
from unnorm.data.conversation import Message
from unnorm.data.policies import CALLS, EMPTY_RESULT, NO_CALL, NO_RESULT
from unnorm.data.templates import template_of
from unnorm.foundation.errors import DataError

PLAIN = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
ASKED = {"role": "user", "content": "Is it warm in Bonn?"}
RESULT = {"role": "tool", "content": "21 degrees"}
ANSWER = {"role": "assistant", "content": "Yes, 21 degrees."}
WRITTEN = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>'
CALL = {"name": "weather", "arguments": '{"city": "Bonn"}'}


def calling(**fields) -> dict:
    return {"role": "assistant", **fields}


FORMS = {
    "OpenAI's, beside empty text": calling(content="", tool_calls=[{"id": "1", "type": "function", "function": CALL}]),
    "OpenAI's, beside null": calling(content=None, tool_calls=[{"id": "1", "type": "function", "function": CALL}]),
    "without content": calling(tool_calls=[{"function": CALL}]),
    "arguments as an object": calling(content=None, tool_calls=[{"function": {**CALL, "arguments": {"city": "Bonn"}}}]),
    "with the nulls of Parquet": calling(
        content=None,
        tool_calls=[{"id": None, "function": {"name": "weather", "arguments": {"city": "Bonn", "day": None}}}],
        function_call={"name": None, "arguments": None},
    ),
    "flat": calling(content=None, tool_calls=[{"name": "weather", "parameters": {"city": "Bonn"}}]),
    "as JSON text": calling(content=None, tool_calls=json.dumps([CALL])),
    "OpenAI's older one": calling(content=None, function_call=CALL),
    "the same in both": calling(content=None, function_call=CALL, tool_calls=[{"function": CALL}]),
    "a role of its own": {"role": "function_call", "content": json.dumps({**CALL, "arguments": {"city": "Bonn"}})},
    "Anthropic's": calling(content=[{"type": "tool_use", "id": "1", "name": "weather", "input": {"city": "Bonn"}}]),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_call_is_dropped_with_its_conversation_or_written_as_text(tmp_path, form):
    rows = [PLAIN, {"messages": [ASKED, FORMS[form], RESULT, ANSWER]}]
    dropping = read(tmp_path, rows)
    assert dropping.dropped == {CALLS: 1}
    assert said(dropping) == [["user: q", "assistant: a"]]
    written = read(tmp_path, rows, policies={"tool_calls": "text"})
    assert written.dropped == {}
    assert written.changed == {"tool calls written as text": 1}
    assert said(written)[1] == [
        "user: Is it warm in Bonn?", f"assistant: {WRITTEN}", "tool: 21 degrees", "assistant: Yes, 21 degrees.",
    ]  # fmt: skip
    assert not any(message.calls for c in written.conversations for message in c.messages)


def test_text_beside_a_call_stays_and_several_calls_follow_each_other(tmp_path):
    other = {"name": "time", "arguments": {}}
    call = calling(content="Let me see.", tool_calls=[{"function": CALL}, {"function": other}, {"function": CALL}])
    rows = [{"messages": [ASKED, call, RESULT, RESULT, RESULT, ANSWER]}]
    with pytest.raises(DataError, match=r"1 × calls a tool \(policy tool_calls: drop\)"):
        read(tmp_path, rows)
    (turns,) = said(read(tmp_path, rows, policies={"tool_calls": "text"}))
    time = WRITTEN.replace("weather", "time").replace('{"city": "Bonn"}', "{}")
    assert turns[1] == f"assistant: Let me see.\n{WRITTEN}\n{time}\n{WRITTEN}"


@pytest.mark.parametrize("none", [None, [], "", {}, [None], {"name": None, "arguments": None}])
def test_no_calls_are_no_calls(tmp_path, none):
    row = {"messages": [ASKED, {**ANSWER, "tool_calls": none}]}
    reading = read(tmp_path, [row])
    assert said(reading) == [["user: Is it warm in Bonn?", "assistant: Yes, 21 degrees."]]
    assert not reading.changed


@pytest.mark.parametrize("role", ["tool", "function", "ipython", "observation", "tool_response"])
def test_results_of_any_name_after_a_call_that_is_text_stay(tmp_path, role):
    row = {"messages": [ASKED, calling(content="weather(Bonn)"), {**RESULT, "role": role}, ANSWER]}
    assert said(read(tmp_path, [row]))[0][1:3] == ["assistant: weather(Bonn)", "tool: 21 degrees"]


def test_results_within_a_question(tmp_path):
    result = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "21 degrees"}]}
    row = {"messages": [ASKED, FORMS["Anthropic's"], {"role": "user", "content": [
        result, {"type": "text", "text": "So?"}]}, ANSWER]}  # fmt: skip
    assert said(read(tmp_path, [row], policies={"tool_calls": "text"}))[0][2:] == [
        "tool: 21 degrees", "user: So?", "assistant: Yes, 21 degrees.",
    ]  # fmt: skip


@pytest.mark.parametrize("policy", ["drop", "text"])
@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([ASKED, RESULT, ANSWER], NO_CALL),
        ([ASKED, calling(content=""), RESULT, ANSWER], NO_CALL),
        ([ASKED, calling(content="\u200b"), RESULT, ANSWER], NO_CALL),
        ([ASKED, calling(content="weather(Bonn)"), {**RESULT, "content": " "}, ANSWER], EMPTY_RESULT),
        ([ASKED, calling(content="", tool_calls=["weather"]), RESULT, ANSWER], "a tool call of an unknown form"),
        ([ASKED, calling(content="", tool_calls="weather()"), RESULT, ANSWER], "a tool call of an unknown form"),
        ([ASKED, calling(content="", tool_calls=[{"id": "1"}]), RESULT, ANSWER], "a tool call of an unknown form"),
        ([ASKED, {"role": "function_call", "content": "weather()"}, ANSWER], "a tool call of an unknown form"),
        ([{**ASKED, "tool_calls": [CALL]}, ANSWER], "a tool call in a turn that is no answer"),
        ([ASKED, calling(content=None), RESULT, ANSWER], "a turn that is not text"),
        ([ASKED, calling(content=[{"type": "tool_use", **CALL}, {"type": "text", "text": "So."}])],
         "a turn that goes on after its tool call"),
        ([ASKED, calling(content=[{"type": "tool_result", "content": "x"}])], "a tool's result within an answer"),
    ],
)  # fmt: skip
def test_what_misses_a_part_is_dropped_under_any_policy(tmp_path, turns, reason, policy):
    reading = read(tmp_path, [PLAIN, {"messages": turns}], policies={"tool_calls": policy})
    assert reading.dropped == {reason: 1}
    assert len(reading.conversations) == 1


@pytest.mark.parametrize("between", [[], [{"role": "user", "content": ""}]])
def test_an_answer_does_not_follow_a_call_that_has_no_result(tmp_path, between):
    row = {"messages": [ASKED, FORMS["flat"], *between, ANSWER]}
    assert read(tmp_path, [PLAIN, row], policies={"tool_calls": "text"}).dropped == {NO_RESULT: 1}


def test_a_call_that_nothing_came_back_from_may_end_a_conversation(tmp_path):
    rows = [{"messages": [ASKED, FORMS["flat"]]}, {"messages": [ASKED, FORMS["flat"], RESULT]}]
    reading = read(tmp_path, rows, policies={"tool_calls": "text"})
    assert said(reading) == [["user: Is it warm in Bonn?", f"assistant: {WRITTEN}"]] * 2
    assert reading.changed["closing turn without an answer dropped"] == 1


def test_arguments_keep_what_they_say(tmp_path):
    arguments = {"n": 10**18, "x": 0.1, "to": "Köln", "deep": [{"a": None, "b": [None, "c"]}]}
    row = {"messages": [ASKED, calling(tool_calls=[{"name": "f", "arguments": arguments}])]}
    ((_, call),) = said(read(tmp_path, [row], policies={"tool_calls": "text"}))
    inner = json.loads(call.removeprefix("assistant: <tool_call>\n").removesuffix("\n</tool_call>"))
    assert inner == {"name": "f", "arguments": {**arguments, "deep": [{"b": [None, "c"]}]}}
    assert "Köln" in call


DEAF = (
    "{% for m in messages %}{% if m.role in ('user', 'assistant') %}<{{ m.role }}>{{ m.content }}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_a_chat_template_that_leaves_results_out_is_refused(tmp_path, tokenizer):
    path = tmp_path / "deaf.jinja"
    path.write_text(DEAF)
    template = template_of(str(path), tokenizer)
    turns = [Message("user", "q"), Message("assistant", "weather(Bonn)")]
    assert template.render(turns)
    with pytest.raises(Refused, match="leaves out the results of tools"):
        template.render([*turns, Message("tool", "21 degrees"), Message("assistant", "Yes.")])
