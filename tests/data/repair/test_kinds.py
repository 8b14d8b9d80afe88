"""Every kind of damage, put into real and made rows in every layout: what comes back, and what is said about it."""

import random

import orjson
import pytest

from data.repair import faults
from data.repair.properties import check, records, run, survive
from unnorm.data.repair.damage import Damage, Kept, Rejected

ROWS = 24
SETS = ("made", "alpaca", "sharegpt", "mt_bench")


@pytest.fixture(scope="module")
def rows_of(request):
    def rows(name):
        if name == "made":
            return faults.made_rows(random.Random(0), ROWS)
        return faults.real_rows(request.getfixturevalue("shared"), name)[: 16 if name == "sharegpt" else ROWS]

    return rows


def damaged_file(rows, layout, fault, chance):
    """(text, which row is damaged, that row's text); the damage is one that no parser would take for whole."""
    opening, texts, between, closing = faults.LAYOUTS[layout](rows)
    for _ in range(100):
        number = chance.randrange(len(rows))
        broken = fault(texts[number], chance)
        try:
            whole = isinstance(orjson.loads(broken), dict)
        except orjson.JSONDecodeError:
            whole = False
        if not whole:
            break
    assert not whole
    parts = [*texts[:number], broken, *texts[number + 1 :]]
    return opening + between.join(parts) + closing, number, broken


@pytest.mark.parametrize("layout", faults.LAYOUTS)
@pytest.mark.parametrize("name", SETS)
def test_one_fault_costs_no_other_row_and_is_mended_or_given_up(tmp_path, rows_of, name, layout):
    rows = rows_of(name)
    kinds = faults.FAULTS | (faults.LIST_FAULTS if name != "alpaca" else {})
    for kind, fault in kinds.items():
        for seed in range(1 if name == "sharegpt" else 2):
            chance = random.Random(f"{name} {layout} {kind} {seed}")
            text, number, broken = damaged_file(rows, layout, fault, chance)
            found, events = check(text, tmp_path / "rows.json")
            case = (kind, seed, number, broken[:300])
            assert [e for e in events if isinstance(e, Damage)], case
            others = rows[:number] + rows[number + 1 :]
            if len(found) == len(rows):
                assert found[:number] + found[number + 1 :] == others, case
                if kind not in faults.CHANGING:
                    assert found[number] == rows[number], case
            else:
                assert found == others, case
                assert b"".join(e.raw for e in events if isinstance(e, Rejected)), case
            if kind in faults.EXACT:
                assert found == rows, case
            if kind == "truncated":
                assert found == others, case


@pytest.mark.parametrize("layout", faults.LAYOUTS)
@pytest.mark.parametrize("name", ["made", "sharegpt"])
def test_pairs_of_faults_in_one_row_or_in_neighbours(tmp_path, rows_of, name, layout):
    rows = rows_of(name)
    kinds = faults.FAULTS | faults.LIST_FAULTS
    chance = random.Random(f"{name} {layout}")
    opening, texts, between, closing = faults.LAYOUTS[layout](rows)
    for _ in range(25):
        first, second = chance.choice(list(kinds)), chance.choice(list(kinds))
        number = chance.randrange(6, len(rows) - 2)
        parts = list(texts)
        parts[number] = kinds[first](parts[number], chance)
        other = chance.choice((number, number + 1))
        try:
            parts[other] = kinds[second](parts[other], chance)
        except (ValueError, IndexError):  # the first fault left no place for the second
            continue
        found, _ = check(opening + between.join(parts) + closing, tmp_path / "rows.json")
        survive(rows[:number] + rows[max(number, other) + 1 :], found)


GOOD = [{"id": n, "text": f"text {n}", "tags": ["a", "b"]} for n in range(6)]


WHOLE = {"id": 7, "text": "a", "tags": []}
LISTED = {"id": 7, "text": "a", "tags": ["b"]}


def with_row(raw: str, layout: str = "lines") -> bytes:
    opening, texts, between, closing = faults.LAYOUTS[layout](GOOD)
    return opening + between.join([*texts[:5], raw.encode("utf-8", "surrogatepass"), texts[5]]) + closing


