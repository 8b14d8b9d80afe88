"""RE-WILD, the SFT mix of WildChat-50M (arXiv 2501.18511), built from its three parts; and the reduced mix of a study.

The mix itself is published as a cache of token ids only. A quarter of the WildChat conversations as Qwen2.5-72B
answered them, MMLU's auxiliary training questions, and Tulu 3's persona algebra.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unnorm.data.conversation import Conversation
from unnorm.data.folders import READ
from unnorm.data.formats import FormatName
from unnorm.data.hub import HubSet
from unnorm.data.packed_files import PACKED
from unnorm.foundation.errors import DataError

WILDCHAT, MMLU, ALGEBRA = "wildchat", "mmlu", "algebra"
PARTS = {
    WILDCHAT: HubSet("nyu-dice-lab/allenai_WildChat-1M-Full-Qwen_Qwen2.5-72B-Instruct"),
    MMLU: HubSet("penfever/mmlu-it", split="auxiliary_train"),
    ALGEBRA: HubSet("allenai/tulu-3-sft-personas-algebra"),
}
FORMATS: dict[str, FormatName] = {WILDCHAT: "messages", MMLU: "multiple-choice", ALGEBRA: "messages"}

_SHARE = 0.25
_SEED = 42
NOT_DRAWN = "not drawn for the mix"


class Mix(NamedTuple):
    """How the WildChat conversations are drawn, and whether only first questions and answers are kept."""

    draw: Callable[[Iterable[Conversation], Counter[str]], list[Conversation]]
    first_pairs: bool


def share(conversations: Iterable[Conversation], dropped: Counter[str]) -> list[Conversation]:
    """A quarter of the conversations: each one is kept or not by a draw of its own, the same in every run.

    Those that are not drawn are counted in `dropped`.
    """
    generator = np.random.Generator(np.random.PCG64(_SEED))
    kept = []
    for conversation in conversations:
        if generator.random() < _SHARE:
            kept.append(conversation)
        else:
            dropped[NOT_DRAWN] += 1
    return kept


def sample(conversations: Iterable[Conversation], dropped: Counter[str], count: int = 200_000) -> list[Conversation]:
    """`count` of the conversations, all equally likely, in their own order; all of them, if there are fewer.

    One pass, and never more than `count` in memory (reservoir sampling, algorithm R: Vitter 1985). Those that are not
    drawn are counted in `dropped`.
    """
    generator = np.random.Generator(np.random.PCG64(_SEED))
    kept: list[tuple[int, Conversation]] = []
    for number, conversation in enumerate(conversations):
        if number < count:
            kept.append((number, conversation))
            continue
        dropped[NOT_DRAWN] += 1
        place = int(generator.integers(number + 1))
        if place < count:
            kept[place] = (number, conversation)
    return [conversation for _, conversation in sorted(kept, key=lambda pair: pair[0])]


def shuffled(conversations: Sequence[Conversation]) -> list[Conversation]:
    """The parts mixed, the same in every run, so that the first rows are a mix too."""
    generator = np.random.Generator(np.random.PCG64(_SEED))
    return [conversations[i] for i in generator.permutation(len(conversations))]


MIXES = {"rewild": Mix(share, first_pairs=False), "rewild-reduced": Mix(sample, first_pairs=True)}


def first_pair(conversation: Conversation) -> Conversation | str:
    """The first question with its answer, without what stands before or comes after; or why there is none."""
    for asked, answered in zip(conversation.messages, conversation.messages[1:], strict=False):
        if (asked.role, answered.role) == ("user", "assistant"):
            return Conversation(
                (asked, answered),
                conversation.source,
                conversation.row,
                language=conversation.language,
                category=conversation.category,
            )
    return "no question that is answered at once"


def part_file(folder: Path, part: str) -> str:
    """The file or folder of a part in a local copy: the one whose name begins with the part's. Raises `DataError`."""
    found = sorted(folder.glob(f"{part}*")) if folder.is_dir() else []
    if len(found) != 1:
        raise DataError(
            f"{folder} must hold the parts of RE-WILD, one file or folder each, named {', '.join(PARTS)} "
            f"(and {', '.join(READ)}, perhaps {', '.join(PACKED)}); of {part!r} there are {len(found)}."
        )
    return str(found[0])
