"""Write results/surgery.md from results/surgery_start.json and the ledgers of surgery_study.py.

    python benchmarks/surgery_table.py [--ledger studies]

A cell that is not done is left out and counted; an interval is drawn only where there are seeds for one.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from machine import machine_line
from surgery_study import ARMS, OTHER_SEEDS, RATES, SEARCH_SEED, STRATEGIES
from unnorm.study.ledger import state_of

RESULTS = Path(__file__).parent / "results"
ABOUT = """# Surgery: the start, and after fine-tuning

Stand-in bases of 3 to 4 million parameters: read the gaps, not the losses. Gaps are relative to the original's held-out
loss in nats per token.
"""
START = """
## Before any training

`python benchmarks/surgery_start.py`; {machine}.
GSM8K text in Alpaca's prompt format, held-out rows, every token counted; the gap on *novels*, a text that no
calibration saw, in brackets. Calibrated on 4,096 tokens unless said otherwise, corrected on 16,384 (readers and
writers), recovered in 150 steps of 1,024 tokens. *Seconds* of fit and recovery, a base each, on shared cores.
"""
AFTER = """
## After fine-tuning on GSM8K

`python benchmarks/surgery_study.py --base BASE`, then `surgery_table.py`; {machine}.
{tokens:,} tokens a cell, length 256, 4,096 tokens a step, bf16 autocast, LoRA (r = 8 on every linear layer)
without dropout where the strategy is not full, loss on answers; rates tried on seed {search}, the best kept for each
arm and strategy, then seeds {others}. The interval is 95 % (Student's t) of the paired differences to the original over
seeds.
"""


def start_table(found: dict[str, Any]) -> str:
    bases = [name for name in found if name not in ("machine", "later")]
    names = list(dict.fromkeys(name for base in bases for name in found[base]))
    lines = [f"| | {' | '.join(bases)} | seconds |", "|---" * (len(bases) + 2) + "|"]
    for name in names:
        cells, seconds = [], []
        for base in bases:
            one, original = found[base].get(name), found[base]["original"]
            if one is None:
                cells.append("not measured")
            elif name == "original":
                cells.append(f"{one['loss']:.4f} ({one['novel']:.4f})")
            else:
                gaps = [
                    f"{one[key] / original[key] - 1:+.2%}" if np.isfinite(one[key]) else "not finite"
                    for key in ("loss", "novel")
                ]
                cells.append(f"{gaps[0]} ({gaps[1]})")
                seconds.append(f"{one['seconds']:.0f}")
        lines.append(f"| {name} | {' | '.join(cells)} | {' / '.join(seconds)} |")
    if later := found.get("later"):
        lines += ["", "Measured later, with nothing else on the machine:"]
        lines += [f"- {name}: {machine}" for name, machine in later.items()]
    return "\n".join(lines) + "\n"


def ratio(loss: float, original: float) -> str:
    return f"{loss / original - 1:+.2%}" if np.isfinite(loss) else "not finite"


def cells(folder: Path) -> list[dict[str, Any]]:
    """Settings and result of every cell that is done."""
    found = []
    for path in sorted(folder.glob("cells/*/cell.json")):
        cell = json.loads(path.read_text())
        if state_of(path.parent)[0] == "done":
            found.append({**cell["settings"], "result": json.loads((path.parent / "result.json").read_text())})
    return found


def after_table(base: str, done: list[dict[str, Any]]) -> str:
    losses = {
        (cell["arm"]["id"], cell["strategy"], cell["training"]["learning_rate"], cell["seed"]): cell["result"][
            "eval_loss"
        ]
        for cell in done
    }
    lines = [
        f"### {base}",
        "",
        "| strategy | arm | rate | rates tried | loss by seed | gap to original |",
        "|---" * 6 + "|",
    ]
    for strategy in STRATEGIES:
        reference: dict[int, float] = {}
        for arm in ARMS[base]:
            tried = {
                rate: losses[arm, strategy, rate, SEARCH_SEED]
                for rate in RATES[strategy]
                if (arm, strategy, rate, SEARCH_SEED) in losses
            }
            if not tried:
                lines.append(f"| {strategy} | {arm} | | 0 of 3 | not measured | |")
                continue
            rate = min(tried, key=lambda r: tried[r])
            mine = {
                seed: losses[arm, strategy, rate, seed]
                for seed in (SEARCH_SEED, *OTHER_SEEDS)
                if (arm, strategy, rate, seed) in losses
            }
            reference = mine if arm == "original" else reference
            pairs = [mine[seed] / reference[seed] - 1 for seed in mine if seed in reference]
            shown = ", ".join(f"{loss:.4f}" for loss in mine.values())
            behind = "" if arm == "original" else gap(pairs)
            lines.append(f"| {strategy} | {arm} | {rate:g} | {len(tried)} of 3 | {shown} | {behind} |")
    return "\n".join(lines) + "\n"


def gap(pairs: list[float]) -> str:
    """Mean of the paired relative differences, with its interval where there are two or more."""
    if not pairs:
        return "not paired"
    if len(pairs) == 1:
        return f"{pairs[0]:+.2%} (one seed)"
    half = stats.t.ppf(0.975, len(pairs) - 1) * np.std(pairs, ddof=1) / len(pairs) ** 0.5
    return f"{np.mean(pairs):+.2%} ± {half:.2%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ledger", type=Path, nargs="*", default=[Path("studies")])
    arguments = parser.parse_args()
    found = json.loads((RESULTS / "surgery_start.json").read_text())
    text = ABOUT + START.format(machine=found["machine"]) + "\n" + start_table(found)
    done = [cell for ledger in arguments.ledger for cell in cells(ledger)]
    text += AFTER.format(
        machine=machine_line(),
        tokens=done[0]["training"]["tokens"] if done else 500_000,
        search=SEARCH_SEED,
        others=" and ".join(map(str, OTHER_SEEDS)),
    )
    for base in ARMS:
        of_base = [cell for cell in done if cell["model"]["name"] == base]
        wanted = len(ARMS[base]) * len(STRATEGIES) * (3 + len(OTHER_SEEDS))
        text += "\n" + after_table(base, of_base)
        if len(of_base) < wanted:
            text += f"\n*Incomplete: {len(of_base)} of {wanted} cells; the same command goes on.*\n"
    (RESULTS / "surgery.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