@pytest.mark.parametrize(
    ("raw", "row", "damage"),
    [
        ('{"id": 7, "text": "a" "tags": []}', WHOLE, ("missing comma", 22, 0, "mended")),
        ('{"id": 7,, "text": "a", "tags": []}', WHOLE, ("doubled comma", 9, 1, "removed")),
        ('{"id": 7, "text": "a", "tags": ["b",]}', LISTED, ("trailing comma", 35, 1, "removed")),
        ('{"id": 7, "text" "a", "tags": []}', WHOLE, ("missing colon", 17, 0, "mended")),
        ('{"id":: 7, "text": "a", "tags": []}', WHOLE, ("doubled colon", 6, 1, "removed")),
        ('{"id": 7, "text": "a, "tags": []}', WHOLE, ("missing quote", 20, 0, "mended")),
        ('{"id": 7, "text": a", "tags": []}', WHOLE, ("missing quote", 18, 0, "mended")),
        ('{"id": 7, text": "a", "tags": []}', WHOLE, ("missing quote", 10, 0, "mended")),
        ('{"id": 7, "text": ""a", "tags": []}', WHOLE, ("doubled quote", 18, 1, "removed")),
        ('{"id": 7, "text": "a"", "tags": []}', WHOLE, ("doubled quote", 21, 1, "removed")),
        (
            '{"id": 7, "text": "say "a" now", "tags": []}',
            {"id": 7, "text": 'say "a" now', "tags": []},
            ("unescaped quote", 23, 1, "mended"),
        ),
        ('{"id": 7, "text": "a", "tags": ["b"}', LISTED, ("missing bracket", 35, 0, "mended")),
        ('{"id": 7, "text": "a", "tags": ["b"]]}', LISTED, ("doubled bracket", 36, 1, "removed")),
        ('{"id": 7, "text": "a", "tags": "b"]}', LISTED, ("missing bracket", 31, 0, "mended")),
        ('{"id": 7, "text": "a", "tags": [["b"]}', LISTED, ("doubled bracket", 32, 1, "removed")),
        ('{"id": 7, "text": "a", "tags": []', WHOLE, ("missing brace", 33, 0, "mended")),
        ('"id": 7, "text": "a", "tags": []}', WHOLE, ("missing brace", 0, 0, "mended")),
        ('{{"id": 7, "text": "a", "tags": []}', WHOLE, ("doubled brace", 0, 1, "rejected")),
        (
            '{"id": 7, "text": "a\nb\tc\0d", "tags": []}',
            {"id": 7, "text": "a\nb\tc\0d", "tags": []},
            ("control character in a string", 20, 5, "mended"),
        ),
        ('{"id": 7, \0"text": "a", "tags": []}', WHOLE, ("control character", 10, 1, "removed")),
        ('{"id": 7, \ufeff"text": "a", "tags": []}', WHOLE, ("byte order mark", 10, 3, "removed")),
        (
            '{"id": 7, "text": "a\ud83db", "tags": []}',
            {"id": 7, "text": "a\ufffdb", "tags": []},
            ("invalid utf-8", 20, 3, "replaced"),
        ),
        (
            '{"id": 7, "text": "a\\ud83db", "tags": []}',
            {"id": 7, "text": "a\ufffdb", "tags": []},
            ("lone surrogate", 20, 6, "replaced"),
        ),
        (
            '{"id": 7, "text": "a\\d", "tags": []}',
            {"id": 7, "text": "a\\d", "tags": []},
            ("invalid escape", 20, 1, "mended"),
        ),
        (
            '{"id": NaN, "text": "a", "tags": []}',
            {"id": None, "text": "a", "tags": []},
            ("not a number", 7, 3, "replaced"),
        ),
        (
            '{"id": -Infinity, "text": "a", "tags": []}',
            {"id": None, "text": "a", "tags": []},
            ("not a number", 7, 9, "replaced"),
        ),
        (
            '{"id": None, "text": "a", "tags": []}',
            {"id": None, "text": "a", "tags": []},
            ("python literal", 7, 4, "mended"),
        ),
        (
            '{"id": 7, "text": \'it\\\'s "a"\', "tags": []}',
            {"id": 7, "text": 'it\'s "a"', "tags": []},
            ("single quotes", 18, 11, "mended"),
        ),
        ('{id: 7, "text": "a", "tags": []}', WHOLE, ("unquoted key", 1, 2, "mended")),
        ('"{\\"id\\": 7, \\"text\\": \\"a\\"}"', {"id": 7, "text": "a"}, ("encoded twice", 0, 30, "decoded")),
        ('"[{\\"id\\": 7}, {\\"id\\": 8}]"', [{"id": 7}, {"id": 8}], ("encoded twice", 0, 28, "decoded")),
    ],
)
def test_a_row_is_mended_and_the_report_says_where(tmp_path, raw, row, damage):
    text = with_row(raw)
    found, events = check(text, tmp_path / "rows.jsonl")
    assert found == [*GOOD[:5], *(row if isinstance(row, list) else [row]), GOOD[5]]
    at = text.index(raw.encode("utf-8", "surrogatepass"))
    mentioned = [(d.kind, d.offset - at, d.length, d.action) for d in events if isinstance(d, Damage)]
    assert mentioned == [damage]


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        ('{"id": 7, "text": "a", "tags": ["b', "truncated record"),
        ('{"id": 7, "text": "a",', "truncated record"),
        ('{"id": 7, "text": "a"', "truncated record"),  # `tags` is missing: the row may have been cut there
        ('{"id": 7, "tags": [], "text": "a', "truncated record"),
        ('{"id": 7, : "a", "tags": []}', "missing key"),
        ('{"id": 7, "text": , "tags": []}', "missing value"),
        ('{"id": 7, "text": "a" "tags" "b": []}', "broken string"),
        ('"a string with a {brace} and no record"', "stray text"),
        ("Traceback (most recent call last):", "stray text"),
        ("17", "no record"),
        ("null", "no record"),
    ],
)
def test_what_cannot_be_told_is_given_up_as_it_was(tmp_path, raw, kind):
    text = with_row(raw)
    found, events = check(text, tmp_path / "rows.jsonl")
    assert found == GOOD
    given_up = [event for event in events if isinstance(event, Rejected)]
    assert given_up[0].kind == kind
    assert b"".join(event.raw for event in given_up).replace(b" ", b"") in raw.encode().replace(b" ", b"")


