"""What a comparison of losses, accuracies or tasks shows, in words: command line, page and texts have them from here.

Preferences and latencies have verdicts of their own, which know of ties and of the clock's noise.
"""

from unnorm.evaluation.paired_tasks import HIGHER_IS_BETTER
from unnorm.report.wording import share, signed_interval
from unnorm.study.compare import Row
from unnorm.study.task_differences import TaskRow


def verdict(row: Row, *, brief: bool = False) -> str | None:
    """Equivalent within the margin, behind, ahead, or undecided; None without a standard error.

    Equivalent: two one-sided tests hold at 95 %. Behind or ahead: the 95 % interval excludes that there is no
    difference. A gap can be both: certain, and smaller than the margin. Neither: undecided, and the smallest difference
    that the study could have shown says how little that means. Where the arms agree in every seed and conversation,
    that is said instead. brief: without interval and smallest difference, for where they stand beside.
    """
    if row.different is None:
        return None
    if row.value == 0 and row.error == 0:
        return "no difference at all"
    different = ""
    if row.different:
        worse = row.value > 0 if row.metric == "loss" else row.value < 0
        different = f"{'behind' if worse else 'ahead'} by {in_its_unit(share(abs(row.value)), row)}"
        if not brief and row.low is not None and row.high is not None:
            different += f" [{in_its_unit(signed_interval(row.low, row.high), row)}]"
    if row.equivalent and row.margin:
        within = f"equivalent within ± {margin_in_words(row.margin)}"
        return f"{within}, though {different}" if different else within
    return different or _undecided(None if brief else could_show(row))


def task_verdict(row: TaskRow, *, brief: bool = False) -> str | None:
    """Behind, ahead, or undecided, as `verdict`; None where nothing is compared."""
    if row.difference is None or row.low is None or row.high is None:
        return None
    if row.low <= 0 <= row.high:
        return _undecided(None if brief else task_could_show(row))
    words = ("ahead", "behind") if row.metric in HIGHER_IS_BETTER else ("higher", "lower")
    return f"{words[row.difference < 0]} by {_size(abs(row.difference), row)}"


def could_show(row: Row) -> str | None:
    """The smallest difference that the study could have shown, as `± 0.4%`; None where it is not known."""
    return None if row.detectable is None else f"± {in_its_unit(share(row.detectable), row)}"


def in_its_unit(shares: str, row: Row) -> str:
    """A difference of accuracies is one of shares, and no per cent of anything."""
    return in_points(shares) if row.metric == "accuracy" else shares


def in_points(shares: str) -> str:
    """Of a difference of two shares: `3.9%` is 3.9 points."""
    return f"{shares.replace('%', '')} points"


def task_could_show(row: TaskRow) -> str | None:
    """As `could_show`, in the metric's unit."""
    return None if row.detectable is None else f"± {_size(row.detectable, row)}"


def margin_in_words(margin: float) -> str:
    """As few digits as it has."""
    return f"{100 * margin:.4g}%"


def _undecided(could: str | None) -> str:
    return "undecided" + (f": the smallest gap this study could have shown is {could}" if could else "")


def _size(value: float, row: TaskRow) -> str:
    return in_points(share(value)) if row.is_share else f"{value:.4f}"
