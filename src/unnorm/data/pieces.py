"""What a template makes of a conversation: pieces of text that are tokenized apart, so that every boundary is exact."""

from typing import NamedTuple


class Piece(NamedTuple):
    """A piece of text of turn number `turn`.

    answer: whether the model is to say it. ends: whether an eos follows, if the text does not end in it already.
    """

    text: str
    turn: int
    answer: bool = False
    ends: bool = False
