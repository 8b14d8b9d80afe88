"""After fine-tuning: does a swapped model end where the original ends? GSM8K, three strategies, rates chosen per arm.

    python benchmarks/surgery_study.py --base neox-4m|llama-3m [--tokens 500000] [--ledger studies]

For every arm and strategy three learning rates are tried on seed 0, the best by held-out loss is kept, and seeds 1 and
2 follow with it. Resumable: what is done in the ledger is not run again. `surgery_table.py` writes the table.
"""

import argparse
import itertools
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


def study(base: str, arms: list[str], strategy: str, rate: float, seeds: list[int], tokens: int) -> dict[str, Any]:
    return {
        "name": f"surgery-{base}-{strategy}-{rate:g}-{len(arms)}-{seeds[0]}",
        "models": [str(SHARED / "bases" / base)],
        "datasets": [{"source": "gsm8k", "path": str(SHARED / "data" / "gsm8k" / "train_alpaca_format.json")}],
        "arms": arms,
        "strategies": [strategy],
        "seeds": seeds,
        "training": {"tokens": tokens, "max_length": 256, "batch_tokens": 4096, "learning_rate": rate},
        "evaluation": {"every_tokens": 10 * tokens, "tokens": 40_000},
    }


def run(content: dict[str, Any], ledger: Path) -> list[CellView]:
    text = yaml.safe_dump(content)
    return run_study(parse_spec(text, content["name"]), text, ledger, say=print).cells


def search(base: str, tokens: int, ledger: Path) -> dict[Key, tuple[float, list[tuple[float, float]]]]:
    """(arm, strategy) -> the best rate, and every rate with its held-out loss on the search seed."""
    tried: dict[Key, list[tuple[float, float]]] = {}
    for turn, strategy in itertools.product((1, 0, 2), STRATEGIES):  # the middle rate first
        rate = RATES[strategy][turn]
        for cell in run(study(base, ARMS[base], strategy, rate, [SEARCH_SEED], tokens), ledger):
            loss = cell.result["eval_loss"] if cell.result else float("inf")
            tried.setdefault((cell.arm, strategy), []).append((rate, loss))
    return {key: (min(losses, key=lambda pair: pair[1])[0], losses) for key, losses in tried.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", choices=ARMS, required=True)
    parser.add_argument("--tokens", type=int, default=500_000)
    parser.add_argument("--ledger", type=Path, default=Path("studies"))
    arguments = parser.parse_args()
    best = search(arguments.base, arguments.tokens, arguments.ledger)
    for strategy in STRATEGIES:
        for rate in RATES[strategy]:
            arms = [arm for arm in ARMS[arguments.base] if best[arm, strategy][0] == rate]
            if arms:
                run(study(arguments.base, arms, strategy, rate, list(OTHER_SEEDS), arguments.tokens), arguments.ledger)


if __name__ == "__main__":
    main()
