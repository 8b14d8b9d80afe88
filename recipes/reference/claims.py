"""What the published study claims, beside what a ledger holds: a table in Markdown.

    python recipes/reference/claims.py studies/reference

Nothing is computed that the ledger does not hold; what was not run is "not measured".
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from unnorm.foundation.errors import UnnormError
from unnorm.report.pairs import others
from unnorm.report.published import NOT_MEASURED, gap, preferred, span, speed
from unnorm.study.view import StudyView, read_study

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
    return f"{span(drops)} of the held-out loss; more than 87 % in {more} of {len(drops)} cells"


def table(study: StudyView) -> str:
    """The claims in Markdown, and under them what they rest on."""
    done = sum(cell.done for cell in study.cells)
    lines = ["| published | arm | here |", "|---|---|---|"]
    lines += [f"| {claim.claim} | {claim.arm} | {claim.found} |" for claim in claims(study)]
    lines += ["", f"From {done} of {len(study.cells)} cells of the study {study.name}."]
    for arm in study.arms:
        if tokens := max(_before(study, arm), default=0):
            lines.append(f"{arm} learnt from {tokens:,} tokens before the training that all arms have.")
    differ = sum(not comparison["matched"] for comparison in study.audit["comparisons"])
    if differ:
        lines.append(f"Not matched, since their arms differ in more than the norm: {differ} comparisons.")
    return "\n".join(lines)


def _before(study: StudyView, arm: str) -> list[int]:
    """Tokens that the starts of its finished cells learnt from."""
    return [cell.result.get("start_tokens", 0) for cell in study.cells if cell.arm == arm and cell.result]


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
