"""Text for LaTeX that nothing in it can leave."""

from collections.abc import Iterable, Sequence

from unnorm.foundation.terminal import plain

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "−": "$-$", "<": "$<$", ">": "$>$",
}  # fmt: skip


def latex(text: str) -> str:
    """One line of text, escaped; control characters are gone."""
    return "".join(_SPECIAL.get(character, character) for character in " ".join(plain(text).split()))


def tabular(head: Sequence[str], rows: Iterable[Sequence[str]], names: int) -> list[str]:
    """The lines of a tabular environment (booktabs), escaped; from column `names` on to the right, as numbers are."""
    first, *body = (" & ".join(map(latex, row)) + r" \\" for row in [head, *rows])
    begin = rf"\begin{{tabular}}{{{'l' * names}{'r' * (len(head) - names)}}}"
    return [begin, r"\toprule", first, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
