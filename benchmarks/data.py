"""All of the real Alpaca file, from the file to packed batches: results/data.md.

    python benchmarks/data.py [--rounds 3]

Without and with the tokenizer's own threads by turns, since the machine is shared; nothing comes from a cache. What is
timed is everything before a model: reading, templates, token ids, packing, and making the batches.
"""

import argparse
import os
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from machine import SHARED, machine_line
from unnorm.data.encode import encode
from unnorm.data.packing import collate_packed, pack, token_count
from unnorm.data.settings import DataSettings
from unnorm.data.sources import counts_in_words, read
from unnorm.surgery.base import load_tokenizer

LENGTH = 512
ROWS_A_BATCH = 16
FILE = str(SHARED / "data" / "alpaca" / "alpaca_data.json")


class Turn(NamedTuple):
    """Seconds of each stage, and what came out."""

    read: float
    encode: float
    pack: float
    batches: float
    processor: float
    facts: dict[str, Any]

    @property
    def seconds(self) -> float:
        return self.read + self.encode + self.pack + self.batches


def processor_seconds() -> float:
    """Of this process and of its children that have ended: what the machine's other work does not lengthen."""
    return sum(os.times()[:4])


def turn(tokenizer: Any, *, threads: bool) -> Turn:
    os.environ["TOKENIZERS_PARALLELISM"] = str(threads).lower()
    used = processor_seconds()
    clock = [time.perf_counter()]
    reading = read(DataSettings(source="alpaca", path=FILE), quiet=True)
    clock.append(time.perf_counter())
    encoding = encode(reading.conversations, tokenizer, template="alpaca", max_length=LENGTH, quiet=True)
    clock.append(time.perf_counter())
    packing = pack(encoding.rows, LENGTH)
    clock.append(time.perf_counter())
    for first in range(0, len(packing.rows), ROWS_A_BATCH):
        collate_packed(packing.rows[first : first + ROWS_A_BATCH], LENGTH, tokenizer.eos_token_id)
    clock.append(time.perf_counter())
    facts = {
        "rows read": f"{reading.rows:,}",
        "dropped": counts_in_words(reading.dropped + encoding.dropped),
        "tokens": f"{token_count(packing.rows):,}",
        f"rows of {LENGTH}": f"{len(packing.rows):,}",
        "packing efficiency": f"{packing.efficiency:.2%}",
    }
    reads, encodes, packs, batches = (b - a for a, b in pairwise(clock))
    return Turn(reads, encodes, packs, batches, processor_seconds() - used, facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "data.md")
    arguments = parser.parse_args()
    tokenizer = load_tokenizer(str(SHARED / "bases" / "neox-4m"))
    turns: dict[bool, list[Turn]] = {False: [], True: []}
    for number in range(arguments.rounds):
        for threads, done in turns.items():
            done.append(turn(tokenizer, threads=threads))
            print(f"round {number + 1}, {'threads' if threads else 'one thread'}: {done[-1].seconds:.1f} s")
    text = report(turns)
    arguments.out.write_text(text)
    print(text)


def report(turns: dict[bool, list[Turn]]) -> str:
    """The table, as Markdown."""
    lines = [
        "# From file to packed batches",
        "",
        f"All of Alpaca, template `alpaca`, rows of {LENGTH}, the tokenizer of `neox-4m` (a stand-in, 4,096 tokens).",
        f"Median seconds of {len(next(iter(turns.values())))} turns each, in brackets the slowest. {machine_line()}.",
        "",
        "| tokenizer's threads | read | encode | pack | make batches | all | processor seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    columns = ("read", "encode", "pack", "batches", "seconds", "processor")
    for threads, done in turns.items():
        stages = [[getattr(one, name) for one in done] for name in columns]
        cells = " | ".join(f"{statistics.median(stage):.1f} ({max(stage):.1f})" for stage in stages)
        lines.append(f"| {'one a core' if threads else 'one'} | {cells} |")
    facts = next(iter(turns.values()))[0].facts
    lines += ["", *(f"- {name}: {value}" for name, value in facts.items())]
    lines += ["", f"Load average {os.getloadavg()[1]:.1f}. Made by `python benchmarks/data.py`.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
