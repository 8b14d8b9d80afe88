"""What a comparison of losses or accuracies shows, in words: command line, page and every text have them from here.

Preferences and latencies have verdicts of their own, which know of ties and of the clock's noise.
"""

from unnorm.report.wording import share, signed
from unnorm.study.compare import Row


def verdict(row: Row) -> str | None:
    """Different, within the margin, both, or neither; None without a standard error.

    Different: the 95 % interval excludes that there is no difference. Within the margin: the equivalence test holds at
    95 %. Neither: then the smallest difference that the study could have shown says how little that means. Where the
    arms agree in every seed and conversation, that is said instead.
    """
    if row.different is None:
        return None
    if row.value == 0 and row.error == 0:
        return "no difference at all"
    within = f"within ± {margin_in_words(row.margin)} (equivalence test, 95 %)" if row.equivalent and row.margin else ""
    different = f"different: {signed(row.value)}" if row.different else ""
    if different or within:
        return ", and ".join(filter(None, (different, within)))
    could = could_show(row)
    return "no difference shown, and none excluded" + (f": the study could have shown {could}" if could else "")


def could_show(row: Row) -> str | None:
    """The smallest difference that the study could have shown, as `± 0.4%`; None where it is not known."""
    return None if row.detectable is None else f"± {share(row.detectable)}"


def verdict_sentences(row: Row) -> str:
    """The verdict, and what the study could have shown; empty where there is no verdict."""
    words, could = verdict(row), could_show(row)
    if words is None:
        return ""
    words = f"{words[0].upper()}{words[1:]}."
    known = could is None or could in words
    return words if known else f"{words} The smallest gap that the study could have shown is {could}."


def margin_in_words(margin: float) -> str:
    """As few digits as it has."""
    return f"{100 * margin:.4g}%"
