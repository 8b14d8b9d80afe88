"""Text for LaTeX that nothing in it can leave."""

from unnorm.foundation.terminal import plain

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "−": "$-$", "<": "$<$", ">": "$>$",
}  # fmt: skip


def latex(text: str) -> str:
    """One line of text, escaped; control characters are gone."""
    return "".join(_SPECIAL.get(character, character) for character in " ".join(plain(text).split()))
