"""What the published study claims, beside what a ledger holds: a table in Markdown.

    python recipes/reference/claims.py studies/reference

Nothing is computed that the ledger does not hold; what was not run is "not measured".
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from unnorm.evaluation.judges.interface import WHOLE
from unnorm.foundation.errors import UnnormError
from unnorm.report.comparisons import compared, others
from unnorm.study.view import PairView, StudyView, read_study

NOT_MEASURED = "not measured"
LARGE = "410m"
FELL_BY = 0.87


class Claim(NamedTuple):
    """One row: what was claimed, of which arm, and what this ledger says of it."""

    claim: str
    arm: str
    found: str


def claims(study: StudyView) -> list[Claim]:
    """Every claim with every arm that it can be asked of."""
    arms = others(study)
    return [
        *(Claim("the loss fell by more than 87 %", arm, loss_drop(study, arm)) for arm in study.arms),
        *(Claim("loss 21–28 % above LayerNorm's, 410M, full", arm, gap(study, arm)) for arm in arms),
        *(Claim("0.5 % faster than LayerNorm", arm, speed(study.pairs, arm)) for arm in arms),
        *(Claim("LayerNorm preferred in 67 of 81 comparisons", arm, preferred(study.pairs, arm)) for arm in arms),
    ]


def loss_drop(study: StudyView, arm: str) -> str:
    """How much the held-out loss fell from the arm's own start, over its cells."""
    drops = [cell.result["loss_drop"] for cell in study.cells if cell.arm == arm and cell.result]
    if not drops:
        return NOT_MEASURED
    more = sum(drop > FELL_BY for drop in drops)
    return f"{_span(drops)} of the held-out loss; more than 87 % in {more} of {len(drops)} cells"


def gap(study: StudyView, arm: str) -> str:
    """Mean over seeds of each data set, at 410M under full fine-tuning."""
    rows = [row for row in compared(study) if row.metric == "loss" and row.arm == arm]
    found = [row for row in rows if row.strategy == "full" and row.model.endswith(LARGE)]
    if not found:
        return NOT_MEASURED
    seeds = min(len(row.seeds) for row in found)
    return f"{_span([row.value for row in found], '+')} (data sets: {len(found)}; seeds of each: {seeds} or more)"


def speed(pairs: Iterable[PairView], arm: str) -> str:
    """Time of the arm over the reference's: one ratio a workload and pair; and how many of them exceed the noise."""
    found = [c for pair in pairs if pair.arm == arm and pair.latency for c in pair.latency["comparisons"]]
    found = [c for c in found if c["model"] == arm]
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


def table(study: StudyView) -> str:
    """The claims in Markdown, and under them what they rest on."""
    done = sum(cell.done for cell in study.cells)
    lines = ["| published | arm | here |", "|---|---|---|"]
    lines += [f"| {claim.claim} | {claim.arm} | {claim.found} |" for claim in claims(study)]
    lines += ["", f"From {done} of {len(study.cells)} cells of the study {study.name}."]
    differ = sum(not comparison["matched"] for comparison in study.audit["comparisons"])
    if differ:
        lines.append(f"Not matched, since their arms differ in more than the norm: {differ} comparisons.")
    return "\n".join(lines)


def _span(values: Sequence[float], sign: str = "") -> str:
    low, high = min(values), max(values)
    return f"{low:{sign}.1%}" if low == high else f"{low:{sign}.1%} to {high:{sign}.1%}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The published claims beside what a ledger holds, in Markdown.")
    parser.add_argument("study", type=Path, help="the study's folder in its ledger, as a run printed it")
    try:
        print(table(read_study(parser.parse_args(arguments).study, logs=False)))
    except UnnormError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
