"""A study of four tiny cells, and its table without what depends on clock and machine."""

import csv
import json
from pathlib import Path

from unnorm.study.run_study import run_study
from unnorm.study.spec import parse_spec

TIMINGS = ("tokens_per_second", "wall_seconds", "threads", "load")


def study_text(base: str, data: str, **changes) -> str:
    content = {
        "name": "small",
        "models": [base],
        "datasets": [{"source": data, "template": "alpaca-short"}],
        "arms": ["original", "dyt"],
        "strategies": ["frozen", "full"],
        "training": {"tokens": 1000, "max_length": 64, "batch_tokens": 128, "precision": "fp32"},
        "evaluation": {"every_tokens": 256, "tokens": 300},
        **changes,
    }
    return json.dumps(content)  # JSON is YAML


def run_text(text: str, ledger: Path, **options):
    return run_study(parse_spec(text, "study"), text, ledger, quiet=True, **options)


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results.csv") as file:
        return [{k: v for k, v in row.items() if k not in TIMINGS} for row in csv.DictReader(file)]
