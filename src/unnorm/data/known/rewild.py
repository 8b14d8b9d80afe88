"""RE-WILD, the SFT mix of WildChat-50M (arXiv 2501.18511), built from its three parts; and the reduced mix of a study.

The mix itself is published as a cache of token ids only. A quarter of the WildChat conversations as Qwen2.5-72B
answered them, MMLU's auxiliary training questions, and Tulu 3's persona algebra.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from unnorm.data.conversation import Conversation
from unnorm.data.known import HubSet, Mix, MixPart, Take

if TYPE_CHECKING:
    import numpy as np

_SHARE = 0.25
_SEED = 42
NOT_DRAWN = "not drawn for the mix"


def share(conversations: Iterable[Conversation], dropped: Counter[str]) -> list[Conversation]:
    """A quarter of the conversations: each one is kept or not by a draw of its own, the same in every run.

    Those that are not drawn are counted in `dropped`.
    """
    generator = _generator()
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
    generator = _generator()
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


def _first_pairs(conversations: Iterable[Conversation], dropped: Counter[str]) -> Iterator[Conversation]:
    for conversation in conversations:
        pair = first_pair(conversation)
        if isinstance(pair, str):
            dropped[pair] += 1
        else:
            yield pair


def _all(conversations: Iterable[Conversation], dropped: Counter[str]) -> list[Conversation]:
    return list(conversations)


def _of_pairs(take: Take) -> Take:
    return lambda conversations, dropped: take(_first_pairs(conversations, dropped), dropped)


def _generator() -> "np.random.Generator":
    import numpy as np  # not above: the names of data sets are listed by --help

    return np.random.Generator(np.random.PCG64(_SEED))


def _mix(of_wildchat: Take, of_others: Take) -> Mix:
    wildchat = HubSet("nyu-dice-lab/allenai_WildChat-1M-Full-Qwen_Qwen2.5-72B-Instruct")
    mmlu = HubSet("penfever/mmlu-it", split="auxiliary_train")
    parts = {
        "wildchat": MixPart(wildchat, "messages", of_wildchat),
        "mmlu": MixPart(mmlu, "multiple-choice", of_others),
        "algebra": MixPart(HubSet("allenai/tulu-3-sft-personas-algebra"), "messages", of_others),
    }
    return Mix(parts, _SEED)


REWILD = _mix(share, _all)
REDUCED = _mix(_of_pairs(sample), _of_pairs(_all))
