"""What a smallest α × spread of fitted curves does: docs/log.md, results/real/gpu/bound.jsonl.

    python benchmarks/curve_bound.py stand-ins                                     gaps of calibrated stand-ins
    python benchmarks/curve_bound.py trained --bounds 0.3 1.0 --out OUT             losses of stand-ins after training
    python benchmarks/curve_bound.py recover --base BASE --text TEXT.npz --out OUT  short distillations of a real model

Bounds of α × spread are set for one fit at a time; TEXT.npz is what `real.py text` makes. One line a result is printed,
and kept in OUT/bound.jsonl.
"""

import argparse
import copy
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import real
from machine import SHARED
from unnorm.norms import curve

BOUNDS = (0.01, 0.1, 0.3, 0.6, 1.0, 1.5)
BASES = ("gpt2-4m", "neox-4m", "llama-3m")
STEPS, STEP_TOKENS, WARMUP = 60, 512, 0.15


@contextmanager
def bounded(least: float) -> Iterator[None]:
    """While open, fits keep α × spread at `least` or more, whether large tokens come to their site or not."""
    before = curve.LEAST, curve.LEAST_BESIDE_LARGE
    curve.LEAST = curve.LEAST_BESIDE_LARGE = least
    try:
        yield
    finally:
        curve.LEAST, curve.LEAST_BESIDE_LARGE = before


def stand_ins() -> None:
    """Gaps on Alpaca of stand-ins that were calibrated with each bound."""
    import unnorm
    from unnorm.data.mixture import Mixture
    from unnorm.data.settings import DataSettings
    from unnorm.surgery.base import load_base, load_tokenizer
    from unnorm.tuning.distance import distance

    settings = DataSettings(
        source=str(SHARED / "data" / "alpaca" / "alpaca_data.json"), name="alpaca", max_length=256, loss_on="all"
    )
    for name in BASES:
        path = str(SHARED / "bases" / name)
        base = load_base(path)
        text = Mixture([(settings, 1.0)], load_tokenizer(path))
        train, held_out = text.train(8192, 0), text.held_out(8192)
        fit = {key: train.collate(train.rows[:16])[key] for key in ("input_ids", "position_ids")}
        batches = [held_out.collate(held_out.rows[i : i + 8]) for i in range(0, len(held_out.rows), 8)]
        for alpha in ("scalar", "channel"):
            for least in BOUNDS:
                model = copy.deepcopy(base)
                with bounded(least):
                    unnorm.swap_(model, unnorm.DyT(alpha=alpha), calibrate_on=fit)
                print(f"{name}, one α a {alpha}, bound {least}: {distance(model, base, batches).gap:+.1%}", flush=True)


def trained(out: Path, bounds: list[float], tokens: int) -> None:
    """Held-out losses of calibrated stand-ins before and after fine-tuning on Alpaca, a ledger in `out` for each bound;
    what is done in it is not repeated."""
    from unnorm.study.run_study import run_study
    from unnorm.study.spec import parse_spec

    study = {
        "name": "curve-bound",
        "models": [str(SHARED / "bases" / name) for name in BASES],
        "datasets": [{"source": "alpaca", "path": str(SHARED / "data" / "alpaca" / "alpaca_data.json")}],
        "arms": ["dyt"],
        "strategies": ["frozen", "selective", "full"],
        "seeds": [0],
        "training": {
            "tokens": tokens,
            "max_length": 256,
            "batch_tokens": 1024,
            "learning_rate": {"frozen": 2e-3, "selective": 2e-3, "full": 5e-4},
        },
        "evaluation": {"every_tokens": tokens, "tokens": 15_000},
    }
    text = json.dumps(study)  # JSON is YAML
    for least in bounds:
        with bounded(least):
            view = run_study(parse_spec(text, "curve_bound.py"), text, out / f"{least:g}")
        for cell in view.cells:
            found = cell.result or {"start_eval_loss": float("nan"), "eval_loss": float("nan")}
            losses = f"{found['start_eval_loss']:.4f} -> {found['eval_loss']:.4f}"
            print(f"bound {least}, {cell.model}, {cell.strategy}: {losses}", flush=True)


def recoveries(base: str, text: Path, out: Path, bounds: list[float], outliers: float | None) -> None:
    """Distil from a start with each bound, in small steps at rates of 4e-4 and 5e-3."""
    from unnorm.tuning.recover import RecoveryRun, RecoveryText, distil_
    from unnorm.tuning.recover_settings import recover_settings

    bench = real.Bench(base, text, out, 1.0)
    tokens = STEPS * STEP_TOKENS
    settings = recover_settings(
        tokens=tokens, batch_tokens=STEP_TOKENS, learning_rate=4e-4, norm_learning_rate=5e-3, warmup=WARMUP
    )
    watched = bench.text.held_out("instructions", real.WATCHED_TOKENS)
    for least in bounds:
        with bounded(least):
            model, _ = bench.swapped(real.CHANNEL, outliers=outliers)
        rows = RecoveryText(
            bench.text.order(tokens), lambda rows: bench.text.batch("train", rows), real.LENGTH, watched
        )
        with tempfile.TemporaryDirectory() as folder:
            run = RecoveryRun(Path(folder), f"bound-{least}", evaluate_every=tokens)
            report = distil_(model, bench.original, rows, settings, run, seed=0)
        record: dict[str, Any] = {"bound": least, "outliers": outliers, "losses": report.losses}
        record |= {"gap_before": report.gap_before, "gap_after": report.gap_after, "kl_after": report.kl_after}
        print(json.dumps({key: value for key, value in record.items() if key != "losses"}), flush=True)
        with open(out / "bound.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["stand-ins", "trained", "recover"])
    parser.add_argument("--base")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--bounds", nargs="*", type=float, default=list(BOUNDS))
    parser.add_argument("--tokens", type=int, default=60_000, help="of `trained`: that each cell learns from")
    parser.add_argument("--outliers", type=float, help="share of largest tokens left out; default: large ones")
    a = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    if a.what == "stand-ins":
        stand_ins()
    elif a.what == "trained" and a.out:
        trained(a.out, a.bounds, a.tokens)
    elif a.what == "recover" and a.base and a.text and a.out:
        recoveries(a.base, a.text, a.out, a.bounds, a.outliers)
    else:
        parser.error("trained needs --out; recover needs --base, --text and --out")


if __name__ == "__main__":
    main()
