"""The order in which models are timed: palindromes (ABBA), so that a drift costs all of them alike, drawn at random."""

from collections.abc import Sequence

import numpy as np


def block(names: Sequence[str], generator: np.random.Generator) -> list[str]:
    """Every name twice: in a random order, and back. A machine that slows down steadily slows each of them as much."""
    order = [names[i] for i in generator.permutation(len(names))]
    return order + order[::-1]
