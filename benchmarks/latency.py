"""What the latency harness can tell on this machine, and what DyT costs on the stand-in bases.

    python benchmarks/latency.py [--budget 60] [--repeats 20]

Writes results/latency.md: the noise floor (a model against itself), LayerNorm or RMSNorm against DyT with the bound
without norms, and how often 3 % more work (103 layers against 100) is told apart, and equal work is not.
"""

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import unnorm
from machine import SHARED, machine_line
from unnorm.evaluation.latency import LatencyReport, Workload, compare_latency
from unnorm.evaluation.latency.harness import AGAIN
from unnorm.surgery.base import load_base

OUT = Path(__file__).parent / "results" / "latency.md"
GRID = [
    Workload(kind="prefill", batch_size=1, length=128),
    Workload(kind="prefill", batch_size=8, length=128),
    Workload(kind="decode", batch_size=1, length=64, new_tokens=16),
    Workload(kind="decode", batch_size=8, length=64, new_tokens=16),
    Workload(kind="train", batch_size=8, length=128),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds a base and workload")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--repeat-budget", type=float, default=60.0)
    arguments = parser.parse_args()
    lines = ["# Latency", "", machine_line(), "", "Times as ratios to the base as it is, 95 % intervals.", ""]
    lines += ["| base | workload | against it | time | noise floor | verdict | of the norms' cost | blocks | seconds |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for name in ("neox-4m", "gpt2-4m", "llama-3m"):
        base = load_base(str(SHARED / "bases" / name))
        swapped = copy.deepcopy(base)
        unnorm.swap_(swapped, unnorm.DyT(), calibrate_on=torch.randint(1000, (8, 128)))
        for workload in GRID:
            report = compare_latency({"base": base, "dyt": swapped}, workload, budget_seconds=arguments.budget)
            lines += [row(name, report, c) for c in report.comparisons]
            print("\n".join(lines[-len(report.comparisons) :]), flush=True)
    lines += ["", *told_apart(arguments.repeats, arguments.repeat_budget), ""]
    OUT.write_text("\n".join(lines))


def row(base: str, report: LatencyReport, c: Any) -> str:
    share = "" if c.share_of_norms is None else f"{c.share_of_norms:.0%}"
    time = f"{c.ratio.value - 1:+.2%} ({c.ratio.low - 1:+.2%} to {c.ratio.high - 1:+.2%})"
    cells = [base, c.workload.name, c.model, time, f"± {c.floor.bound:.2%}", c.verdict, share, c.ratio.blocks]
    return f"| {' | '.join(map(str, cells))} | {report.seconds:.0f} |"


def layered(layers: int) -> Any:
    config = AutoConfig.for_model(
        "llama",
        hidden_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=256,
        vocab_size=32,
        max_position_embeddings=256,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def told_apart(repeats: int, budget: float) -> list[str]:
    """how often 103 layers are called slower than 100, and how often 100 are called different."""
    base, more = layered(100), layered(103)
    workload = Workload(kind="prefill", batch_size=1, length=64)
    verdicts: dict[str, list[str]] = {"more": [], "equal": []}
    ratios: dict[str, list[float]] = {"more": [], "equal": []}
    for seed in range(repeats):
        for which, other in (("more", more), ("equal", copy.deepcopy(base))):
            report = compare_latency(
                {"base": base, which: other}, workload, budget_seconds=budget, bound=False, seed=seed, quiet=True
            )
            found = next(c for c in report.comparisons if c.model not in (AGAIN,))
            verdicts[which].append(found.verdict)
            ratios[which].append(found.ratio.value)
    slower = verdicts["more"].count("slower")
    different = repeats - verdicts["equal"].count("no difference shown")
    middle = sorted(ratios["more"])[repeats // 2]
    return [
        f"103 layers against 100, {budget:.0f} s each: called slower {slower} of {repeats} times "
        f"(median {middle - 1:+.2%}); two equal models: called different {different} of {repeats} times.",
    ]


if __name__ == "__main__":
    main()
