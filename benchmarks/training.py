"""Useful (non-padding) tokens per second in training: results/training.md.

    python benchmarks/training.py [--rounds 5] [--steps 8] [--threads N]

Three loops train the same base with the same LoRA on the same Alpaca conversations, in one process, turn by turn:
unnorm's; a plain `Trainer` that pads every conversation to `max_length`; and TRL's `SFTTrainer` with packing, where
TRL is installed. What is compared are ratios of the medians over all timed steps, since the machine is shared.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from machine import SHARED, machine_line
from unnorm.data.encode import Encoded
from unnorm.data.packing import collate_padded, pack, token_count
from unnorm.data.prepare import Rows, Share, Source
from unnorm.data.settings import DataSettings
from unnorm.foundation.precision import choose
from unnorm.surgery.base import load_base, load_tokenizer
from unnorm.surgery.sites import find_sites
from unnorm.tuning.settings import LoraSettings, TrainingSettings
from unnorm.tuning.site_monitor import SiteMonitor
from unnorm.tuning.strategies import apply_strategy
from unnorm.tuning.trainer import TokenTrainer

LENGTH = 256
ROWS_A_STEP = 16
BASE = str(SHARED / "bases" / "neox-4m")
WARM_UP = 2


class StepClock(TrainerCallback):
    """Seconds from the end of one step to the end of the next, so that loading data counts."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())

    def seconds(self) -> list[float]:
        return [b - a for a, b in zip(self.ends[WARM_UP - 1 :], self.ends[WARM_UP:], strict=False)]


def lora_model() -> Any:
    model = load_base(BASE)
    paths = [site.path for site in find_sites(model)]
    return apply_strategy(model, "frozen", site_paths=paths, lora=LoraSettings(), seed=0)[0]


def plain_arguments(folder: str, steps: int) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "per_device_train_batch_size": ROWS_A_STEP,
        "max_steps": steps,
        "learning_rate": 3e-3,
        "bf16": choose("auto").name == "bf16",
        "use_cpu": not torch.accelerator.is_available(),
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 1,
    }


def run_unnorm(encoded: list[Encoded], steps: int, pad_id: int) -> tuple[float, list[float]]:
    tokens = sum(len(row.ids) for row in encoded)
    share = Share(tokens, tokens, len(encoded), len(encoded), whole=True)
    rows = Rows(pack(encoded, LENGTH).rows[: steps * ROWS_A_STEP], LENGTH, pad_id, packed=True, share=share)
    model = lora_model()
    with tempfile.TemporaryDirectory() as folder:
        trainer = TokenTrainer(
            model,
            TrainingSettings(),
            rows=rows.rows,
            collate=rows.collate,
            rows_per_step=ROWS_A_STEP,
            rows_per_forward=ROWS_A_STEP,
            run="benchmark",
            folder=Path(folder),
            seed=0,
            monitor=SiteMonitor(model, []),
            evaluate=lambda step: {},
            evaluate_every=10**9,
            checkpoint_every=10**9,
            quiet=True,
        )
        clock = StepClock()
        trainer.add_callback(clock)
        trainer.fit()
    return token_count(rows.rows) / steps, clock.seconds()


def run_padded(encoded: list[Encoded], steps: int, pad_id: int) -> tuple[float, list[float]]:
    rows = [[item] for item in encoded[: steps * ROWS_A_STEP]]

    def collate(taken: list[list[Encoded]]) -> dict[str, torch.Tensor]:
        batch = collate_padded(taken, pad_id)
        short = LENGTH - batch["input_ids"].shape[1]
        fill = {"input_ids": pad_id, "labels": -100, "attention_mask": 0}
        return {name: torch.nn.functional.pad(batch[name], (0, short), value=value) for name, value in fill.items()}

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(**plain_arguments(folder, steps), remove_unused_columns=False)
        clock = StepClock()
        Trainer(lora_model(), arguments, train_dataset=rows, data_collator=collate, callbacks=[clock]).train()
    return token_count(rows) / steps, clock.seconds()


