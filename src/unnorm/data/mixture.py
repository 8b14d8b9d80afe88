"""Several data sets as one text: rows of each in proportion, in an order that the seed alone decides."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from unnorm.data.packing import Row
from unnorm.data.prepare import Rows, Share, Source
from unnorm.data.settings import DataSettings
from unnorm.foundation.errors import SettingsError

When = Literal["again", "stop"]
"""What is done where the data run out before the tokens that were asked for: go through them again, or stop there."""


@dataclass(frozen=True)
class Part:
    """What was taken of one data set. weight: its share of the mixture; passes: how often it is gone through."""

    name: str
    weight: float
    tokens: int
    passes: float


class Mixture:
    """Data sets with weights, encoded with one tokenizer as asked for."""

    def __init__(
        self,
        data: Sequence[tuple[DataSettings, float]],
        tokenizer: Any,
        *,
        packed: bool = True,
        quiet: bool = False,
    ) -> None:
        """data: each data set and its share of the tokens, in any unit. All have the same max_length."""
        if not data or any(not 0 < weight < float("inf") for _, weight in data):
            raise SettingsError("every data set of a mixture needs a weight above 0.")
        if len({settings.max_length for settings, _ in data}) != 1:
            raise SettingsError("all data sets of a mixture need the same max_length.")
        total = sum(weight for _, weight in data)
        self.packed = packed
        self.data = [(Source(settings, tokenizer, quiet=quiet), weight / total) for settings, weight in data]
        self.parts: list[Part] = []
        """What `train` took, of each data set."""

    @property
    def identity(self) -> list[dict[str, Any]]:
        """What shapes the rows, as plain values."""
        return [
            {"hash": source.hash, "share": share, **source.encoding, "packed": self.packed}
            for source, share in self.data
        ]

    def train(self, tokens: int, seed: int, *, when_out: When = "again") -> Rows:
        """Rows of about `tokens` tokens; with `stop`, of what there is at most, in the given proportions."""
        taken = self._take(tokens, seed)
        if when_out == "stop":
            least = min(
                rows.tokens / rows.share.passes / share for rows, (_, share) in zip(taken, self.data, strict=True)
            )
            taken = self._take(int(least), seed) if any(rows.share.passes > 1 for rows in taken) else taken
        self.parts = [
            Part(source.settings.name or source.settings.source, share, rows.tokens, rows.share.passes)
            for rows, (source, share) in zip(taken, self.data, strict=True)
        ]
        return _as_one(taken, _interleaved([rows.rows for rows in taken], seed))

    def _take(self, tokens: int, seed: int) -> list[Rows]:
        return [source.train(max(1, round(tokens * share)), seed, self.packed) for source, share in self.data]

    def held_out(self, tokens: int) -> Rows:
        """Held-out rows of about `tokens` tokens, the same for every seed, in the given proportions. With
        `loss_on="all"` the labels are the answers and all text without turns: gaps are measured on these."""
        taken = []
        for source, share in self.data:
            source = source if source.settings.loss_on != "all" else source.with_loss_on("answer")
            taken.append(source.validation(max(1, round(tokens * share)), self.packed))
        return _as_one(taken, [row for rows in taken for row in rows.rows])


def _interleaved(parts: Sequence[Sequence[Row]], seed: int) -> list[Row]:
    """All rows, each part's in its order, the parts mixed at random."""
    generator = np.random.Generator(np.random.PCG64([seed, 2]))
    which = generator.permutation(np.repeat(np.arange(len(parts)), [len(part) for part in parts]))
    each = [iter(part) for part in parts]
    return [next(each[number]) for number in which]


def _as_one(taken: Sequence[Rows], rows: list[Row]) -> Rows:
    first = taken[0]
    each = [part.share for part in taken]
    share = Share(
        asked=sum(one.asked for one in each),
        tokens=sum(one.tokens for one in each),
        conversations=sum(one.conversations for one in each),
        of=sum(one.of for one in each),
        whole=all(one.whole for one in each),
        passes=max(one.passes for one in each),
    )
    return replace(
        first,
        rows=rows,
        share=share,
        dropped=sum((part.dropped for part in taken), Counter()),
        changed=sum((part.changed for part in taken), Counter()),
        weighted=any(part.weighted for part in taken),
    )
