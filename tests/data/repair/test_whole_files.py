"""What is wrong with a file as a whole: layers, arrays and lines, records over the limit, files that are no JSON."""

import gzip
import json
import random
import zlib

import pytest

from data.repair import faults
from data.repair.properties import check, records, run
from unnorm.data.repair.damage import Damage, Rejected
from unnorm.foundation.errors import DataError

ROWS = [{"id": n, "text": f"line {n}\nof äöü 漢 😀"} for n in range(30)]


def kinds(events):
    return {event.kind: event.action for event in events if isinstance(event, Damage)}


def text_of(rows, layout="pretty"):
    opening, texts, between, closing = faults.LAYOUTS[layout](rows)
    return opening + between.join(texts) + closing


@pytest.mark.parametrize("layout", faults.LAYOUTS)
def test_a_truncated_file_loses_its_last_record_alone(tmp_path, layout):
    whole = text_of(ROWS, layout)
    for cut in range(len(whole) - 1, len(whole) - 200, -13):
        found, events = check(whole[:cut], tmp_path / "rows")
        assert found == ROWS[: len(found)]
        assert len(found) >= len(ROWS) - 6
        given_up = [event for event in events if isinstance(event, Rejected)]
        assert {event.kind for event in given_up} <= {"truncated file"}
        assert len(given_up) <= 1


def test_several_arrays_and_lines_after_an_array(tmp_path):
    text = text_of(ROWS[:10]) + b"\n" + text_of(ROWS[10:20], "compact") + b"\n" + text_of(ROWS[20:], "lines")
    found, events = check(text, tmp_path / "rows")
    assert found == ROWS
    assert kinds(events) == {"several arrays": "ignored", "lines after an array": "ignored"}


@pytest.mark.parametrize(
    ("text", "expects", "kind"),
    [
        (text_of(ROWS, "compact"), "lines", "array in place of lines"),
        (text_of(ROWS, "lines"), "array", "lines in place of an array"),
        (b"".join(json.dumps(row).encode() for row in ROWS), "", "fused records"),
        (text_of(ROWS).replace(b"},\n", b"}\n"), "", "missing comma"),
        (text_of(ROWS).replace(b"},\n", b"},,\n"), "", "doubled comma"),
        (b"[" + text_of(ROWS), "", "doubled bracket"),
        (text_of(ROWS) + b"]", "", "doubled bracket"),
        (text_of(ROWS)[1:], "", "comma outside an array"),
        (text_of(ROWS)[:-1], "", "missing bracket"),
        (text_of(ROWS)[:-2] + b",\n]", "", "trailing comma"),
        (b"\xef\xbb\xbf" + text_of(ROWS), "", "byte order mark"),
        (text_of(ROWS).replace(b'{\n        "id": 5', b'\xef\xbb\xbf{\n        "id": 5'), "", "byte order mark"),
    ],
)
def test_slips_between_records_cost_nothing(tmp_path, text, expects, kind):
    found, _ = check(text, tmp_path / "rows")
    assert found == ROWS
    repair, events = run(tmp_path / "rows", expects=expects)
    assert kinds(events) == {kind: "ignored"}
    assert repair.account.lost == 0


@pytest.mark.parametrize("name", ["alpaca", "sharegpt", "mt_bench"])
@pytest.mark.parametrize("layout", faults.LAYOUTS)
def test_healthy_real_files_come_out_as_they_are(tmp_path, shared, name, layout):
    rows = faults.real_rows(shared, name)[: 16 if name == "sharegpt" else 300]
    found, events = check(text_of(rows, layout), tmp_path / "rows")
    assert found == rows
    assert kinds(events) == {}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("layout", ["pretty", "lines"])
def test_utf_16_is_read(tmp_path, encoding, layout):
    path = tmp_path / "rows"
    text = text_of(ROWS, layout).decode()
    path.write_bytes(text.encode(encoding))
    repair, events = run(path)
    assert records(events) == ROWS
    assert kinds(events)["utf-16"] == "decoded"
    assert repair.account.adds_up
    path.write_bytes(text.encode(encoding)[:-301])  # within a character
    repair, events = run(path)
    assert records(events) == ROWS[: len(records(events))]
    assert len(records(events)) > 20
    assert repair.account.adds_up


