"""Split conversations into training and validation by their content, and put each side into a reproducible order."""

from collections.abc import Callable, Sequence
from operator import itemgetter

import numpy as np

from unnorm.data.conversation import Conversation, prompt_hash
from unnorm.foundation.errors import DataError
from unnorm.foundation.hashing import hash_text

VALIDATION_SHARE = 0.05


def split(
    conversations: Sequence[Conversation],
    share: float = VALIDATION_SHARE,
    hash_of: Callable[[Conversation], int] = prompt_hash,
) -> tuple[list[Conversation], list[Conversation]]:
    """(training in the source's order, validation in the order of its hashes). Neither depends on a seed.

    What a smaller share holds out, a larger one holds out too.
    """
    bound = share * 2**64
    hashes = [hash_of(conversation) for conversation in conversations]
    train = [c for c, number in zip(conversations, hashes, strict=True) if number >= bound]
    held_out = [c for number, c in sorted(zip(hashes, conversations, strict=True), key=itemgetter(0)) if number < bound]
    if not train or not held_out:
        raise DataError(
            f"{len(conversations)} usable rows are too few to hold {share:.2g} of them out: "
            f"{len(train)} would be trained on, {len(held_out)} held out. Give more rows, or another share (held_out)."
        )
    return train, held_out


def split_for_search(
    train: Sequence[Conversation], share: float = VALIDATION_SHARE
) -> tuple[list[Conversation], list[Conversation]]:
    """The training part split once more in the same way, by other hashes: for choices made by held-out loss."""
    return split(train, share, lambda conversation: hash_text(f"search {prompt_hash(conversation)}"))


def shuffled(conversations: Sequence[Conversation], seed: int) -> list[Conversation]:
    """A permutation of `conversations` that depends on `seed` alone."""
    return [conversations[i] for i in np.random.Generator(np.random.PCG64(seed)).permutation(len(conversations))]
