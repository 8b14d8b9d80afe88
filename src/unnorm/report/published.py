"""What the study that unnorm began from published, and the same numbers of another study.

The published numbers are quoted: 21 to 28 % above LayerNorm's loss under full fine-tuning, in the largest model; 0.5 %
faster; LayerNorm's answers preferred in 67 of 81 comparisons. Nothing stands beside them that a ledger does not hold.
"""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from unnorm.evaluation.judges.interface import WHOLE
from unnorm.report.pairs import compared, others
from unnorm.report.wording import signed
from unnorm.study.compare import Row
from unnorm.study.view import PairView, StudyView

NOT_MEASURED = "not measured"
LARGE = "410m"
"""How the name of the model ends that the published gap is of."""
_PUBLISHED_ARMS = ("dyt-bare", "dyt-plain", "dyt-paper")


def published_table(study: StudyView) -> list[list[str]]:
    """Head and rows: the published numbers, then each arm's; empty where the study has no such arm, or no number."""
    if study.reference != "original" or not set(_PUBLISHED_ARMS) & set(study.arms):
        return []
    rows = [[arm, _gap(study, arm), _time(study.pairs, arm), preferred(study.pairs, arm)] for arm in others(study)]
    if all(set(row[1:]) == {NOT_MEASURED} for row in rows):
        return []
    return [
        ["arm", "loss, full", "time", "original preferred"],
        ["published", "+21% to +28%", "−0.5%", "in 67 of 81"],
        *rows,
    ]


def published_caption(study: StudyView) -> str:
    """What the numbers of `published_table` are."""
    return (
        "Loss and time are those of the arm, against the original's. Loss: under full fine-tuning, from the lowest to "
        "the highest of models and data sets. Time: the median of all workloads and pairs, and how many of them exceed "
        "the noise. The original is preferred in a pair of cells if more questions went to it. Published: LayerNorm "
        "against a bare Dynamic Tanh in distilgpt2 and Pythia 14M and 410M, the loss of 410M alone; quoted, not "
        f"measured here. Below it this study, with {', '.join(study.models)}: other models and data may give other "
        "numbers with nothing wrong in either. Arms that begin from a recovered start learnt from tokens before that "
        "the published ones did not have."
    )


def gap(study: StudyView, arm: str) -> str:
    """Mean over seeds of each model and data set under full fine-tuning; of 410M alone where the study has it."""
    found = _gaps(study, arm)
    if not found:
        return NOT_MEASURED
    seeds = min(len(row.seeds) for row in found)
    return f"{span([row.value for row in found], '+')} (data sets: {len(found)}; seeds of each: {seeds} or more)"


def speed(pairs: Iterable[PairView], arm: str) -> str:
    """Time of the arm over the reference's: one ratio a workload and pair; and how many of them exceed the noise."""
    found = _times(pairs, arm)
    if not found:
        return NOT_MEASURED
    change = median(c["ratio"]["value"] for c in found) - 1
    shown = {word: sum(c["verdict"] == word for c in found) for word in ("faster", "slower")}
    return (
        f"time {change:+.1%} (median of {len(found)}); shown to be faster in {shown['faster']}, "
        f"slower in {shown['slower']}"
    )


def preferred(pairs: Iterable[PairView], arm: str) -> str:
    """Pairs of cells in which the judge was more often for the reference's answers than for the arm's."""
    whole = [pair.judge["parts"][WHOLE] for pair in pairs if pair.arm == arm and pair.judge]
    if not whole:
        return NOT_MEASURED
    lost = sum(part["losses"] > part["wins"] for part in whole)
    even = sum(part["losses"] == part["wins"] for part in whole)
    return f"in {lost} of {len(whole)}" + (f", {even} even" if even else "")


def span(values: Sequence[float], sign: str = "") -> str:
    """From the lowest to the highest."""
    low, high = min(values), max(values)
    return f"{low:{sign}.1%}" if low == high else f"{low:{sign}.1%} to {high:{sign}.1%}"


def _gap(study: StudyView, arm: str) -> str:
    found = _gaps(study, arm)
    values = [row.value for row in found]
    if not values:
        return NOT_MEASURED
    doubts = sorted({row.doubt for row in found if row.doubt})
    return " to ".join(dict.fromkeys(map(signed, (min(values), max(values))))) + f" [{', '.join(doubts)}]" * bool(
        doubts
    )


def _gaps(study: StudyView, arm: str) -> list[Row]:
    rows = [row for row in compared(study) if row.metric == "loss" and row.arm == arm and row.strategy == "full"]
    large = any(model.endswith(LARGE) for model in study.models)
    return [row for row in rows if row.model.endswith(LARGE) or not large]


def _time(pairs: Iterable[PairView], arm: str) -> str:
    found = _times(pairs, arm)
    if not found:
        return NOT_MEASURED
    faster, slower = (sum(c["verdict"] == word for c in found) for word in ("faster", "slower"))
    change = signed(median(c["ratio"]["value"] for c in found) - 1)
    return f"{change} (of {len(found)}: {faster} faster, {slower} slower)"


def _times(pairs: Iterable[PairView], arm: str) -> list[dict[str, Any]]:
    found = [c for pair in pairs if pair.arm == arm and pair.latency for c in pair.latency["comparisons"]]
    return [c for c in found if c["model"] == arm]
