"""A look at the first conversations of a source: what becomes of each, and which of its tokens are trained."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

from unnorm.data.conversation import Conversation
from unnorm.data.encode import Encoded, Encoder, Encoding
from unnorm.data.settings import DataSettings


class TokenRun(NamedTuple):
    """Tokens that follow each other and count the same. text: as they decode; weight: 0 where they are not trained."""

    text: str
    tokens: int
    weight: float


class Shown(NamedTuple):
    """A conversation and the rows that are made of it. dropped, changed: why there is none, and what was done to it."""

    conversation: Conversation
    rows: list[list[TokenRun]]
    dropped: list[str]
    changed: list[str]


def preview(conversations: Sequence[Conversation], settings: DataSettings, tokenizer: Any) -> list[Shown]:
    """Each conversation as it would be trained on."""
    shown, s = [], settings
    encoder = Encoder(tokenizer, s.template, s.max_length, s.loss_on, s.too_long)
    for conversation in conversations:
        encoding = Encoding([], Counter(), Counter())
        ((_, made),) = encoder.each([conversation], encoding, quiet=True)
        rows = [_runs(row, tokenizer) for row in made]
        shown.append(Shown(conversation, rows, list(encoding.dropped), [*conversation.changes, *encoding.changed]))
    return shown


def _runs(row: Encoded, tokenizer: Any) -> list[TokenRun]:
    runs = []
    at = 0
    for weight, run in groupby(row.label_weights.tolist()):
        length = len(list(run))
        ids = row.ids[at : at + length].tolist()
        text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        runs.append(TokenRun(text, length, weight))
        at += length
    return runs
