"""Run benchmarks/standin/study.yaml and keep its table, its main figures and its page in results/standin/.

    OMP_NUM_THREADS=1 python benchmarks/standin_table.py [--ledger studies] [--workers 2]

Resumable: cells that are done in the ledger are not run again.
"""

import argparse
import gzip
import os
import shutil
from pathlib import Path
from statistics import median
from typing import Any

from machine import SHARED, machine_line
from unnorm.report.page import write_report
from unnorm.report.table import latencies, results
from unnorm.report.wording import signed, signed_interval
from unnorm.study.engines.interface import Options
from unnorm.study.run_study import run_study
from unnorm.study.spec import read_spec
from unnorm.study.view import StudyView

HERE = Path(__file__).parent
MAIN_FIGURES = ("gap", "preference", "latency")
HEAD = (
    "| model | data | strategy | seeds | original | dyt-bare | dyt | dyt-bare wins | dyt wins | dyt's prefill "
    "| dyt's decode |"
)


Rows = list[dict[str, Any]]


def table(found: Rows, times: Rows) -> list[str]:
    """One row a model, data set and strategy."""
    rows = {(row["model"], row["dataset"], row["strategy"], row["arm"]): row for row in found}
    lines = [HEAD, "|---" * 11 + "|"]
    for model, dataset, strategy in dict.fromkeys(place[:3] for place in rows):
        original, bare, dyt = (rows[model, dataset, strategy, arm] for arm in ("original", "dyt-bare", "dyt"))
        timed = [
            t for t in times if (t["model"], t["dataset"], t["strategy"], t["arm"]) == (model, dataset, strategy, "dyt")
        ]
        cells = [model, dataset, strategy, original["seeds"], f"{original['eval_loss']:.4f}"]
        cells += [gap(bare), gap(dyt), wins(bare), wins(dyt)]
        cells += [time_of(timed, "prefill"), time_of(timed, "decode")]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def gap(row: dict[str, Any]) -> str:
    return f"{signed(row['gap'])} ({signed_interval(row['gap_low'], row['gap_high'])})"


def wins(row: dict[str, Any]) -> str:
    return f"{row['win_rate']:.0%} ({row['win_rate_low']:.0%} to {row['win_rate_high']:.0%})"


def time_of(timed: Rows, kind: str) -> str:
    """The median over seeds, and what the harness says of each."""
    found = [row for row in timed if row["workload"].startswith(kind)]
    words = ", ".join(dict.fromkeys(row["verdict"] for row in found))
    return f"{signed(median(row['time_ratio'] for row in found) - 1)} ({words})"


def counts(found: Rows, times: Rows) -> list[str]:
    """In how many places each arm is how far from the original."""
    lines = []
    for arm in ("dyt-bare", "dyt"):
        rows = [row for row in found if row["arm"] == arm]
        gaps = sorted(row["gap"] for row in rows)
        behind = sum(row["gap_low"] > 0 for row in rows)
        ahead = sum(row["gap_high"] < 0 for row in rows)
        lost = sum(row["win_rate_high"] < 0.5 for row in rows)
        won = sum(row["win_rate_low"] > 0.5 for row in rows)
        verdicts = [row["verdict"] for row in times if row["arm"] == arm]
        lines.append(
            f"- `{arm}`: gap {signed(gaps[0])} to {signed(gaps[-1])}, median {signed(median(gaps))}; behind the "
            f"original in {behind} of {len(rows)} places, ahead in {ahead}. The judge prefers it in {won}, the "
            f"original in {lost}. Of {len(verdicts)} timings "
            f"{verdicts.count('faster')} say faster, {verdicts.count('slower')} slower."
        )
    return lines


def readme(study: StudyView) -> str:
    found, times = results(study), latencies(study)
    seconds = sum((cell.result or {})["wall_seconds"] for cell in study.cells)
    done = sum(cell.done for cell in study.cells)
    matched = "matched" if study.audit.get("matched") else "NOT matched"
    return "\n".join(
        [
            "# The reference study on stand-in bases", "",
            f"{done} of {len(study.cells)} cells of [`standin/study.yaml`](../../standin/study.yaml), "
            f"{len(study.pairs)} pairs. {machine_line()}. "
            f"Training and evaluation took {seconds / 3600:.1f} hours of cells, two at a time. "
            f"The audit found the arms {matched}.", "",
            "The bases have 3 to 4 million parameters: read gaps, not losses. Held-out loss in nats per token; gaps "
            "are relative, with 95 % intervals over conversations, and over seeds where there are three. The judge is "
            "a language model's likelihood, weak evidence. Five seconds a pair tell latencies only roughly.", "",
            *counts(found, times), "",
            *table(found, times), "",
            "Every number: [`results.csv`](results.csv). Figures: [`figures/`](figures). The page: "
            "[`index.html.gz`](index.html.gz), packed. Made by `python benchmarks/standin_table.py`.", "",
        ]
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ledger", type=Path, default=Path("studies"))
    parser.add_argument("--workers", default="2")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "standin")
    arguments = parser.parse_args()
    os.environ.setdefault("UNNORM_SHARED", str(SHARED))
    spec, text = read_spec(HERE / "standin" / "study.yaml")
    study = run_study(spec, text, arguments.ledger, options=Options(workers=arguments.workers), say=print)
    write_report(study, study.folder / "report")
    (arguments.out / "figures").mkdir(parents=True, exist_ok=True)
    (arguments.out / "README.md").write_text(readme(study))
    shutil.copy(study.folder / "results.csv", arguments.out / "results.csv")
    page = (study.folder / "report" / "index.html").read_bytes()
    (arguments.out / "index.html.gz").write_bytes(gzip.compress(page, mtime=0))
    for path in sorted((study.folder / "report" / "figures").glob("*.svg")):
        if path.stem.startswith(MAIN_FIGURES):
            shutil.copy(path, arguments.out / "figures" / path.name)
    print((arguments.out / "README.md").read_text())


if __name__ == "__main__":
    main()