def test_a_cut_row_is_whole_only_if_it_has_what_others_have(tmp_path):
    found, _ = check(with_row('{"id": 7, "text": "a", "tags": ["b"]'), tmp_path / "rows.jsonl")
    assert {"id": 7, "text": "a", "tags": ["b"]} in found
    found, _ = check(with_row('{"text": "a", "tags": ["b"], "id": 7'), tmp_path / "rows.jsonl")
    assert found == GOOD  # the number may have had more digits, and keys in this order are not known


def test_healthy_records_are_copied_as_they_were_written(tmp_path):
    odd = b'{"big": 123456789012345678901234567890, "e": 1E5, "z": -0.0, "a": 1, "a": 2, '
    odd += b'"s": "\\u00e9\\/\xc3\xa9\xef\xbb\xbf"}'
    odd += b"\n" + b'{"deep": ' + b"[" * 2000 + b"]" * 2000 + b', "huge": 1e999}'
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"[" + odd.replace(b"\n", b" , ") + b"]")
    repair, events = run(path)
    assert repair.account.adds_up
    lines = b"".join(event.lines for event in events if isinstance(event, Kept))
    assert lines == odd.replace(b": ", b":").replace(b", ", b",") + b"\n"
    assert not [event for event in events if isinstance(event, Damage)]


def test_mojibake_and_text_that_looks_like_json_are_left_alone(tmp_path):
    rows = [{"a": "cafÃ© â€™", "b": '{"a": 1}, {"b": "c"'}, {"a": '"]}, {"a": "', "b": "'x': None, NaN"}] * 5
    for layout in faults.LAYOUTS.values():
        opening, texts, between, closing = layout(rows)
        found, events = check(opening + between.join(texts) + closing, tmp_path / "rows")
        assert found == rows
        assert not [event for event in events if isinstance(event, Damage)]


def test_columns_that_differ_and_drift_are_no_damage(tmp_path):
    rows = [{"a": "x"}, {"a": ["x"]}, {"a": None}, {"a": {"b": 1}}, {"b": 1}, {}, {"c": 1, "a": "y"}] * 3
    for layout in faults.LAYOUTS.values():
        opening, texts, between, closing = layout(rows)
        found, events = check(opening + between.join(texts) + closing, tmp_path / "rows")
        assert found == rows
        assert not [event for event in events if isinstance(event, Damage)]


def test_the_first_row_broken(tmp_path):
    for raw in ('{"id": 7, "text": "a" "tags": []}', '{"id": 7, "text": "a", "tags": ["b"', '{"id": 7, "tex'):
        for name, layout in faults.LAYOUTS.items():
            opening, texts, between, closing = layout(GOOD)
            text = opening + between.join([raw.encode(), *texts]) + closing
            found, _ = check(text, tmp_path / "rows")
            assert records_without(found, 7) == GOOD, (name, raw, found)


def records_without(found, number):
    return [record for record in found if record.get("id") != number]


def test_every_row_broken_alike(tmp_path):
    rows = faults.made_rows(random.Random(1), 12)
    text = b"\n".join(repr(row).encode("utf-8") for row in rows)
    assert check(text, tmp_path / "rows.jsonl")[0] == rows
    text = b"".join(orjson.dumps(row)[:-1] + b",}\n" for row in rows)
    assert check(text, tmp_path / "rows.jsonl")[0] == rows


def test_the_events_of_a_file_are_in_its_order(tmp_path):
    chance = random.Random(5)
    rows = faults.made_rows(chance, 20)
    opening, texts, between, closing = faults.pretty(rows)
    parts = [faults.truncated(t, chance) if n % 5 == 3 else t for n, t in enumerate(texts)]
    _, events = check(opening + between.join(parts) + closing, tmp_path / "rows")
    offsets = [event.offset for event in events if isinstance(event, Rejected)]
    assert offsets == sorted(offsets)
    assert len(offsets) == 4
    assert records(events) == [row for n, row in enumerate(rows) if n % 5 != 3]
