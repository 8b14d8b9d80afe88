import itertools

from hypothesis import given
from hypothesis import strategies as st

from data.chats import chat, said
from unnorm.data.conversation import Message
from unnorm.data.rounds import group, part_of, rounds_of


def test_rounds():
    conversation = chat("s:be kind", "u:1", "a:2", "t:3", "a:4", "u:5", "a:6")
    rounds = rounds_of(conversation.messages)
    assert [len(round_) for round_ in rounds.rounds] == [4, 2]
    assert said(part_of(conversation, rounds, [1])) == ["s:be kind", "u:5", "a:6"]
    assert part_of(conversation, rounds, [1]).changes == ("split by rounds",)


def test_context_before_the_first_question_belongs_to_its_round():
    rounds = rounds_of(chat("a:0", "u:1", "a:2", "u:3", "a:4").messages)
    assert [[m.content for m in round_] for round_ in rounds.rounds] == [["0", "1", "2"], ["3", "4"]]


roles = st.lists(st.sampled_from(["system", "user", "assistant", "tool"]), max_size=12)


@given(roles)
def test_every_turn_is_in_one_round(made):
    messages = tuple(Message(role, str(i)) for i, role in enumerate(made))
    rounds = rounds_of(messages)
    assert rounds.head + tuple(m for round_ in rounds.rounds for m in round_) == messages


@given(st.lists(st.integers(1, 20), max_size=30))
def test_groups_keep_every_round_in_order_and_fit(lengths):
    groups = group(lengths, 12)
    assert [i for chosen in groups for i in chosen] == list(range(len(lengths)))
    for chosen in groups:
        assert len(chosen) == 1 or sum(lengths[i] for i in chosen) <= 12
    for a, b in itertools.pairwise(groups):  # no two neighbours could have been one
        assert sum(lengths[i] for i in a) + lengths[b[0]] > 12
