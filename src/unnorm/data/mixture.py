"""Several data sets as one text: rows of each in proportion, in an order that the seed alone decides."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from unnorm.data.packing import Row
from unnorm.data.prepare import Rows, Source
from unnorm.data.settings import DataSettings
from unnorm.foundation.errors import SettingsError

When = Literal["again", "stop"]
"""What is done where the data run out before the tokens that were asked for: go through them again, or stop there."""


@dataclass(frozen=True)
class Part:
    """One data set of a mixture. epochs: how often it is gone through for its share of the tokens."""

    name: str
    weight: float
    tokens: int
    epochs: float


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
        self.sources = [(Source(settings, tokenizer, quiet=quiet), weight / total) for settings, weight in data]
        self.parts: list[Part] = []
        """What `train` took, of each data set."""

    @property
    def identity(self) -> list[dict[str, Any]]:
        """What shapes the rows, as plain values."""
        return [
            {"hash": source.hash, "share": share, **source.encoding, "packed": self.packed}
            for source, share in self.sources
        ]

    def train(self, tokens: int, seed: int, *, when_out: When = "again") -> Rows:
        """Rows of about `tokens` tokens; with `stop`, of what there is at most, in the given proportions."""
        if when_out == "stop":
            tokens = min(tokens, *(int(source.epoch_tokens() / share) for source, share in self.sources))
        taken: list[Rows] = []
        self.parts = []
        for source, share in self.sources:
            wanted = max(1, round(tokens * share))
            rows = source.train(wanted, seed, self.packed)
            taken.append(rows)
            once = source.epoch_tokens()
            name = source.settings.name or source.settings.source
            self.parts.append(Part(name, share, rows.tokens, rows.tokens / once))
        return _as_one(taken, _interleaved([rows.rows for rows in taken], seed))

    def held_out(self, tokens: int) -> Rows:
        """Held-out rows of about `tokens` tokens, the same for every seed, in the given proportions."""
        taken = [source.validation(max(1, round(tokens * share)), self.packed) for source, share in self.sources]
        return _as_one(taken, [row for rows in taken for row in rows.rows])


def _interleaved(parts: Sequence[Sequence[Row]], seed: int) -> list[Row]:
    """All rows, each part's in its order, the parts mixed at random."""
    generator = np.random.Generator(np.random.PCG64([seed, 2]))
    which = generator.permutation(np.repeat(np.arange(len(parts)), [len(part) for part in parts]))
    each = [iter(part) for part in parts]
    return [next(each[number]) for number in which]


def _as_one(taken: Sequence[Rows], rows: list[Row]) -> Rows:
    first = taken[0]
    return Rows(rows, first.max_length, first.pad_id, first.packed, any(part.weighted for part in taken))
