"""What a mistyped word was probably meant to be."""

import difflib
from collections.abc import Iterable

_LIKE = 0.6  # difflib's own measure of "close enough"


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """` Did you mean 'x'?`, to be put after a sentence, for the one of `known` that looks most like `word`; else ``."""
    if not isinstance(word, str):
        return ""
    names = {name.lower(): name for name in known if isinstance(name, str)}
    found = difflib.get_close_matches(word[:200].lower(), names, n=1, cutoff=_LIKE)
    return f" Did you mean {names[found[0]]!r}?" if found and names[found[0]] != word else ""
