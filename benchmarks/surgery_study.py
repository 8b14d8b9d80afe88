"""After fine-tuning: does a swapped model end where the original ends? GSM8K, three strategies, rates chosen per arm.

    python benchmarks/surgery_study.py --base neox-4m|llama-3m [--tokens 500000] [--ledger studies]

For every arm and strategy three learning rates are tried on seed 0, the best by held-out loss is kept, and seeds 1 and
2 follow with it. Resumable: what is done in the ledger is not run again. `surgery_table.py` writes the table.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from machine import SHARED
from unnorm.study.runner import run_study
from unnorm.study.spec import parse_spec
from unnorm.study.view import CellView

ARMS = {
    "neox-4m": ["original", "dyt-corrected", "derf-corrected", "fixedscale-corrected"],
    "llama-3m": ["original", "dyt-corrected"],
}
STRATEGIES = ("frozen", "selective", "full")
RATES = {"frozen": (1e-3, 3e-3, 9e-3), "selective": (1e-3, 3e-3, 9e-3), "full": (1.5e-4, 4.5e-4, 1.35e-3)}
SEARCH_SEED, OTHER_SEEDS = 0, (1, 2)
Key = tuple[str, str]
"""Arm and strategy."""


def study(base: str, name: str, seeds: Sequence[int], tokens: int, rates: Mapping[Key, float]) -> dict[str, Any]:
    """Every arm and strategy of `base`, each at its rate."""
    return {
        "name": f"surgery-{base}-{name}",
        "models": [str(SHARED / "bases" / base)],
        "datasets": [{"source": "gsm8k", "path": str(SHARED / "data" / "gsm8k" / "train_alpaca_format.json")}],
        "arms": ARMS[base],
        "strategies": list(STRATEGIES),
        "seeds": list(seeds),
        # Without LoRA's dropout: no token is seen twice, and drawing it takes a quarter of a step's time on a CPU.
        "training": {"tokens": tokens, "max_length": 256, "batch_tokens": 4096, "lora": {"dropout": 0}},
        "evaluation": {"every_tokens": 10 * tokens, "tokens": 40_000},
        "overrides": [
            {"where": {"arm": arm, "strategy": strategy}, "set": {"training": {"learning_rate": rate}}}
            for (arm, strategy), rate in rates.items()
        ],
    }


def run(content: dict[str, Any], ledger: Path) -> list[CellView]:
    text = yaml.safe_dump(content)
    return run_study(parse_spec(text, content["name"]), text, ledger, say=print).cells


def search(base: str, tokens: int, ledger: Path, turns: Sequence[int]) -> dict[Key, float]:
    """The best of the rates at `turns`, for every arm and strategy, by held-out loss on the search seed."""
    tried: dict[Key, dict[float, float]] = {}
    for turn in turns:
        rates = {(arm, strategy): RATES[strategy][turn] for arm in ARMS[base] for strategy in STRATEGIES}
        for cell in run(study(base, f"rate-{turn}", [SEARCH_SEED], tokens, rates), ledger):
            key = cell.arm, cell.strategy
            tried.setdefault(key, {})[rates[key]] = cell.result["eval_loss"] if cell.result else float("inf")
    return {key: min(losses, key=lambda rate: losses[rate]) for key, losses in tried.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", choices=ARMS, required=True)
    parser.add_argument("--tokens", type=int, default=500_000)
    parser.add_argument("--ledger", type=Path, default=Path("studies"))
    arguments = parser.parse_args()
    base, tokens, ledger = arguments.base, arguments.tokens, arguments.ledger
    # The lowest rate, the least likely to be the best, comes last: other seeds need not wait for it. Where it is the
    # best after all, they follow with it.
    for turns in ((1, 2), (1, 2, 0)):
        run(study(base, "chosen", OTHER_SEEDS, tokens, search(base, tokens, ledger, turns)), ledger)


if __name__ == "__main__":
    main()
