"""Whatever is done to a file: no crash, no byte unaccounted for, nothing invented, nothing far from the damage lost."""

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.repair import faults
from data.repair.properties import check, survive

EXAMPLES = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
MARKS = b"{}[]\",:\\\n\0\xff\xef ab1'"


def mutate(text: bytes, chance: random.Random, times: int) -> bytes:
    """`text` after `times` deletions, doublings, flips, insertions, splices and cuts."""
    data = bytearray(text)
    for _ in range(times):
        at, length = chance.randrange(len(data)), chance.choice((1, 1, 1, 2, 5, 40, 400))
        match chance.randrange(7):
            case 0:
                del data[at : at + length]
            case 1:
                data[at:at] = data[at : at + length]
            case 2:
                data[at] ^= 1 << chance.randrange(8)
            case 3:
                data[at:at] = bytes(chance.choice(MARKS) for _ in range(min(length, 6)))
            case 4:
                other = chance.randrange(len(data))
                data[at:at] = data[other : other + length]
            case 5:
                data[at : at + length] = chance.randbytes(min(length, 40))
            case 6:
                del data[at : len(data) if chance.random() < 0.3 else at + 1]
        data = data or bytearray(b"{")
    return bytes(data)


def checked(text: bytes, **options):
    with tempfile.TemporaryDirectory() as folder:
        return check(text, Path(folder) / "rows", **options)[0]


@pytest.mark.parametrize("name", ["made", "alpaca", "sharegpt", "mt_bench"])
@EXAMPLES
@given(seed=st.integers(0, 2**32), layout=st.sampled_from(list(faults.LAYOUTS)), times=st.sampled_from((1, 2, 4, 10)))
def test_a_file_damaged_at_random(request, name, seed, layout, times):
    chance = random.Random(seed)
    rows = rows_of(request, name)
    begin = chance.randrange(len(rows))
    opening, texts, between, closing = faults.LAYOUTS[layout](rows[begin : begin + chance.randrange(1, 20)])
    text = mutate(opening + between.join(texts) + closing, chance, times)
    checked(text, max_record=chance.choice((64 << 20, 2000)))


@pytest.mark.parametrize("name", ["made", "alpaca", "sharegpt", "mt_bench"])
@EXAMPLES
@given(seed=st.integers(0, 2**32), layout=st.sampled_from(list(faults.LAYOUTS)), times=st.sampled_from((1, 1, 2, 3)))
def test_records_beside_a_damaged_one_survive(request, name, seed, layout, times):
    chance = random.Random(seed)
    rows = rows_of(request, name)[:16]
    opening, texts, between, closing = faults.LAYOUTS[layout](rows)
    number = chance.randrange(4, len(rows) - 2)
    parts = [*texts[:number], mutate(texts[number], chance, times), *texts[number + 1 :]]
    survive(rows[:number] + rows[number + 1 :], checked(opening + between.join(parts) + closing))


def rows_of(request, name):
    if name == "made":
        return faults.made_rows(random.Random(0), 40)
    return faults.real_rows(request.getfixturevalue("shared"), name)[: 16 if name == "sharegpt" else 60]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc\"\\{é", max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
json_rows = st.lists(st.dictionaries(st.text("abcdé {", max_size=5), json_values, max_size=4), min_size=1, max_size=8)


@EXAMPLES
@given(rows=json_rows, layout=st.sampled_from(list(faults.LAYOUTS)))
def test_any_healthy_rows_come_out_as_they_are(rows, layout):
    opening, texts, between, closing = faults.LAYOUTS[layout](rows)
    assert checked(opening + between.join(texts) + closing) == rows


@EXAMPLES
@given(rows=json_rows, layout=st.sampled_from(list(faults.LAYOUTS)), seed=st.integers(0, 2**32))
def test_any_rows_damaged_at_random(rows, layout, seed):
    opening, texts, between, closing = faults.LAYOUTS[layout](rows)
    checked(mutate(opening + between.join(texts) + closing, random.Random(seed), 2))


@EXAMPLES
@given(text=st.binary(min_size=1, max_size=300) | st.text("{}[]\":,\\a1 \n'", min_size=1).map(str.encode))
def test_anything_at_all(text):
    if text[:2] in (b"\x1f\x8b", b"\xff\xfe", b"\xfe\xff") or b"\0" in text[:4]:
        return  # other layers, with tests of their own
    checked(text)
