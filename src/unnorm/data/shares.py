"""What share of a data set was taken to train or to evaluate on, in words, and when that is worth a warning."""

from collections.abc import Mapping
from typing import NamedTuple

MOST_PASSES = 4
"""Up to so many passes, data that is seen again teaches about as much as new data (arXiv 2305.16264)."""
_MOST_TOO_LONG = 0.2
"""The long ones hold more of the text than their number says."""


class Share(NamedTuple):
    """What was taken of the training or the held-out part of a data set.

    asked: tokens wanted; tokens: those taken, repeats included. conversations: taken, of `of` in the part; a long one
    that is split counts once a piece. whole: no more than these can be used. passes: how often they are gone through.
    """

    asked: int
    tokens: int
    conversations: int
    of: int
    whole: bool
    passes: float = 1.0

    @property
    def trained(self) -> str:
        """What share of the training part is trained on."""
        taken = f"{self.conversations:,} of the {self.of:,} conversations to train on"
        return f"{taken}, gone through {self.passes:,.1f} times" if self.whole else f"{taken}, each once"

    @property
    def held_out(self) -> str:
        """What share of the held-out part is evaluated on."""
        taken = f"{self.conversations:,} of the {self.of:,} conversations held out"
        return f"{self.tokens:,} of {self.asked:,} tokens asked for, in {taken}"

    @property
    def warning_of_training(self) -> str | None:
        """A warning where the same conversations are trained on many times."""
        if self.passes <= MOST_PASSES:
            return None
        return (
            f"warning: the data is gone through {self.passes:,.1f} times to reach {self.asked:,} tokens. After "
            f"{MOST_PASSES} times a model learns little but to recite it. Ask for {self.enough:,} tokens at most, or "
            "give more data."
        )

    @property
    def enough(self) -> int:
        """Tokens of as many passes as are worth it."""
        return int(MOST_PASSES * self.tokens / self.passes)

    @property
    def warning_of_held_out(self) -> str | None:
        """A warning where less can be evaluated on than was asked for."""
        if self.tokens >= self.asked:
            return None
        return (
            f"warning: {self.asked:,} tokens were asked for to evaluate on, and the held-out part has {self.tokens:,} "
            f"in {self.conversations:,} conversations. A loss over so few is uncertain. Give more data, or hold out a "
            "larger share of it (held_out)."
        )


def warning_of_length(dropped: Mapping[str, int], conversations: int, length: int) -> str | None:
    """A warning where many conversations have more than `length` tokens. dropped: by reason, beside `conversations`."""
    long = dropped.get(f"longer than {length} tokens", 0)
    met = conversations + sum(dropped.values())
    if long <= _MOST_TOO_LONG * met:
        return None
    return (
        f"warning: {long:,} of {met:,} conversations are longer than {length} tokens and are left out. Raise "
        "max_length, or keep their start with too_long (--too-long keep-start)."
    )
