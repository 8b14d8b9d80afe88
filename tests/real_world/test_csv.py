"""CSV files as other tools write them."""

import pytest

from real_world.rows import said
from unnorm.data.formats import left_out, recognise
from unnorm.data.sources import conversations_of
from unnorm.data.text_rows import csv_rows
from unnorm.foundation.errors import DataError


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (",prompt,response\n0,q,a\n1,r,b\n", [{"Unnamed: 0": "0", "prompt": "q", "response": "a"},
                                              {"Unnamed: 0": "1", "prompt": "r", "response": "b"}]),
        ("prompt,response,\nq,a,\n", [{"prompt": "q", "response": "a", "Unnamed: 2": ""}]),
        (",prompt,,response\n0,q,,a\n", [{"Unnamed: 0": "0", "prompt": "q", "Unnamed: 2": "", "response": "a"}]),
        ("\ufeff,prompt,response\n0,q,\n", [{"Unnamed: 0": "0", "prompt": "q", "response": ""}]),
    ],
)  # fmt: skip
def test_columns_without_a_name_are_read(content, rows):
    assert list(csv_rows("rows.csv", content.encode())) == rows


def test_an_index_column_is_no_part_of_what_is_trained_and_is_named():
    rows = list(csv_rows("rows.csv", b",prompt,response\n0,q,a\n1,r,b\n"))
    reading = conversations_of(rows, "rows.csv")
    assert said(reading) == [["user: q", "assistant: a"], ["user: r", "assistant: b"]]
    assert left_out(recognise(rows, "rows.csv"), rows) == ("Unnamed: 0",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b",a\n0,1,2\n", "line 2: not as many fields"),
        (b",a\n0,1\n0\n", "line 3: not as many fields"),
        (b",a,a\n0,1,2\n", "two columns have the same name"),
        (b'a\n"1\n', "not a CSV file"),
        (b"a\n\xff\n", "UTF-8"),
    ],
)
def test_what_is_no_table_is_refused(content, message):
    with pytest.raises(DataError, match=message):
        list(csv_rows("rows.csv", content))
