"""Tokens per second of fine-tuning and of recovery: with packed rows' attention text by text, as it is always; with
masks over whole rows; and with compiled blocks, which take masks. results/recovery.md has its tables.

    python benchmarks/recovery.py --base BASE [--data FILE ...] [--rounds 3] [--steps 8] [--rows 2] [--length 256]

The norms of BASE become Dynamic Tanh, one α a channel. Each kind of training runs turn by turn in one process, on the
same rows; what is compared are ratios of the medians over all timed steps, since the machine is shared. The first
step's time is given by itself: the compiler's time is in it.
"""

import argparse
import copy
import statistics
import tempfile
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args
from unittest.mock import patch

import torch

from machine import SHARED, machine_line
from training import WARM_UP, StepClock
from unnorm import DyT, swap_
from unnorm.data.mixture import Mixture
from unnorm.data.packing import token_count
from unnorm.data.prepare import Rows
from unnorm.data.settings import DataSettings
from unnorm.foundation.precision import choose, default_device
from unnorm.surgery.base import load_base, load_tokenizer
from unnorm.tuning.learners import what_learns
from unnorm.tuning.objectives import CrossEntropy, Distillation
from unnorm.tuning.pair import norm_paths, record_beside
from unnorm.tuning.recover_settings import RecoverSettings
from unnorm.tuning.site_monitor import SiteMonitor, active_norms
from unnorm.tuning.trainer import TokenTrainer

How = Literal["text by text", "masks", "compiled"]
ALPACA = SHARED / "data" / "alpaca" / "alpaca_data.json"
KINDS: dict[str, tuple[str, Literal["all", "lora"]]] = {
    "fine-tuning, LoRA": ("loss", "lora"),
    "fine-tuning, all weights": ("loss", "all"),
    "recovery, LoRA": ("KL", "lora"),
    "recovery, all weights": ("KL", "all"),
}


def turn(base: Any, rows: Rows, kind: str, how: How, rows_per_step: int) -> tuple[float, list[float], int]:
    """Seconds of the first step, of each after the warm-up, and the device's peak memory in bytes (0 on a CPU)."""
    minimized, train = KINDS[kind]
    original, model = base, copy.deepcopy(base)
    swap_(model, DyT(alpha="channel"), calibrate_on=rows.collate(rows.rows[:2])["input_ids"])
    record = record_beside(model, original)
    settings = RecoverSettings(train=train, compile=how == "compiled")
    learner, _ = what_learns(model, record, settings, seed=0)
    paths = norm_paths(model, record)
    training = settings.training(rows.max_length)
    objective = CrossEntropy(learner) if minimized == "loss" else Distillation(learner, original, training.precision)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        trainer = TokenTrainer(
            learner,
            training,
            rows=rows.rows,
            collate=rows.collate,
            rows_per_step=rows_per_step,
            rows_per_forward=rows_per_step,
            run="benchmark",
            folder=Path(folder),
            seed=0,
            monitor=SiteMonitor(learner, paths),
            norms=active_norms(learner, paths),
            objective=objective,
            evaluate=lambda step: {"loss": 0.0, "token_accuracy": 0.0},
            evaluate_every=10**9,
            checkpoint_every=10**9,
            quiet=True,
        )
        original.to(trainer.args.device)
        clock = StepClock()
        trainer.add_callback(clock)
        started = time.perf_counter()
        whole_rows = patch("unnorm.tuning.trainer.packed_attention", lambda *models: nullcontext())
        with whole_rows if how == "masks" else nullcontext():
            trainer.fit()
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return clock.ends[0] - started, clock.seconds(), peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default=str(SHARED / "bases" / "llama-3m"))
    parser.add_argument("--data", action="append", type=Path, help="again for more, in equal parts; default: Alpaca")
    parser.add_argument("--kind", action="append", choices=KINDS, help="again for more; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help=f"steps a turn, of which the first {WARM_UP} warm up")
    parser.add_argument("--rows", type=int, default=2, help="rows a step")
    parser.add_argument("--length", type=int, default=256, help="tokens a row")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="file for the table, too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokenizer = load_tokenizer(arguments.base)
    base = load_base(arguments.base)
    read: dict[str, Any] = {"max_length": arguments.length, "loss_on": "all", "too_long": "split"}
    texts = [(DataSettings(source=str(path), **read), 1.0) for path in arguments.data or [ALPACA]]
    kinds = arguments.kind or list(KINDS)
    count = arguments.rows * arguments.steps
    taken = Mixture(texts, tokenizer, quiet=True).train(int(count * arguments.length * 1.1), seed=0)
    rows = replace(taken, rows=taken.rows[:count])
    found: dict[tuple[str, How], tuple[list[float], list[float], int]] = {}
    for number in range(arguments.rounds):
        for kind in kinds:
            for how in get_args(How):
                first, steps, peak = turn(base, rows, kind, how, arguments.rows)
                before = found.get((kind, how), ([], [], 0))
                found[kind, how] = ([*before[0], first], before[1] + steps, max(peak, before[2]))
                print(
                    f"round {number + 1} {kind}, {how}: {statistics.median(steps):.3f} s a step, first {first:.1f}",
                    flush=True,
                )
    a_step = token_count(rows.rows) / arguments.steps
    lengths = [len(item.ids) for row in rows.rows for item in row]
    lines = [
        "# The speed of training and of recovery",
        "",
        f"`{Path(arguments.base).name}` with Dynamic Tanh, {', '.join(Path(each.source).stem for each, _ in texts)}:",
        f"{arguments.rows} row(s) of {arguments.length} a step, {a_step:,.0f} tokens in texts of",
        f"{statistics.mean(lengths):.0f} on average; {choose('auto').name}, {default_device()},",
        f"{arguments.threads} threads; {arguments.rounds} round(s), turn by turn in one process. {machine_line()}.",
        "",
        "| what | tokens/s with masks | text by text | faster by | compiled (masks) | faster by "
        "| first step: masks, compiled | peak memory, GB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in kinds:
        one, masks, compiled = (found[kind, how] for how in get_args(How))
        a, b, c = (statistics.median(each[1]) for each in (one, masks, compiled))
        peaks = ", ".join(f"{each[2] / 1e9:.1f}" for each in (masks, one, compiled)) if one[2] else "not measured"
        lines.append(
            f"| {kind} | {a_step / b:,.0f} | {a_step / a:,.0f} | {b / a:.2f} × | {a_step / c:,.0f} | {b / c:.2f} × "
            f"| {max(masks[0]):.1f} s, {max(compiled[0]):.1f} s | {peaks} |"
        )
    lines += [
        "",
        "The compiler keeps what it made, so that only the first line's compiled first step has its time in full.",
        "",
        "Made by `python benchmarks/recovery.py --base BASE`.",
        "",
    ]
    if arguments.out is not None:
        arguments.out.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
