import itertools

from hypothesis import given
from hypothesis import strategies as st

from data.chats import chat, said
from unnorm.data.formats.chats import join

WHOLE = [f"{'ua'[i % 2]}:turn {i}" for i in range(12)]


def part(stem: str, start: int, end: int):
    return chat(*WHOLE[start:end], id=f"{stem}_{start}")


def test_parts_are_joined_in_the_order_of_their_turns():
    other = chat("u:x", "a:y", id="other_0")
    joined = join([part("c", 7, 12), other, part("c", 0, 4), part("c", 4, 7)], "join")
    assert sorted(len(c.messages) for c in joined.conversations) == [2, 12]
    (whole,) = (c for c in joined.conversations if c.id == "c_0")
    assert said(whole) == WHOLE
    assert whole.changes == ("continued by c_4", "continued by c_7")
    assert joined.changed == {"joined to the row it continues": 2}
    assert not joined.dropped
    assert not joined.noted


def test_a_part_that_repeats_the_end_is_joined_once():
    joined = join([part("c", 0, 5), part("c", 4, 8)], "join")
    assert [said(c) for c in joined.conversations] == [WHOLE[:8]]


def test_where_a_part_is_missing_nothing_is_joined():
    joined = join([part("c", 0, 4), part("c", 6, 8), part("c", 8, 10)], "join")
    assert [said(c) for c in joined.conversations] == [WHOLE[:4], WHOLE[6:10]]
    assert joined.noted == {"by its id continues another row, but is not joined": 1}
    assert joined.changed == {"joined to the row it continues": 1}


def test_rows_that_are_only_numbered_stay_apart():
    rows = [chat("u:q", f"a:{i}", id=f"identity_{i}") for i in range(5)]
    joined = join(rows, "join")
    assert joined.conversations == rows
    assert joined.noted == {"by its id continues another row, but is not joined": 4}


def test_rows_that_are_only_numbered_stay_apart_where_numbers_are_missing():
    rows = [chat(f"u:question {i}", f"a:{i}", id=f"row_{i}") for i in (0, 1, 3, 4, 7, 8, 10)]
    joined = join(rows, "join")
    assert joined.conversations == rows
    assert not joined.changed
    assert joined.noted == {"by its id continues another row, but is not joined": 6}


def test_other_policies():
    rows = [part("c", 0, 4), part("c", 4, 8)]
    assert join(rows, "apart").conversations == rows
    assert join(rows, "apart").noted == {"by its id continues another row, but is not joined": 1}
    dropped = join(rows, "drop")
    assert [said(c) for c in dropped.conversations] == [WHOLE[:4]]
    assert dropped.dropped == {"by its id continues another row": 1}


@given(st.sets(st.integers(1, 11)), st.randoms(use_true_random=False))
def test_however_a_conversation_was_cut_it_is_whole_again(cuts, random):
    ends = [0, *sorted(cuts), 12]
    rows = [part("c", a, b) for a, b in itertools.pairwise(ends)]
    random.shuffle(rows)
    (whole,) = join(rows, "join").conversations
    assert said(whole) == WHOLE
