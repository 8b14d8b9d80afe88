"""The demo's corpus: the same everywhere, every family present, its answers right by another route than its own."""

import hashlib
import json
import re

import pytest

from unnorm.demo import lexicon as lex
from unnorm.demo.grammar import DEMO_PROMPTS, families, generate, labelled

PARTS = ("pretrain", "finetune")
LABELLED = {part: labelled(3000, 5, part) for part in PARTS}


def rows_of(family: str, part: str) -> list[dict[str, str]]:
    return [row for name, row in LABELLED[part] if name == family]


def asked(row: dict[str, str]) -> str:
    return f"{row['instruction']} {row['input']}"


def words(text: str) -> list[str]:
    """The listable words of `text`, in order."""
    return [word for word in re.findall(r"[a-z]+", text) if word in lex.WORDS]


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


# Pinned: whoever changes grammar.py, wording.py or lexicon.py changes the demo's base and every number it shows, and
# pins the new hash here.
@pytest.mark.parametrize(
    ("part", "digest"),
    [("pretrain", "eaa8f7b96846df9c"), ("finetune", "380e528db9f5d613")],
)
def test_corpus_is_pinned(part, digest):
    text = json.dumps(generate(200, 0, part))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("part", PARTS)
def test_rows_are_deterministic_and_a_prefix_of_a_longer_corpus(part):
    assert generate(50, 3, part) == generate(50, 3, part) == generate(80, 3, part)[:50]
    assert generate(50, 3, part) != generate(50, 4, part)
    assert generate(0, 3, part) == []


@pytest.mark.parametrize("part", PARTS)
def test_every_family_appears_in_mixed_order(part):
    names = [name for name, _ in LABELLED[part][:600]]
    assert set(names) == set(families(part))
    assert len(set(names[:20])) >= 8


def test_parts_share_families_but_no_wording_and_finetune_has_its_own():
    assert set(families("pretrain")) < set(families("finetune"))
    assert len(families("finetune")) - len(families("pretrain")) >= 2
    pretrain, finetune = ({asked(row) for _, row in LABELLED[part]} for part in PARTS)
    assert not pretrain & finetune


@pytest.mark.parametrize("part", PARTS)
def test_rows_are_filled_ascii_text(part):
    for _, row in LABELLED[part]:
        assert list(row) == ["instruction", "input", "output"]
        assert row["instruction"]
        assert row["output"]
        text = "".join(row.values())
        assert text.isascii()
        assert not re.search(r"[{}|]|  |None", text)
        assert all(value == value.strip() for value in row.values())
    with_input = sum(bool(row["input"]) for _, row in LABELLED[part]) / len(LABELLED[part])
    assert 0.2 < with_input < 0.8


@pytest.mark.parametrize("part", PARTS)
def test_arithmetic(part):
    for family in ("sum", "problem"):
        for row in rows_of(family, part):
            a, op, b = re.search(r"(\d+) ([+-]) (\d+)", row["output"]).groups()
            result = int(a) + int(b) if op == "+" else int(a) - int(b)
            assert numbers(asked(row)) == [int(a), int(b)]
            assert result in numbers(row["output"].replace(f"{a} {op} {b}", ""))
            assert result > 0
            if family == "problem":
                assert (op == "+") == bool(re.search("buys|finds", asked(row)))


@pytest.mark.parametrize("part", PARTS)
def test_lists(part):
    for row in rows_of("reverse", part):
        assert words(row["output"]) == words(row["input"] or row["instruction"].partition(":")[2])[::-1]
    for row in rows_of("sort_words", part):
        assert words(row["output"]) == sorted(words(row["input"] or row["instruction"].partition(":")[2]))
    for row in rows_of("sort_numbers", part):
        assert numbers(row["output"]) == sorted(numbers(asked(row)))
    for row in rows_of("count", part):
        kinds, members = next(kind for kind in lex.KINDS.values() if kind[0] in row["instruction"])
        found = [word for word in words(row["input"] or row["instruction"].partition(":")[2]) if word in members]
        assert words(row["output"].replace("colour:", "").replace("animal:", "")) == found
        assert numbers(row["output"]) == [len(found)]
        assert (kinds in row["output"]) == (len(found) > 1)


@pytest.mark.parametrize("part", PARTS)
def test_comparisons(part):
    order = [animal[0] for animal in lex.ANIMALS]
    for row in rows_of("larger", part):
        first, second = numbers(row["output"])
        assert {first, second} == set(numbers(asked(row)))
        assert (first > second) == ("larger" in row["output"])
    for row in rows_of("bigger", part):
        first, second = words(row["output"])
        assert {first, second} == set(words(asked(row)))
        assert (order.index(first) > order.index(second)) == ("bigger" in row["output"])


def test_next_continues_the_step():
    for part in PARTS:
        for row in rows_of("next", part):
            if not numbers(asked(row)):
                continue
            a, b, c = numbers(asked(row))
            assert b - a == c - b == numbers(row["output"])[-1] - c


def test_letters_are_counted():
    for row in rows_of("letters", "pretrain"):
        x, y = re.search(r"The word (\w+) .* word (\w+)", row["output"]).groups()
        assert numbers(row["output"]) == [len(x), len(y)]


def test_yes_and_no_are_balanced_and_the_reason_decides():
    for part in PARTS:
        rows = rows_of("yesno", part)
        assert 0.35 < sum(row["output"].startswith("Yes") for row in rows) / len(rows) < 0.65
    for row in rows_of("yesno", "finetune"):
        verdict, _, reason = row["output"].partition(". ")
        assert verdict.startswith("Yes") == (reason == row["input"])


def test_questions_and_past_tense_keep_the_sentence():
    verbs = {third: (base, past) for base, third, past in (*lex.MOVES, *lex.ACTS)}
    for part in PARTS:
        for family in ("question", "past"):
            for row in rows_of(family, part):
                given = re.search(r"The .*\.$", row["input"] or row["instruction"]).group()
                the, adjective, animal, verb, *rest = given.removesuffix(".").split()
                base, past = verbs[verb]
                expected = [the.lower(), adjective, animal, base if family == "question" else past, *rest]
                assert row["output"].lower().rstrip(".?").endswith(" ".join(expected))


def test_odd_one_out_is_of_another_kind():
    kind_of = {word: kind for kind, (_, members) in lex.KINDS.items() for word in members}
    for row in rows_of("odd", "finetune"):
        odd = row["output"].split()[0].lower()
        kinds = [kind_of[word] for word in row["input"].split(", ")]
        assert kinds.count(kind_of[odd]) == 1
        assert len(set(kinds)) == 2
        assert re.search(rf"\ban? {kind_of[odd]}\b", row["output"])


def test_demo_prompts_are_of_distinct_families_and_are_worded_as_the_corpus_is():
    corpus = {re.sub(r"\w*\d\w*", "0", row["instruction"]) for part in PARTS for row in generate(20_000, 9, part)}
    assert len(DEMO_PROMPTS) == len(set(DEMO_PROMPTS)) >= 8
    fixed = [instruction for instruction, given in DEMO_PROMPTS if given]
    assert set(fixed) <= corpus
