from line_lengths import MOST, too_long

WORDS = "word " * 30
LINK = "https://example.org/" + "x" * MOST


def test_only_lines_that_could_be_broken_are_too_long():
    page = "\n".join(
        [WORDS.strip(), f"| {WORDS} |", "```sh", WORDS, "```", LINK, f"- {LINK}", f"- {WORDS}", f"> 1. {WORDS}", "word"]
    )
    assert list(too_long(page)) == [1, 8, 9]


def test_the_last_column_counts():
    fits = "a " + "b" * (MOST - 2)
    assert list(too_long(f"{fits}\n{fits}c")) == [2]
