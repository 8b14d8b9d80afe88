"""Packed files in which bits changed: what their checksums do not vouch for is not taken for sound."""

import gzip
import io
import itertools
import json
import lzma
import random
import subprocess
import zipfile
import zlib

import pyarrow as pa
import pyarrow.parquet
import pytest

from cli.test_main import call
from data.repair.properties import raw_of, read_lines
from unnorm.data.files import rows_of
from unnorm.data.repair import repair_file, repaired_records
from unnorm.foundation.errors import DataError

ROWS = [{"id": n, "salary": 7000 + n} for n in range(50)]
TEXT = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def stored(text: bytes) -> bytes:
    """gzip whose blocks are not compressed, as `gzip.compress(…, 0)` and some servers write it."""
    return gzip.compress(text, 0, mtime=0)


def flipped(content: bytes, old: bytes = b"7007", new: bytes = b"9007") -> bytes:
    assert content.count(old) == 1
    return content.replace(old, new)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "rows.jsonl.gz"


def test_a_flipped_digit_is_rejected_with_the_whole_member(capsys, file):
    file.write_bytes(flipped(stored(TEXT)))
    done = repair_file(file, quiet=True)
    assert done.out.read_bytes() == b""
    assert done.account.damages == {"failed checksum": {"rejected": 50}}
    assert done.account.lost == len(TEXT) - 50
    assert done.account.adds_up
    assert b"".join(raw_of(line) + b"\n" for line in read_lines(done.rejected)) == flipped(TEXT)
    assert {line["kind"] for line in read_lines(done.report)} == {"failed checksum"}
    assert list(repaired_records(file)) == []
    code, _out, err = call(capsys, "data", "repair", file, "--strict")
    assert code == 1
    assert "50 records were rejected because their gzip checksum fails" in err
    assert "wrote 0 records" in err
    assert "Look at the beginning" not in err  # the line before says why


def test_they_are_kept_and_marked_if_that_is_asked_for(capsys, file):
    file.write_bytes(flipped(stored(TEXT)))
    code, out, _ = call(capsys, "data", "repair", file, "--keep-unverified", "--strict", "--json")
    assert code == 1
    found = json.loads(out)
    assert found["records"] == 50
    assert found["bytes_lost"] == 0
    assert found["bytes_unverified"] == len(TEXT) - 50
    assert found["damages"] == {"failed checksum": {"unverified": 50}}
    marks = read_lines(file.with_name("rows.repaired.jsonl.report.jsonl"))
    assert [mark["record"] for mark in marks] == list(range(50))
    assert TEXT[marks[7]["offset"] :].startswith(b'{"id": 7,')
    kept = read_lines(file.with_name("rows.repaired.jsonl"))
    assert kept[7] == {"id": 7, "salary": 9007}
    assert list(repaired_records(file, keep_unverified=True)) == kept
    code, _, err = call(capsys, "data", "repair", file, "--keep-unverified")
    assert code == 0
    assert f"{len(TEXT) - 50:,} of the bytes kept are unverified" in err


def test_without_damage_strict_ends_with_0_and_nothing_is_unverified(capsys, file):
    for content in (stored(TEXT), gzip.compress(TEXT), gzip.compress(b"") + stored(TEXT) + b"\0" * 600):
        file.write_bytes(content)
        code, out, _ = call(capsys, "data", "repair", file, "--strict", "--json")
        assert code == 0
        assert (json.loads(out)["records"], json.loads(out)["bytes_unverified"]) == (50, 0)


def test_only_the_member_that_fails_is_rejected_with_what_reaches_into_it(file):
    """As block gzip and `cat *.gz` make them; a record may lie across two members."""
    cuts = [0, 400, 900, len(TEXT)]
    parts = [TEXT[a:b] for a, b in itertools.pairwise(cuts)]
    inside = next(row for row in ROWS if (json.dumps(row) + "\n").encode() in parts[1])
    old = str(inside["salary"]).encode()
    packed = [stored(part) for part in parts]
    file.write_bytes(packed[0] + flipped(packed[1], old, b"1" + old[1:]) + packed[2])
    kept = list(repaired_records(file))
    sound, at = [], 0
    for row in ROWS:
        end = at + len(json.dumps(row))
        if end <= cuts[1] or at >= cuts[2]:
            sound.append(row)
        at = end + 1
    assert 30 < len(sound) < 40
    assert kept == sound


def test_a_wrong_length_fails_as_a_wrong_checksum_does(file):
    content = bytearray(gzip.compress(TEXT))
    content[-1] ^= 1
    file.write_bytes(content)
    assert list(repaired_records(file)) == []


@pytest.mark.parametrize("cut", [1, 8, 9])
def test_a_file_cut_off_within_its_checksum_is_kept_but_unverified(capsys, file, cut):
    file.write_bytes(gzip.compress(TEXT)[:-cut])
    code, out, _ = call(capsys, "data", "repair", file, "--strict", "--json")
    found = json.loads(out)
    assert code == 1
    assert found["unread"]
    assert (found["records"], found["bytes_lost"]) == (50, 0)
    assert found["bytes_unverified"] == len(TEXT) - 50
    assert read_lines(file.with_name("rows.repaired.jsonl.report.jsonl")) == [
        {"offset": 0, "length": len(TEXT), "kind": "truncated gzip", "action": "unverified", "record": None}
    ]


