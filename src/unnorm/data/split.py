"""Split conversations into training and validation by their content, and put each side into a reproducible order."""

from collections.abc import Sequence

import numpy as np

from unnorm.data.conversation import Conversation, is_validation, prompt_hash
from unnorm.foundation.errors import DataError

VALIDATION_SHARE = 0.05


def split(conversations: Sequence[Conversation]) -> tuple[list[Conversation], list[Conversation]]:
    """(training in the source's order, validation in the order of its hashes). Neither depends on a seed."""
    train = [c for c in conversations if not is_validation(c, VALIDATION_SHARE)]
    held_out = sorted((c for c in conversations if is_validation(c, VALIDATION_SHARE)), key=prompt_hash)
    if not train or not held_out:
        raise DataError(
            f"{len(conversations)} usable rows are too few to hold {VALIDATION_SHARE:.0%} of them out: "
            f"{len(train)} would be trained on, {len(held_out)} held out. Give more rows."
        )
    return train, held_out


def shuffled(conversations: Sequence[Conversation], seed: int) -> list[Conversation]:
    """A permutation of `conversations` that depends on `seed` alone."""
    return [conversations[i] for i in np.random.Generator(np.random.PCG64(seed)).permutation(len(conversations))]
