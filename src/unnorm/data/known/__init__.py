"""Data sets that have a name of their own here: one on the hub each, or a mix of several."""

from collections import Counter
from collections.abc import Callable, Iterable
from pkgutil import resolve_name
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


KNOWN: dict[str, HubSet | Mix] = {
    "alpaca": HubSet("tatsu-lab/alpaca"),
    "sharegpt": HubSet("anon8231489123/ShareGPT_Vicuna_unfiltered", files="ShareGPT_V3_unfiltered_cleaned_split.json"),
    "rewild": resolve_name("unnorm.data.known.rewild:REWILD"),
    "rewild-reduced": resolve_name("unnorm.data.known.rewild:REDUCED"),
}
"""Name -> what it means on the hub."""