def test_what_cannot_be_unpacked_after_sound_members_is_no_success(capsys, file):
    """A second member whose first bytes changed looks like something that was appended."""
    two = gzip.compress(TEXT)
    for spoilt in (b"\x1e" + two[1:], two[:2] + b"\x07" + two[3:], two[:5]):
        file.write_bytes(gzip.compress(TEXT) + spoilt)
        code, out, _err = call(capsys, "data", "repair", file, "--strict", "--json")
        assert code == 1
        assert (json.loads(out)["records"], json.loads(out)["unread"]) == (50, True)


def test_headers_with_all_that_they_may_hold(file):
    whole = gzip.compress(TEXT)
    head = b"\x1f\x8b\x08\x1e" + bytes(6) + b"\x03\x00abc" + b"rows.jsonl\0" + b"a remark\0"
    head += (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
    file.write_bytes(head + whole[10:] + whole)
    assert gzip.decompress(file.read_bytes()) == 2 * TEXT
    assert list(repaired_records(file)) == 2 * ROWS


def test_utf_16_within_gzip(file):
    text = TEXT.decode().replace("7007", "9007").encode("utf-16-le")
    sound = gzip.compress(TEXT.decode().encode("utf-16-le"))
    right = stored(TEXT.decode().encode("utf-16-le"))
    wrong = right[:15] + text + right[-8:]
    assert len(wrong) == len(right) != 0
    file.write_bytes(wrong + sound)
    assert list(repaired_records(file)) == ROWS
    assert list(repaired_records(file, keep_unverified=True))[7]["salary"] == 9007


def test_records_encoded_twice_and_mended_ones_are_distrusted_too(file):
    lines = [json.dumps(json.dumps(ROWS[0])), json.dumps(ROWS[1])[:-1] + ",}", *map(json.dumps, ROWS[2:])]
    text = "\n".join(lines).encode()
    file.write_bytes(flipped(stored(text)))
    assert list(repaired_records(file)) == []
    assert len(list(repaired_records(file, keep_unverified=True))) == 50


@pytest.mark.parametrize("level", [0, 9])
def test_no_flipped_bit_ever_changes_a_record_that_is_kept(tmp_path, level):
    chance = random.Random(level)
    words = ["red", "blue", "green", "stone", "river", "cloud", "apple", "lamp"]
    rows = [{"id": n, "text": " ".join(chance.choices(words, k=12))} for n in range(300)]
    lines = [json.dumps(row) + "\n" for row in rows]
    members = [gzip.compress("".join(lines[at : at + 60]).encode(), level, mtime=0) for at in range(0, 300, 60)]
    known = {line.strip() for line in lines}
    unsound = 0
    for trial in range(60):
        spoilt = bytearray(chance.choice(members))
        at = chance.randrange(len(spoilt))
        spoilt[at : at + 1 + trial % 3] = bytes(chance.randrange(256) for _ in range(1 + trial % 3))
        path = tmp_path / f"{trial}.jsonl.gz"
        path.write_bytes(b"".join([members[0], spoilt, *members[1:]]))
        done = repair_file(path, quiet=True)
        kept = {json.dumps(record) for record in read_lines(done.out)}
        # what ran past the end of the file cannot be told from a file that is cut off, which is said
        assert kept <= known or "truncated gzip" in done.account.damages, trial
        assert done.account.sound == (done.account.records == 360 and not done.account.unread)
        assert len(kept) >= 60
        unsound += not done.account.sound
    assert unsound > 50


def _zip(text: bytes, method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("rows.jsonl", text)
    return out.getvalue()


def _zstd(text: bytes) -> bytes:
    return subprocess.run(["zstd", "-q", "--check"], input=text, capture_output=True, check=True).stdout


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        (".gz", stored),
        (".gz", gzip.compress),
        (".xz", lzma.compress),
        (".zip", lambda text: _zip(text, zipfile.ZIP_STORED)),
        (".zip", lambda text: _zip(text, zipfile.ZIP_DEFLATED)),
        (".zip", lambda text: _zip(text, zipfile.ZIP_BZIP2)),
        (".zip", lambda text: _zip(text, zipfile.ZIP_LZMA)),
        (".zst", _zstd),
    ],
    ids=["gz-stored", "gz", "xz", "zip-stored", "zip-deflated", "zip-bz2", "zip-lzma", "zst"],
)
def test_training_reads_no_row_of_a_packed_file_whose_checksum_fails(tmp_path, suffix, pack):
    if suffix == ".zst" and not __import__("shutil").which("zstd"):
        pytest.skip("no zstd, which writes checksums")
    whole, chance = pack(TEXT), random.Random(0)
    path = tmp_path / f"rows.jsonl{suffix}"
    path.write_bytes(whole)
    assert list(rows_of(str(path))) == ROWS
    start = whole.index(b'{"id": 0') if b'{"id": 0' in whole else len(whole) // 3
    refused = 0
    for _ in range(20):
        content = bytearray(whole)
        content[start + chance.randrange(40)] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        rows = []
        with pytest.raises(DataError, match=r"rows.*(cannot be unpacked|not valid JSON)"):
            rows += rows_of(str(path))
        refused += not rows
    assert refused == 20


def test_parquet_pages_that_have_checksums_are_held_to_them(tmp_path):
    path = tmp_path / "rows.parquet"
    table = pa.table({"prompt": ["seven thousand"] * 3, "response": ["b"] * 3})
    pa.parquet.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
    assert len(list(rows_of(str(path)))) == 3
    content = path.read_bytes()
    path.write_bytes(content.replace(b"seven thousand", b"nine_ thousand"))
    with pytest.raises(DataError, match="damaged"):
        list(rows_of(str(path)))