def run_trl(encoded: list[Encoded], steps: int, pad_id: int, strategy: str) -> tuple[float, list[float]]:
    import datasets
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    taken = [item for row in pack(encoded, LENGTH).rows[: steps * ROWS_A_STEP] for item in row]
    table = {
        "input_ids": [item.ids.tolist() for item in taken],
        "completion_mask": [(item.labels != -100).astype(int).tolist() for item in taken],
    }
    seen: list[int] = []

    class Counting(SFTTrainer):
        def compute_loss(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            seen.append(int(inputs["input_ids"].numel()))
            return super().compute_loss(model, inputs, *rest, **more)

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {
            "packing": True,
            "packing_strategy": strategy,
            "max_length": LENGTH,
            "completion_only_loss": True,
            "dataset_num_proc": None,
        }
        # TRL turns activation checkpointing on by default; off here, as in the other two, or it would pay for it alone.
        arguments = SFTConfig(**plain_arguments(folder, steps), **options, gradient_checkpointing=False)
        clock = StepClock()
        trainer = Counting(
            lora_model(),
            arguments,
            train_dataset=datasets.Dataset.from_dict(table),
            processing_class=load_tokenizer(BASE),
            callbacks=[clock],
        )
        trainer.train()
    return sum(seen) / len(seen), clock.seconds()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help=f"steps a turn, of which the first {WARM_UP} warm up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "training.md")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    loops: dict[str, Callable[..., tuple[float, list[float]]]] = {"unnorm": run_unnorm, "padded": run_padded}
    try:
        import trl

        for strategy in ("bfd", "wrapped"):
            loops[f"TRL {trl.__version__}, packing `{strategy}`"] = partial(run_trl, strategy=strategy)
    except ImportError:
        print("TRL is not installed; pip install -c constraints.txt -e '.[bench]' brings it")
    tokenizer = load_tokenizer(BASE)
    settings = DataSettings(source="alpaca", path=str(SHARED / "data" / "alpaca" / "alpaca_data.json"))
    source = Source(settings, tokenizer, quiet=True)
    wanted = int(arguments.steps * ROWS_A_STEP * LENGTH * 1.2)
    encoded = [item for row in source.train(wanted, seed=0, packed=False).rows for item in row]
    tokens: dict[str, float] = {}
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(arguments.rounds):
        for name, loop in loops.items():
            tokens[name], measured = loop(encoded, arguments.steps, tokenizer.eos_token_id)
            seconds[name] += measured
            print(f"round {number + 1} {name}: {tokens[name] / statistics.median(measured):,.0f} tokens/s")
    text = report(tokens, seconds, arguments.rounds, arguments.threads)
    arguments.out.write_text(text)
    print(text)


def report(tokens: dict[str, float], seconds: dict[str, list[float]], rounds: int, threads: int) -> str:
    """The table, as Markdown."""
    rate = {name: tokens[name] / statistics.median(seconds[name]) for name in tokens}
    positions = ROWS_A_STEP * LENGTH
    allowed = tokens["unnorm"] / tokens["padded"]
    gained = rate["unnorm"] / rate["padded"]
    lines = [
        "# Training speed",
        "",
        f"`neox-4m` (a stand-in), LoRA r = 8 on every linear layer, Alpaca, {ROWS_A_STEP} rows of {LENGTH} a step,",
        f"{choose('auto').name}, {threads} threads; {rounds} rounds, turn by turn in one process. {machine_line()}.",
        "",
        "| loop | useful tokens a step | share of positions | useful tokens/s | against it, unnorm is |",
        "|---|---|---|---|---|",
    ]
    for name in tokens:
        ratio = "" if name == "unnorm" else f"{rate['unnorm'] / rate[name]:.2f} × as fast"
        lines.append(f"| {name} | {tokens[name]:,.0f} | {tokens[name] / positions:.1%} | {rate[name]:,.0f} | {ratio} |")
    lines += [
        "",
        f"Padding share allows {allowed:.2f} ×; unnorm gains {gained:.2f} ×, which is {gained / allowed:.0%} of it.",
        "",
        "TRL's `bfd` flattens a step into one row, which needs FlashAttention to be fast and on a CPU attends over all",
        "of it; its `wrapped` fills rows of the same length as unnorm's, but cuts conversations and lets them see each",
        "other.",
        "",
        "Made by `python benchmarks/training.py`.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
