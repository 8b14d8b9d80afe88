"""The held-out conversations of a data set, as items to be scored: streamed, each with the group it belongs to."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

from unnorm.data.encode import Encoder, Encoding, encode_each
from unnorm.data.prepare import Source
from unnorm.data.settings import DataSettings
from unnorm.data.shares import Share
from unnorm.evaluation.scores import Item, Scores, score
from unnorm.foundation.errors import DataError
from unnorm.foundation.hashing import hash_text
from unnorm.foundation.progress import Bar
from unnorm.surgery.base import check_length
from unnorm.tuning.packing_probe import packing_is_clean

By = Literal["source", "language", "category"]


class ScoredData(NamedTuple):
    """Scores of held-out conversations; those of the data that were dropped, by reason; what share was scored."""

    scores: Scores
    dropped: Counter[str]
    share: Share


def score_data(
    model: Any,
    settings: DataSettings,
    tokenizer: Any,
    *,
    tokens: int | None = 100_000,
    by: By = "source",
    quiet: bool = False,
) -> ScoredData:
    """Scores of the held-out conversations of a data set: about `tokens` tokens of them; None: all.

    by: what groups are made of. A conversation's key is made of its source and row, so that two models, whatever their
    tokenizers, are compared on the same ones.
    """
    check_length(model, settings.max_length)
    source = Source(settings, tokenizer, quiet=quiet)
    result = Encoding([], Counter(), Counter())
    pad = tokenizer.pad_token_id
    taken: list[int] = []
    scores = score(
        model,
        tokenizer,
        _counted(_items(source, tokenizer, result, tokens, by, taken), tokens, quiet=quiet),
        max_length=settings.max_length,
        packed=packing_is_clean(model),
        pad_id=pad,
    )
    if not len(scores.keys):
        reasons = "; ".join(f"{count} × {reason}" for reason, count in result.dropped.items())
        raise DataError(f"{settings.source}: nothing held out can be evaluated on ({reasons or 'there is nothing'}).")
    found, met = sum(taken), len(taken) + sum(result.dropped.values())
    of = len(source.held_out)
    share = Share(found if tokens is None else tokens, found, min(len(taken), of), of, whole=met >= of)
    return ScoredData(scores, source.reading.dropped + result.dropped, share)


def _counted(items: Iterable[Item], tokens: int | None, *, quiet: bool) -> Iterator[Item]:
    """Yield `items` while a bar counts their tokens, up to `tokens`; None: up to no known number."""
    with Bar("evaluating (tokens)", tokens, quiet=quiet) as bar:
        for item in items:
            yield item
            left = len(item.row.ids) if tokens is None else min(len(item.row.ids), tokens - bar.done)
            bar.advance(left)


def _items(
    source: Source, tokenizer: Any, result: Encoding, tokens: int | None, by: By, taken: list[int]
) -> Iterator[Item]:
    """The items to score; `taken` is given the tokens of each."""
    settings = source.settings
    encoder = Encoder(tokenizer, settings.template, settings.loss_on)
    encoded = encode_each(encoder, source.held_out, settings.max_length, settings.too_long, result, quiet=True)
    left = tokens
    for conversation, (_, rows) in zip(source.held_out, encoded, strict=True):
        group = getattr(conversation, by) or "unknown"
        for part, row in enumerate(rows):
            yield Item(row, group, hash_text(f"{conversation.source}/{conversation.row}/{part}") >> 1)
            taken.append(len(row.ids))
            if left is not None:
                left -= len(row.ids)
        if left is not None and left <= 0:
            return
