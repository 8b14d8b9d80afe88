"""What a model loses on data that no run trains on, conversation by conversation, as the data streams."""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch

from unnorm.data.encode import Encoder, Encoding
from unnorm.data.prepare import Share, Source
from unnorm.data.settings import DataSettings
from unnorm.evaluation.losses import by_group, by_position, losses
from unnorm.evaluation.scores import Item, Scores, joined, score, score_batches
from unnorm.foundation.errors import DataError
from unnorm.foundation.hashing import hash_text
from unnorm.foundation.progress import Bar
from unnorm.surgery.base import check_length, context_length
from unnorm.surgery.finite import check_finite
from unnorm.tuning.packing_probe import packing_is_clean

By = Literal["source", "language", "category"]


class ScoredData(NamedTuple):
    """Scores of conversations; those of the data that were dropped, by reason; what share of it was scored, None where
    there were batches and no data set."""

    scores: Scores
    dropped: Counter[str]
    share: Share | None

    @property
    def loss(self) -> float:
        """Nats per trained token."""
        return self.scores.loss

    @property
    def token_accuracy(self) -> float:
        """Share of trained tokens that were the most likely one."""
        return self.scores.token_accuracy

    @property
    def tokens(self) -> int:
        """How many tokens were trained ones."""
        return self.scores.tokens

    @property
    def warning(self) -> str | None:
        """What to say where there were fewer tokens than were asked for."""
        return self.share.warning_of_held_out if self.share is not None else None

    def to_dict(self, by: By = "source", *, seed: int = 0) -> dict[str, Any]:
        """What `unnorm evaluate --json` says of a data set, with 95 % intervals. by: what the groups are made of, as it
        was scored; seed: of the intervals' resamples. Of batches, the trained tokens alone."""
        found: dict[str, Any] = {"trained": losses(self.scores, "trained", seed=seed).to_dict()}
        if self.share is None:
            return found
        return {
            **found,
            "all": losses(self.scores, "all", seed=seed).to_dict(),
            by: {name: part.to_dict() for name, part in by_group(self.scores, seed=seed).items()},
            "positions": by_position(self.scores),
            "dropped": dict(self.dropped),
            "share": self.share._asdict(),
        }


def evaluate(
    model: Any,
    data: str | DataSettings | Iterable[Mapping[str, torch.Tensor]],
    tokenizer: Any = None,
    *,
    tokens: int | None = 100_000,
    by: By = "source",
    quiet: bool = False,
) -> ScoredData:
    """Held-out loss, in nats per token, of `model` on `data`.

    data: a known name, file or hub id (its held-out part, as `score_data` takes it; a `UserWarning` says if it has
    fewer tokens), the same as `DataSettings`, or batches of `input_ids` and `labels` [B, T] (a label of -100 does not
    count; labels are not shifted by the caller), of which each row is taken for a conversation. Raises `DataError` for
    data that cannot be used, `ModelError` for a model whose logits are not finite.
    """
    if isinstance(data, str):
        data = DataSettings(source=data, max_length=min(256, context_length(model) or 256))
    if not isinstance(data, DataSettings):
        check_finite(model)
        return ScoredData(score_batches(model, data), Counter(), None)
    if tokenizer is None:
        raise DataError(f"evaluating on {data.source!r} needs the model's tokenizer: evaluate(model, data, tokenizer).")
    found = score_data(model, data, tokenizer, tokens=tokens, by=by, quiet=quiet)
    if found.warning:
        warnings.warn(found.warning.removeprefix("warning: "), stacklevel=2)
    return found


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
    tokenizers, are compared on the same ones. Raises as `evaluate`.
    """
    check_finite(model)
    check_length(model, settings.max_length)
    source = Source(settings, tokenizer, quiet=quiet)
    result = Encoding([], Counter(), Counter())
    taken: list[int] = []
    scores = score(
        model,
        tokenizer,
        _counted(_items(source, tokenizer, result, tokens, by, taken), tokens, quiet=quiet),
        max_length=settings.max_length,
        packed=packing_is_clean(model),
        pad_id=tokenizer.pad_token_id,
    )
    if not len(scores.keys):
        reasons = "; ".join(f"{count} × {reason}" for reason, count in result.dropped.items())
        raise DataError(f"{settings.source}: nothing held out can be evaluated on ({reasons or 'there is nothing'}).")
    found, met = sum(taken), len(taken) + sum(result.dropped.values())
    of = len(source.held_out)
    share = Share(found if tokens is None else tokens, found, min(len(taken), of), of, whole=met >= of)
    return ScoredData(joined(scores), source.reading.dropped + result.dropped, share)


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
    encoder = Encoder(tokenizer, settings.template, settings.max_length, settings.loss_on, settings.too_long)
    encoded = encoder.each(source.held_out, result, quiet=True)
    left = tokens
    for conversation, (_, rows) in zip(source.held_out, encoded, strict=True):
        group = getattr(conversation, by) or "unknown"
        for row in rows:
            yield Item(row, group, hash_text(f"{conversation.source}/{conversation.row}") >> 1)
            taken.append(len(row.ids))
            if left is not None:
                left -= len(row.ids)
        if left is not None and left <= 0:
            return
