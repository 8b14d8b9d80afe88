"""Texts to token ids, a batch at a time: a fast tokenizer spreads a batch over threads of its own."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Text(NamedTuple):
    """literal: whether what looks like a special token in it is plain text."""

    text: str
    literal: bool


class Tokens:
    """A tokenizer for batches of texts. `bos` begins every conversation, if the tokenizer sets it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.eos: int = tokenizer.eos_token_id
        self.bos: int | None = bos_of(tokenizer)
        self._fast: Any = None
        if getattr(tokenizer, "is_fast", False):
            from tokenizers import Tokenizer

            self._fast = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())  # ours: settings of it are changed
            self._fast.no_truncation()
            self._fast.no_padding()

    def ids(self, texts: Sequence[Text]) -> list[np.ndarray]:
        """int64 ids [T] of each text, without bos or eos."""
        found: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(texts)
        for literal in (True, False):
            places = [i for i, text in enumerate(texts) if text.literal is literal]
            if places:
                rows = self._encode([texts[i].text for i in places], literal)
                for place, row in zip(places, rows, strict=True):
                    found[place] = np.array(row, dtype=np.int64)
        return found

    def _encode(self, texts: list[str], literal: bool) -> list[list[int]]:
        if self._fast is not None:
            self._fast.encode_special_tokens = literal
            return [encoding.ids for encoding in self._fast.encode_batch_fast(texts, add_special_tokens=False)]
        return [
            self.tokenizer(text, add_special_tokens=False, split_special_tokens=literal, verbose=False)["input_ids"]
            for text in texts
        ]


def bos_of(tokenizer: Any) -> int | None:
    """The bos token's id, if the tokenizer begins every text with it on its own account."""
    ids = tokenizer("a")["input_ids"]
    bos: int | None = tokenizer.bos_token_id
    return bos if bos is not None and list(ids[:1]) == [bos] else None
