"""Plain text files as data."""

import gzip

import pytest

from unnorm.data.settings import DataSettings
from unnorm.data.sources import read
from unnorm.data.text_rows import text_rows
from unnorm.foundation.errors import DataError


def texts(source):
    reading = read(DataSettings(source=str(source)), quiet=True)
    assert set(reading.formats.values()) == {"text"}
    return [message.content for one in reading.conversations for message in one.messages]


def test_paragraphs_are_texts(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffOne\r\nline more\r\n \r\n\r\nTwo\r\n".encode())
    assert texts(tmp_path / "a.txt") == ["One\nline more", "Two"]


def test_lines_are_texts_where_no_empty_line_parts_any(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"\nOne\nTwo\n\n"))
    assert texts(tmp_path / "a.txt.gz") == ["One", "Two"]


def test_only_a_line_break_ends_a_line(tmp_path):
    (tmp_path / "a.txt").write_bytes("One\u2028more\r\nTwo\x85more\rThree\x0cmore\n".encode())
    assert texts(tmp_path / "a.txt") == ["One\u2028more", "Two\x85more", "Three\x0cmore"]


def test_a_folder_of_texts_and_notes_beside_data(tmp_path):
    (tmp_path / "a.txt").write_text("One")
    (tmp_path / "LICENSE.txt").write_text("No text to train on")
    assert texts(tmp_path) == ["One"]
    (tmp_path / "b.jsonl").write_text('{"text": "Two"}\n')
    assert texts(tmp_path) == ["Two"]


def test_what_is_no_text(tmp_path):
    with pytest.raises(DataError, match=r"a\.txt: not UTF-8 .*at byte 3"):
        list(text_rows("a.txt", b"abc\xff"))
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(DataError, match="is empty"):
        texts(tmp_path / "a.txt")
