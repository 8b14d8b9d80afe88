"""What all judges have in common."""

import pytest

from unnorm.evaluation.judges.interface import neutralise


class Marked:
    """A tokenizer of which only the special tokens are known."""

    def __init__(self, *marks: str) -> None:
        self.all_special_tokens = marks


@pytest.mark.parametrize(
    ("mark", "text", "wanted"),
    [
        ("<sep>", "a<sep>b", "a< sep>b"),
        (" <sep>", "a <sep> b", "a < sep> b"),  # a space before it would leave it whole, again and again
        ("  <sep>", "a  <SEP>", "a  < SEP>"),
        ("||", "|||", "| | |"),
    ],
)
def test_special_tokens_are_broken_after_their_first_letter(mark, text, wanted):
    assert neutralise(text, Marked(mark)) == wanted
    assert neutralise("plain", Marked(mark)) == "plain"
