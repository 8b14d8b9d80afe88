"""How positive numbers spread: quantiles, variation and largest of any number of them, from counts alone."""

import math

import torch

_LOW, _HIGH, _AN_OCTAVE = -40, 40, 96
"""Counted from 2^-40 to 2^40, in 96 bins an octave: each is 0.7 % wide."""


class Spread:
    """Counts of positive numbers in bins of equal ratio, with their exact sums and largest."""

    def __init__(self) -> None:
        self.counts = torch.zeros((_HIGH - _LOW) * _AN_OCTAVE, dtype=torch.int64)
        self.sum = self.squares = self.largest = 0.0

    def add(self, values: torch.Tensor) -> None:
        """Take in values [N], finite and not negative."""
        if not len(values):
            return
        values = values.cpu().double()
        bins = ((values.clamp_min(2.0**_LOW).log2() - _LOW) * _AN_OCTAVE).long().clamp_max(len(self.counts) - 1)
        self.counts += bins.bincount(minlength=len(self.counts))
        self.sum += float(values.sum())
        self.squares += float(values.square().sum())
        self.largest = max(self.largest, float(values.max()))

    @property
    def count(self) -> int:
        return int(self.counts.sum())

    @property
    def variation(self) -> float:
        """Standard deviation over mean."""
        mean = self.sum / self.count
        return math.sqrt(max(self.squares / self.count - mean**2, 0.0)) / max(mean, 1e-30)

    def quantile(self, share: float) -> float:
        """The number that `share` of all are not above, to within 0.7 %."""
        at = int(torch.searchsorted(self.counts.cumsum(0), max(1, math.ceil(share * self.count))))
        return float(2.0 ** (_LOW + (at + 0.5) / _AN_OCTAVE))

    def share_above(self, value: float) -> float:
        """Share of numbers above `value`, to the bin."""
        at = int((math.log2(max(value, 2.0**_LOW)) - _LOW) * _AN_OCTAVE)
        return int(self.counts[at + 1 :].sum()) / self.count