def test_gzip_truncated_keeps_what_comes_before_and_corrupt_only_if_asked(tmp_path):
    chance = random.Random(0)
    rows = [{"id": n, "text": "".join(chance.choices("abcdefgh ", k=200))} for n in range(3000)]
    path = tmp_path / "rows.json.gz"
    whole = gzip.compress(text_of(rows))
    path.write_bytes(whole)
    repair, events = run(path)
    assert records(events) == rows
    assert kinds(events) == {}
    path.write_bytes(whole[: len(whole) // 2])
    repair, events = run(path)
    assert records(events) == rows[: len(records(events))]
    assert len(records(events)) > 1000
    assert {"truncated gzip", "truncated file"} <= set(kinds(events))
    assert repair.account.adds_up
    broken = bytearray(whole)
    broken[len(whole) // 2 : len(whole) // 2 + 60] = bytes(60)
    path.write_bytes(broken)
    repair, events = run(path)
    assert records(events) == []
    assert repair.account.adds_up
    repair, events = run(path, keep_unverified=True)
    assert len(records(events)) > 1000
    assert kinds(events)["failed checksum"] == "unverified"
    assert repair.account.adds_up
    path.write_bytes(whole[:-8] + b"\0\0\0\0" + whole[-4:])  # the checksum
    repair, events = run(path)
    assert records(events) == []
    assert kinds(events) == {"failed checksum": "rejected"}
    repair, events = run(path, keep_unverified=True)
    assert records(events) == rows
    assert kinds(events) == {"failed checksum": "unverified"}
    path.write_bytes(gzip.compress(text_of(rows[:5], "lines")) + gzip.compress(text_of(rows[5:], "lines")) + b"junk")
    repair, events = run(path)
    assert records(events) == rows
    assert kinds(events) == {"bytes after gzip": "ignored"}


def test_a_zip_bomb_is_read_piece_by_piece(tmp_path):
    path = tmp_path / "rows.gz"
    packer = zlib.compressobj(9, wbits=31)
    with open(path, "wb") as file:
        file.write(packer.compress(b"[" + b'{"a": 1}, ' * 3))
        for _ in range(16):
            file.write(packer.compress(b" " * (1 << 20)))
        file.write(packer.compress(b'{"a": 2}]') + packer.flush())
    repair, events = run(path)
    assert records(events) == [{"a": 1}] * 3 + [{"a": 2}]
    assert repair.account.separators > 16 << 20


@pytest.mark.parametrize(
    "large",
    [
        {"id": 9, "text": "long " * 5000},
        {"id": 9, "text": 'with "quotes" {[ \\ ' * 1000, "parts": [{"id": 1, "text": "x"}] * 500},
    ],
)
@pytest.mark.parametrize("layout", ["pretty", "lines"])
def test_a_record_over_the_limit_is_given_up_whole(tmp_path, large, layout):
    rows = [*ROWS[:10], large, *ROWS[10:]]
    found, events = check(text_of(rows, layout), tmp_path / "rows", max_record=8192)
    assert found == ROWS
    assert kinds(events) == {"record over the limit": "rejected"}
    raw = b"".join(event.raw for event in events if isinstance(event, Rejected))
    assert json.loads(raw) == large


def test_a_record_far_over_the_limit_is_passed_on_in_pieces(tmp_path):
    rows = [*ROWS[:10], {"id": 9, "text": "long é " * 300_000}, *ROWS[10:]]
    found, events = check(text_of(rows), tmp_path / "rows", max_record=1 << 20)
    assert found == ROWS
    given_up = [event for event in events if isinstance(event, Rejected)]
    assert len(given_up) > 2
    assert max(len(event.raw) for event in given_up) <= 1 << 20
    assert json.loads(b"".join(event.raw for event in given_up)) == rows[10]
    assert all(event.raw.decode() for event in given_up)


def test_a_broken_record_without_end_does_not_take_the_rest_along(tmp_path):
    noise = b'{"id": 5, "text": "' + b"never closed " * 300_000
    text = text_of(ROWS[:10], "lines") + noise + b"\n" + text_of(ROWS[10:], "lines")
    found, events = check(text, tmp_path / "rows", max_record=1 << 20)
    assert found == ROWS
    assert kinds(events) == {"record over the limit": "rejected"}


def test_a_whole_file_encoded_twice(tmp_path):
    found, events = check(json.dumps(text_of(ROWS).decode()).encode(), tmp_path / "rows")
    assert found == ROWS
    assert kinds(events) == {"encoded twice": "decoded"}
    found, _ = check(b"\n".join(json.dumps(json.dumps(row)).encode() for row in ROWS), tmp_path / "rows")
    assert found == ROWS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html>\n<html><body>404</body></html>", "HTML"),
        (b"\n  <html><head>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git LFS pointer"),
        (b"PAR1\x15\x04", "Parquet"),
        (b"ARROW1\0\0", "Arrow"),
        (b"PK\x03\x04\x14", "zip archive"),
        (b"\x28\xb5\x2f\xfd\x04", "zstd"),
        (b"\xfd7zXZ\x00\x00", "xz"),
        (b"BZh91AY", "bzip2"),
    ],
)
def test_other_files_are_named(tmp_path, content, message):
    path = tmp_path / "rows.json"
    for stored in (content, gzip.compress(content)) if content else (content,):
        path.write_bytes(stored)
        with pytest.raises(DataError, match=message):
            run(path)


def test_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        run(tmp_path)
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(DataError, match="save_to_disk"):
        run(tmp_path)
    with pytest.raises(DataError, match="there is no file"):
        run(tmp_path / "absent")


def test_what_is_removed_after_a_records_last_comma_is_not_counted_twice(tmp_path):
    text = text_of(ROWS[:6], "lines") + b'{"id": 7, "text": "x", \0{"id": 8, "text": "y"}\n'
    found, events = check(text, tmp_path / "rows")
    assert found == [*ROWS[:6], {"id": 7, "text": "x"}, {"id": 8, "text": "y"}]
    assert [event.raw for event in events if isinstance(event, Rejected)] == [b"\0"]
