"""Literal special tokens in untrusted text, broken so that a tokenizer reads them as text."""

import re
from typing import Any

from unnorm.data.chat_template import special_texts


def neutralise(text: str, tokenizer: Any) -> str:
    """`text` with a space after the first character of every literal special token of `tokenizer`.

    Without it an answer that holds the end of text, or a judge's own marker, would speak to the judge in its voice.
    Breaking one token can complete no other: every special token that is matched is broken, and a space is added,
    never taken away; the loop is there for tokens that overlap.
    """
    marks = sorted((mark for mark in special_texts(tokenizer) if len(mark.strip()) > 1), key=len, reverse=True)
    if not marks:
        return text
    # a tokenizer may lowercase before it looks for them
    pattern = re.compile("|".join(map(re.escape, marks)), re.IGNORECASE)
    while pattern.search(text):
        text = pattern.sub(lambda found: found[0][0] + " " + found[0][1:], text)
    return text
