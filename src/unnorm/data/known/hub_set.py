"""A data set on the hub, and a mix of several."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from unnorm.data.conversation import Conversation

Take = Callable[[Iterable[Conversation], Counter[str]], list[Conversation]]
"""Which of a part's conversations are taken, in order; those that are not are counted by reason."""


class HubSet(NamedTuple):
    """A data set on the hub. subset: its configuration; files: only these of it; revision: a branch, tag or commit."""

    name: str
    subset: str | None = None
    split: str = "train"
    files: str | None = None
    revision: str | None = None


class MixPart(NamedTuple):
    """A part of a mix: where it is, the format of its rows, and what is taken of it."""

    where: HubSet
    format: str
    take: Take


class Mix(NamedTuple):
    """Parts by their names, which are mixed, the same in every run, so that the first rows are a mix too."""

    parts: dict[str, MixPart]
    seed: int
