from hypothesis import given
from hypothesis import strategies as st

from data.chats import chat
from unnorm.data.conversation import Conversation, Message, prompt_hash
from unnorm.data.split import VALIDATION_SHARE, shuffled, split, split_for_search


def conversation(prompt: str, answer: str, row: int = 0, given: str = "") -> Conversation:
    return Conversation((Message("user", prompt, given), Message("assistant", answer)), "test", row)


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=200))
def test_no_prompt_is_on_both_sides(pairs):
    rows = [conversation(prompt, answer, i) for i, (prompt, answer) in enumerate(pairs)]
    rows += [conversation(f"filler {i}", "x", i) for i in range(200)]
    train, held_out = split(rows)
    assert len(train) + len(held_out) == len(rows)
    keys = [{(c.messages[0].content.strip(), c.messages[0].input.strip()) for c in side} for side in (train, held_out)]
    assert not keys[0] & keys[1]


def test_the_split_is_pinned():
    """The same on every machine and in every version: runs made years apart share their held-out rows."""
    rows = [conversation(f"prompt {i}", "x", i) for i in range(100)]
    train, held_out = split(rows)
    assert sorted(c.row for c in held_out) == [19, 29, 61, 71, 81, 98]
    assert sorted(c.row for c in split_for_search(train)[1]) == [3, 5, 70]


def test_what_is_held_out_for_a_search_is_in_the_training_part_and_about_as_much():
    train, held_out = split([conversation(f"prompt {i}", "x", i) for i in range(20_000)])
    rest, for_search = split_for_search(train)
    assert {c.row for c in rest} | {c.row for c in for_search} == {c.row for c in train}
    assert not {c.row for c in for_search} & ({c.row for c in rest} | {c.row for c in held_out})
    assert abs(len(for_search) / len(train) - VALIDATION_SHARE) < 0.01


def test_the_share_is_about_right():
    rows = [conversation(f"prompt {i}", "x") for i in range(20_000)]
    _, held_out = split(rows)
    assert abs(len(held_out) / len(rows) - VALIDATION_SHARE) < 0.01


def test_order_depends_on_the_seed_alone():
    rows = [conversation(f"prompt {i}", "x", i) for i in range(50)]
    assert shuffled(rows, 3) == shuffled(rows, 3)
    assert shuffled(rows, 3) != shuffled(rows, 4)
    assert sorted(c.row for c in shuffled(rows, 3)) == list(range(50))


def test_a_greeting_before_the_first_question_does_not_hide_what_is_asked():
    """Kept as context, it stands between a system prompt, which all rows may share, and the question."""
    rows = [chat("s:You are Bob.", "a:Hello!", f"u:question {i}", "a:x", row=i) for i in range(200)]
    plain = [chat("s:You are Bob.", f"u:question {i}", "a:x", row=i) for i in range(200)]
    train, held_out = split(rows)
    assert len(train) + len(held_out) == 200
    assert 2 <= len(held_out) <= 30
    assert [c.row for c in held_out] == [c.row for c in split(plain)[1]]
    same = [chat("s:You are Bob.", "a:Hello!", "u:q", f"a:{i}") for i in range(20)]
    assert len(set(map(prompt_hash, same))) == 1
