"""Untrusted text made safe to print: control and bidirectional characters are shown, not obeyed."""

import unicodedata

_KEPT = "\n\t"


def plain(text: str) -> str:
    """`text` with every control, format and surrogate character but newline and tab written as an escape."""
    if text.isprintable():  # none of them in it, and most text is so
        return text
    return "".join(
        c if c in _KEPT or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else f"\\u{ord(c):04x}" for c in text
    )


def shorten(text: str, width: int) -> str:
    """One line of at most `width` characters."""
    line = " ".join(plain(text).split())
    return line if len(line) <= width else line[: width - 1] + "…"
