"""Encode conversations: token ids, and for each token whether it is trained on.

Prompt and answer are tokenised apart, so that the boundary is exact. The eos after an answer is trained, else stopping
is never learnt. The first token's label is masked: in a packed row it would be predicted from another conversation.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from unnorm.data.conversation import Conversation
from unnorm.data.templates import render
from unnorm.foundation.progress import Bar
from unnorm.metrics.token_sums import IGNORED

LossOn = Literal["answer", "all"]
_CHUNK = 1024


class Encoded(NamedTuple):
    """One conversation. ids [T] int64; labels [T] int64, `IGNORED` where a token is not trained on."""

    ids: np.ndarray
    labels: np.ndarray


def encode(
    conversations: Sequence[Conversation],
    tokenizer: Any,
    *,
    template: str,
    max_length: int,
    loss_on: LossOn = "answer",
    tokens: int | None = None,
    quiet: bool = False,
) -> tuple[list[Encoded], Counter[str]]:
    """Encode in order, until `tokens` tokens are reached (all, if None). Returns the rows, and those dropped by reason.

    A conversation longer than `max_length` tokens is dropped, not cut: a cut answer would teach never to stop.
    """
    start = [tokenizer.bos_token_id] if _adds_bos(tokenizer) else []
    encoded: list[Encoded] = []
    dropped: Counter[str] = Counter()
    count = 0
    with Bar("encoding", len(conversations), quiet=quiet) as bar:
        for first in range(0, len(conversations), _CHUNK):
            chunk = [render(conversation, template) for conversation in conversations[first : first + _CHUNK]]
            texts = [text for pieces in chunk for text, _ in pieces]
            ids = iter(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])
            for pieces in chunk:
                row = _join([(next(ids), answer) for _, answer in pieces], start, tokenizer.eos_token_id, loss_on)
                if len(row.ids) > max_length:
                    dropped[f"longer than {max_length} tokens"] += 1
                    continue
                encoded.append(row)
                count += len(row.ids)
                if tokens is not None and count >= tokens:
                    return encoded, dropped
            bar.advance(len(chunk), f"{count:,} tokens")
    return encoded, dropped


def encode_prompt(text: str, tokenizer: Any) -> list[int]:
    """Token ids of a prompt, as `encode` would begin a conversation with it."""
    start = [tokenizer.bos_token_id] if _adds_bos(tokenizer) else []
    return start + list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _join(pieces: list[tuple[list[int], bool]], start: list[int], eos: int, loss_on: LossOn) -> Encoded:
    ids, trained = list(start), [False] * len(start)
    for tokens, answer in pieces:
        ids += tokens
        trained += [answer or loss_on == "all"] * len(tokens)
        if answer:
            ids.append(eos)
            trained.append(True)
    trained[0] = False
    array = np.asarray(ids, dtype=np.int64)
    return Encoded(array, np.where(trained, array, IGNORED))


def _adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer begins every text with its bos token on its own account."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and len(ids) > 0 and ids[0] == tokenizer.bos_token_id
