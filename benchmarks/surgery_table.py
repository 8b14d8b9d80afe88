"""Write results/surgery.md from results/surgery_start.json.

python benchmarks/surgery_table.py
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
ABOUT = """# Surgery: before any training

Stand-in bases of 3 to 4 million parameters: read the gaps, not the losses. Gaps are relative to the original's held-out
loss in nats per token.
"""
START = """
`python benchmarks/surgery_start.py`; {machine}.
GSM8K text in Alpaca's prompt format, held-out rows, every token counted; the gap on *novels*, a text that no
calibration saw, in brackets. Calibrated on 4,096 tokens unless said otherwise, corrected on 16,384 (readers and
writers), recovered in 150 steps of 1,024 tokens. *Seconds* of fit and recovery, a base each, on shared cores.
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


def main() -> None:
    found = json.loads((RESULTS / "surgery_start.json").read_text())
    text = ABOUT + START.format(machine=found["machine"]) + "\n" + start_table(found)
    (RESULTS / "surgery.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
